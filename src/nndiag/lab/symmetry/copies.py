"""Which whole modules start as copies of each other, get the same gradient, and so stay copies?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.lab.bench import OutOfTimeError
from nndiag.lab.symmetry.runs import NOISE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from nndiag.lab.bench import Bench, Trial

LOOKED_AT = 8  # numbers of each weight by which modules are sorted before they are compared


@dataclass(frozen=True, slots=True)
class Copies:
    """Modules with the same weights, before and after the steps."""

    names: tuple[str, ...]
    parameters: int  # of one of them


def copies_of(bench: Bench, trial: Trial, tolerance: float) -> list[Copies]:
    """Return the groups of outermost modules that start equal, are trained, and are equal after the steps.

    Layers in series that were copied part with the first steps, as each is reached by a gradient of its own; a branch
    beside its copy gets the same. What dropout parts is left out. A module without a weight matrix that was drawn at
    random is no copy: a normaliser starts like every other.
    """
    groups = [kept for names in _equal(bench.model, trial) for kept in _together(bench.model, trial, names, tolerance)]
    groups = [names for names in groups if not _inside(names, groups)]
    if groups and _noisy(bench.model):
        try:
            noisy = bench.run(NOISE_STEPS, dropout=True)
        except (NndiagError, OutOfTimeError):
            return []
        groups = [kept for names in groups for kept in _together(bench.model, noisy, names, tolerance)]
    return [Copies(tuple(names), _numel(bench.model.get_submodule(names[0]))) for names in groups]


def _equal(model: nn.Module, trial: Trial) -> Iterator[list[str]]:
    """Modules of one class whose trained weights are equal at the start, and no tied ones."""
    alike: dict[object, list[str]] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters())
        full = [f"{name}.{key}" for key in own]
        drawn = any(item.dim() > 1 and bool((item != item.flatten()[0]).any()) for item in own.values())
        if not name or not drawn or not all(key in trial.before for key in full):
            continue
        looks = tuple((key, tuple(item.shape), tuple(item.flatten()[:LOOKED_AT].tolist())) for key, item in own.items())
        alike.setdefault((type(module), looks), []).append(name)
    for names in alike.values():
        first = [name for name in names if _same(model, trial.before, names[0], name)]
        if len(first) > 1:
            yield first


def _same(model: nn.Module, tensors: Mapping[str, Tensor], one: str, other: str) -> bool:
    keys = [key for key, _ in model.get_submodule(one).named_parameters()]
    return all(torch.equal(tensors[f"{one}.{key}"], tensors[f"{other}.{key}"]) for key in keys)


def _together(model: nn.Module, trial: Trial, names: list[str], tolerance: float) -> Iterator[list[str]]:
    """Those of the modules that moved, and moved alike."""
    rest = list(names)
    while rest:
        one = rest.pop(0)
        keys = [key for key, item in model.get_submodule(one).named_parameters() if item.dim() > 1]
        kept = [other for other in rest if _moved_alike(trial, one, other, keys, tolerance)]
        rest = [name for name in rest if name not in kept]
        if kept:
            yield [one, *kept]


def _moved_alike(trial: Trial, one: str, other: str, keys: list[str], tolerance: float) -> bool:
    moves = [(_move(trial, f"{one}.{key}"), _move(trial, f"{other}.{key}")) for key in keys]
    apart = max(float((left - right).norm()) - tolerance * float(left.norm()) for left, right in moves)
    return any(bool(left.any()) for left, _ in moves) and apart <= 0.0


def _move(trial: Trial, name: str) -> Tensor:
    return trial.after[name] - trial.before[name]


def _inside(names: list[str], groups: list[list[str]]) -> bool:
    """Whether each of the modules lies in one of another group's."""
    return any(
        all(any(name.startswith(f"{outer}.") for outer in other) for name in names)
        for other in groups
        if other is not names
    )


def _noisy(model: nn.Module) -> bool:
    """Whether training mode may part what eval mode does not."""
    return any("drop" in type(item).__name__.lower() or getattr(item, "dropout", 0) for item in model.modules())


def _numel(module: nn.Module) -> int:
    return sum(item.numel() for item in module.parameters())
