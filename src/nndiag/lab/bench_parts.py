"""Losses that know no labels, and an Adam that loads no compiler: parts of the bench."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from nndiag.lab.forward import tensors_in


class PlainAdam:
    """torch's own Adam step without the Optimizer class, whose construction imports two seconds of compiler."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        """Start with empty moments."""
        self._lr = lr
        self._state = {
            item: (torch.zeros_like(item), torch.zeros_like(item), torch.zeros((), dtype=torch.float32))
            for item in parameters
        }

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        live = [item for item in self._state if item.grad is not None]
        first, second, counts = (
            (list(column) for column in zip(*(self._state[item] for item in live), strict=True))
            if live
            else ([], [], [])
        )
        with torch.no_grad():
            adam(
                list(live),
                [item.grad for item in live if item.grad is not None],
                first,
                second,
                [],
                counts,
                foreach=False,
                fused=False,
                has_complex=any(item.is_complex() for item in live),
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )


class RandomTargets:
    """Half the squared distance of every output to fixed random targets: tells any two outputs apart."""

    def __init__(self, seed: int) -> None:
        """Fix the targets by a seed."""
        self._seed = seed
        self._made: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def __call__(self, output: Any, _targets: Any = None) -> Tensor:
        """Return the loss over every differentiable tensor in the output."""
        total: Tensor | None = None
        for index, item in enumerate(live_outputs(output)):
            key = (index, tuple(item.shape))
            if key not in self._made:
                source = torch.Generator().manual_seed(self._seed + 7919 * index)
                self._made[key] = torch.randn(item.shape, generator=source, dtype=torch.float64)
            part = (item - self._made[key].to(item.device, item.dtype)).abs().square().mean() / 2
            total = part if total is None else total + part
        return total if total is not None else torch.zeros(())


def finite(item: Tensor) -> bool:
    """Whether every entry is a number: by the sum, which a NaN or an infinity spoils; entry by entry only then."""
    return bool(torch.isfinite(item.sum())) or bool(torch.isfinite(item).all())


def alike(output: Any, _targets: Any = None) -> Tensor:
    """A loss that treats every output element alike, so that it tells no two outputs apart."""
    total: Tensor | None = None
    for item in live_outputs(output):
        part = ((item - 1).abs().square()).mean() / 2
        total = part if total is None else total + part
    return total if total is not None else torch.zeros(())


def live_outputs(output: Any) -> list[Tensor]:
    """Return the tensors of an output that gradients flow from, the model's own loss left out where there is more."""
    found = [
        item for item in tensors_in(output) if item.requires_grad and (item.is_floating_point() or item.is_complex())
    ]
    wide = [item for item in found if item.dim() > 0]
    return wide or found
