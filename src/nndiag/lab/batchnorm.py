"""What do batch-norm layers remember, and what do the data say?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nndiag.core.errors import NndiagError
from nndiag.lab.borrow import seeded
from nndiag.lab.forward import call
from nndiag.lab.objective import loss_of
from nndiag.lab.sites import locate, set_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nndiag.core.findings import Where
    from nndiag.core.subject import Batch
    from nndiag.lab.objective import Objective

FLOOR = 1e-12


@dataclass(frozen=True)
class Remembered:
    """One batch-norm layer: what it remembers, and the exact statistics of what it is fed; all (channels,)."""

    name: str
    where: Where
    running_mean: Tensor
    running_var: Tensor
    mean: Tensor
    var: Tensor
    eps: float
    momentum: float | None
    updates: int | None  # num_batches_tracked
    per_batch: int  # smallest number of values per channel in one batch
    fresh: bool  # its bias is still one value for all channels

    @property
    def shift(self) -> Tensor:
        """|mean - running mean| in remembered standard deviations."""
        return (self.mean - self.running_mean).abs() / (self.running_var + self.eps).sqrt()

    @property
    def kl(self) -> Tensor:
        """KL(data || remembered) of two Gaussians, nats: ½[ln(rv/v) + (v + (m-rm)²)/rv - 1]."""
        v, rv = self.var + self.eps, self.running_var + self.eps
        return 0.5 * ((rv / v).log() + (v + (self.mean - self.running_mean) ** 2) / rv - 1)

    @property
    def start_left(self) -> float:
        """Share of the starting values (0, 1) that is left in the running statistics."""
        if self.updates is None or self.momentum is None:
            return 1.0 if self.updates == 0 else 0.0
        return float((1 - self.momentum) ** self.updates)

    @property
    def as_built(self) -> bool:
        """Whether the running statistics are still exactly 0 and 1."""
        return bool((self.running_mean == 0).all() and (self.running_var == 1).all())


def layers(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Return the batch-norm layers that keep running statistics."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    ]


def remembered(model: nn.Module, batches: Iterable[Batch], *, seed: int = 0) -> list[Remembered]:
    """Return, for every batch-norm layer in call order, what it remembers and what the data say.

    The data pass in training mode, so that every layer sees what it saw in training: inputs normalised by batch.

    Args:
        model: A private copy; its running statistics are changed.
        batches: More than one row each.
        seed: Of dropout.
    """
    kept = {
        name: (module.running_mean.clone(), module.running_var.clone(), _count(module))
        for name, module in layers(model)
        if module.running_mean is not None and module.running_var is not None
    }
    sums: dict[str, list[Any]] = {}
    handles = [module.register_forward_pre_hook(_watch(name, sums)) for name, module in layers(model)]
    try:
        set_mode(model, training=True)
        with seeded(seed), torch.no_grad():
            for batch in batches:
                call(model, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(layers(model))
    return [_compared(name, modules[name], kept[name], sums[name]) for name in sums]


def _count(module: _BatchNorm) -> int | None:
    return int(module.num_batches_tracked) if module.num_batches_tracked is not None else None


def _watch(name: str, sums: dict[str, list[Any]]) -> Callable[..., None]:
    """Add up count, mean and squares by Chan's update."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach().double()
        flat = x.transpose(0, 1).reshape(x.shape[1], -1) if x.dim() > 1 else x.reshape(1, -1)
        n, mean = flat.shape[1], flat.mean(dim=1)
        square = ((flat - mean[:, None]) ** 2).sum(dim=1)
        if name not in sums:
            sums[name] = [n, mean, square, n]
            return
        old = sums[name]
        gap, total = mean - old[1], old[0] + n
        old[2] = old[2] + square + gap**2 * (old[0] * n / total)
        old[1] = old[1] + gap * (n / total)
        old[0], old[3] = total, min(old[3], n)

    return hook


def _compared(name: str, module: _BatchNorm, kept: tuple[Tensor, Tensor, int | None], seen: list[Any]) -> Remembered:
    bias = module.bias  # initialisers leave it at one value, also those that scatter the weight (DCGAN)
    fresh = bias is None or bool((bias == bias[0]).all())
    return Remembered(
        name,
        locate(module, name),
        kept[0].double(),
        kept[1].double(),
        seen[1],
        seen[2] / max(seen[0], 1),
        module.eps,
        module.momentum,
        kept[2],
        seen[3],
        fresh,
    )


class _SeenError(Exception):
    """Ends a forward at the layer that was of interest."""


def first_fit(model: nn.Module, batch: Batch, change: Callable[[Batch], Batch]) -> tuple[str, float] | None:
    """Return name and mean KL of the first batch norm in eval mode when the batch is changed; None without one."""
    caught: list[tuple[str, float]] = []
    handles = []

    def watch(name: str, module: _BatchNorm) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach().double()
            flat = x.transpose(0, 1).reshape(x.shape[1], -1)
            assert module.running_mean is not None
            assert module.running_var is not None
            rm, rv = module.running_mean.double(), module.running_var.double() + module.eps
            mean, var = flat.mean(dim=1), flat.var(dim=1, unbiased=False) + module.eps
            kl = 0.5 * ((rv / var).log() + (var + (mean - rm) ** 2) / rv - 1)
            caught.append((name, float(kl.median())))
            raise _SeenError

        return hook

    for name, module in layers(model):
        handles.append(module.register_forward_pre_hook(watch(name, module)))
    try:
        model.eval()
        with torch.no_grad(), contextlib.suppress(_SeenError, NndiagError):
            call(model, change(batch).inputs)
    finally:
        for handle in handles:
            handle.remove()
    return caught[0] if caught else None


@dataclass(frozen=True)
class ModeLosses:
    """The loss with remembered statistics and with those of each batch."""

    evaluation: float
    training: float


def mode_losses(model: nn.Module, batches: Sequence[Batch], objective: Objective, *, seed: int = 0) -> ModeLosses:
    """Return the mean loss in eval mode, and with only the batch norms switched to batch statistics."""
    found = []
    for by_batch in (False, True):
        model.eval()
        with _momentum_zero(model):
            for _, module in layers(model):
                module.training = by_batch
            with seeded(seed), torch.no_grad():
                found.append([float(loss_of(model, batch, objective)[0]) for batch in batches])
    return ModeLosses(*(sum(part) / max(len(part), 1) for part in found))


@contextlib.contextmanager
def _momentum_zero(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics while batch statistics are used."""
    kept = [(module, module.momentum) for _, module in layers(model)]
    for module, _ in kept:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in kept:
            module.momentum = momentum
