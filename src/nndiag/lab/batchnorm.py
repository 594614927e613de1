"""What do batch-norm layers remember, and what do the data say?"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nndiag.core.errors import NndiagError
from nndiag.lab.borrow import seeded
from nndiag.lab.forward import call
from nndiag.lab.objective import loss_of
from nndiag.lab.watch.sites import locate, set_mode
from nndiag.science.moving_average import start_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nndiag.core.findings import Where
    from nndiag.core.subject import Batch
    from nndiag.lab.objective import Objective

ONE = 0.8  # of a first step at least is what one update leaves
GROUPS = 4  # of rows in a batch, whose differences tell how sure the statistics are


@dataclass(frozen=True)
class Part:
    """Some rows of what a layer is fed: values per channel, their mean and their sum of squares about it."""

    count: int
    mean: Tensor
    square: Tensor


def parts_of(values: Tensor) -> list[Part]:
    """Return the moments of up to four groups of rows, (N, channels, …) or (channels,)."""
    x = values.detach().double()
    rows = x if x.dim() > 1 else x[None]
    found = []
    for group in rows.tensor_split(min(GROUPS, len(rows))):
        flat = group.transpose(0, 1).reshape(group.shape[1], -1)
        mean = flat.mean(dim=1)
        found.append(Part(flat.shape[1], mean, ((flat - mean[:, None]) ** 2).sum(dim=1)))
    return found


def joined(parts: Sequence[Part]) -> Part:
    """Join groups (Chan, Golub & LeVeque 1983, eq. 2.1)."""
    whole = parts[0]
    for part in parts[1:]:
        gap, total = part.mean - whole.mean, whole.count + part.count
        square = whole.square + part.square + gap**2 * (whole.count * part.count / total)
        whole = Part(total, whole.mean + gap * (part.count / total), square)
    return whole


def gaussian_kl(mean: Tensor, var: Tensor, other_mean: Tensor, other_var: Tensor) -> Tensor:
    """KL of two Gaussians, nats: ½[ln(rv/v) + (v + (m - rm)²)/rv - 1]."""
    return 0.5 * ((other_var / var).log() + (var + (mean - other_mean) ** 2) / other_var - 1)


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
    updates: int | None  # num_batches_tracked; None where nobody counted
    per_batch: int  # smallest number of values per channel in one batch
    fresh: bool  # its bias is still one value for all channels
    parts: tuple[Part, ...] = ()  # the groups of rows behind mean and var

    @property
    def shift(self) -> Tensor:
        """|mean - running mean| in remembered standard deviations."""
        return (self.mean - self.running_mean).abs() / (self.running_var + self.eps).sqrt()

    @property
    def kl(self) -> Tensor:
        """KL(data || remembered) per channel, nats."""
        return gaussian_kl(self.mean, self.var + self.eps, self.running_mean, self.running_var + self.eps)

    def without_each(self, summary: Callable[[Tensor], Tensor]) -> list[float]:
        """A summary of the KL with each group of rows left out, to tell how sure it is."""
        rv = self.running_var + self.eps
        found = []
        for left_out in range(len(self.parts) if len(self.parts) > 1 else 0):
            rest = joined([part for k, part in enumerate(self.parts) if k != left_out])
            kl = gaussian_kl(rest.mean, rest.square / rest.count + self.eps, self.running_mean, rv)
            found.append(float(summary(kl)))
        return found

    @property
    def start_left(self) -> float:
        """Share of the starting values (0, 1) that is left in the running statistics."""
        if self.updates is None:
            return self._left_by_numbers()
        return 0.0 if self.momentum is None else float((1 - self.momentum) ** self.updates)

    @property
    def steps(self) -> float:
        """Updates so far: counted, or as many as leave what is left of the start; nan where neither is known."""
        if self.updates is not None:
            return float(self.updates)
        left = self.start_left
        return math.log(left) / math.log(1 - self.momentum) if self.momentum and 0 < left < 1 else math.nan

    def _left_by_numbers(self) -> float:
        """What is left of the start where nobody counted (Keras, converted weights); 0 where it cannot be told."""
        if self.momentum is None or not 0 < self.momentum < 1:
            return 0.0
        left = start_left(*(item.cpu().numpy() for item in (self.running_mean, self.running_var, self.mean, self.var)))
        return left if left is not None and 1 - left > ONE * self.momentum else 0.0

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
    seen: dict[str, list[list[Part]]] = {}
    handles = [module.register_forward_pre_hook(_watch(name, seen)) for name, module in layers(model)]
    try:
        set_mode(model, training=True)
        with seeded(seed), torch.no_grad():
            for batch in batches:
                call(model, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(layers(model))
    return [_compared(name, modules[name], kept[name], seen[name]) for name in seen]


def _count(module: _BatchNorm) -> int | None:
    """The updates that the layer counted; None where its statistics have moved and nothing was counted."""
    if module.num_batches_tracked is None:
        return None
    return int(module.num_batches_tracked) or (None if moved(module) else 0)


def moved(module: _BatchNorm) -> bool:
    """Whether the running statistics are no longer the 0 and 1 that they were built with."""
    mean, var = module.running_mean, module.running_var
    return mean is not None and var is not None and not bool((mean == 0).all() and (var == 1).all())


def _watch(name: str, seen: dict[str, list[list[Part]]]) -> Callable[..., None]:
    """Keep the moments of what each batch feeds the layer."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.setdefault(name, []).append(parts_of(args[0]))

    return hook


def _compared(
    name: str, module: _BatchNorm, kept: tuple[Tensor, Tensor, int | None], seen: list[list[Part]]
) -> Remembered:
    bias = module.bias  # initialisers leave it at one value, also those that scatter the weight (DCGAN)
    fresh = bias is None or bool((bias == bias[0]).all())
    parts = tuple(part for batch in seen for part in batch)
    whole = joined(parts)
    return Remembered(
        name,
        locate(module, name),
        kept[0].double(),
        kept[1].double(),
        whole.mean,
        whole.square / max(whole.count, 1),
        module.eps,
        module.momentum,
        kept[2],
        min(sum(part.count for part in batch) for batch in seen),
        fresh,
        parts,
    )


class _SeenError(Exception):
    """Ends a forward at the layer that was of interest."""


@dataclass(frozen=True)
class Fit:
    """How far what a batch norm is fed lies from what it remembers: the median KL over channels, nats."""

    name: str
    kl: float
    without: tuple[float, ...] = ()  # the same with each group of rows left out


def fit_of(name: str, values: Tensor, mean: Tensor, var: Tensor) -> Fit:
    """Return how values (N, channels, …) fit remembered statistics; `var` has the layer's eps in it."""
    parts = parts_of(values)
    rm, rv, eps = mean.double(), var.double(), 1e-12 * var.double()

    def median(groups: Sequence[Part]) -> float:
        whole = joined(groups)
        return float(gaussian_kl(whole.mean, whole.square / whole.count + eps, rm, rv).median())

    rest = [[part for part in parts if part is not left_out] for left_out in parts] if len(parts) > 1 else []
    return Fit(name, median(parts), tuple(map(median, rest)))


def first_fit(model: nn.Module, batch: Batch, change: Callable[[Batch], Batch]) -> Fit | None:
    """Return the fit of the first batch norm in eval mode when the batch is changed; None without one."""
    caught: list[Fit] = []
    handles = []

    def watch(name: str, module: _BatchNorm) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            assert module.running_mean is not None
            assert module.running_var is not None
            caught.append(fit_of(name, args[0], module.running_mean, module.running_var + module.eps))
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
