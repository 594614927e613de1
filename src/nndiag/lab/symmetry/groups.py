"""Which units are equal, and which are still equal after a few steps?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from nndiag.science.orbits import Orbits, identical, near, numbered, sign_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from nndiag.lab.bench import Trial
    from nndiag.lab.units.layers import UnitView

QUIET = 1e-13  # share of the strongest gradient below which a unit has not been pulled at all
ROUNDINGS = 64  # units of rounding by which kernels treat equal units differently within a few steps
STILL = 1e-8  # share of a unit's norm below which it has not moved yet
IDLE = 1e-11  # share of the strongest gradient below which a bias is without effect: rounding is all it gets
NEAR_LIMIT = 30_000_000  # entries: larger layers are compared exactly only


@dataclass(frozen=True, slots=True)
class Twins:
    """Groups of equal units in one layer."""

    view: UnitView
    groups: tuple[NDArray[np.int64], ...]

    @property
    def width(self) -> int:
        """Distinct units when the members of a group count as one."""
        return self.view.units - sum(group.size - 1 for group in self.groups)

    @property
    def size(self) -> int:
        """Units that have a twin."""
        return sum(group.size for group in self.groups)

    def shown(self, limit: int = 3) -> str:
        """Unit numbers for people: {0, 5}, {1, 2, 3, … 64 units}."""
        parts = []
        for group in self.groups[:limit]:
            names = ", ".join(str(unit) for unit in group[:4])
            parts.append("{" + names + (f", … {group.size} units" if group.size > 4 else "") + "}")
        more = len(self.groups) - limit
        return ", ".join(parts) + (f" and {more} more groups" if more > 0 else "")


def twins_of(
    view: UnitView, tensors: Mapping[str, Tensor], tolerance: float, trial: Trial | None = None
) -> Twins | None:
    """Return the groups of units with equal incoming rows and biases, or None.

    Equal within the tolerance: units that have trained together differ in their last bits, because kernels treat the
    tail of a matrix differently. Biases that a trial shows to be without effect (in front of batch norm) tell nothing
    apart.
    """
    if _large(view, tensors):
        groups = tuple(_with_bias(view, identical(view.raw_rows(tensors), view.class_array).groups, tensors))
        return Twins(view, groups) if groups else None
    rows = view.rows(tensors, bias=True)
    if trial is not None and view.read_bias is not None and all(name in trial.pull for name in view.biases):
        width = rows.shape[1] - view.rows(tensors).shape[1]
        pull = view.read_bias(trial.pull).detach().abs().double().cpu().numpy()
        idle = pull.max(axis=1, initial=0.0) <= IDLE * sum(trial.level(step) for step in range(trial.steps))
        rows[np.ix_(idle & pulled_units(view, trial), range(rows.shape[1] - width, rows.shape[1]))] = 0.0
    found = identical(rows, view.class_array) if tolerance == 0 else near(rows, tolerance, classes=view.class_array)
    groups = tuple(found.groups)
    return Twins(view, groups) if groups else None


def _large(view: UnitView, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a layer is compared exactly, in its own precision: a copy in float64 would be as large as the model."""
    return view.entries(tensors) > NEAR_LIMIT


def _with_bias(
    view: UnitView, groups: Sequence[NDArray[np.int64]], tensors: Mapping[str, Tensor]
) -> list[NDArray[np.int64]]:
    """Groups of equal rows, of which those with another bias are taken out."""
    if view.read_bias is None or not groups:
        return list(groups)
    biases = np.asarray(view.read_bias(tensors).detach().double().cpu().numpy())
    return [group[part] for group in groups for part in identical(biases[group]).groups]


def still_together(item: Twins, trial: Trial, tolerance: float) -> Twins | None:
    """Return what is left of the groups after a trial: members that were pulled, and moved alike.

    The difference of two displacements is compared with these units' own displacement, so that neither a small learning
    rate nor a small gradient looks like a lock. Units that no gradient has pulled are left out: nothing was learned
    about them.
    """
    pulled = pulled_units(item.view, trial)
    moves = displacement(item.view, trial)
    floor = rounding_floor(item.view, trial)
    noise = ROUNDINGS * _precision(item.view, trial)
    rest: list[NDArray[np.int64]] = []
    for group in item.groups:
        members = group[pulled[group]]
        if members.size < 2:
            continue
        own = np.linalg.norm(moves[members], axis=1)  # each unit's: in one group some wake later than others
        largest = float(own.max())
        if largest == 0.0 or not np.isfinite(largest):
            continue
        part = near(moves[members], tolerance, scale=own + (floor + noise * largest) / max(tolerance, 1e-300))
        rest.extend(members[inner] for inner in part.groups)
    return Twins(item.view, tuple(rest)) if rest else None


def gap(item: Twins, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> float:
    """Return the largest distance inside a group, over the largest displacement; 0 while nothing has moved."""
    start, rows = item.view.rows(before), item.view.rows(now)
    moves = rows - start
    worst = 0.0
    for group in item.groups:
        scale = float(np.linalg.norm(moves[group], axis=1).max())
        if scale > STILL * float(np.linalg.norm(start[group], axis=1).max()):  # else it moved on rounding alone
            worst = max(worst, float(np.linalg.norm(moves[group] - moves[group[0]], axis=1).max()) / scale)
    return worst


def displacement(view: UnitView, trial: Trial) -> NDArray[np.float64]:
    """Return how far each unit's row went; what no step moved went along minus its gradient."""
    rows = view.rows(trial.after) - view.rows(trial.before)
    if rows.any() or any(name not in trial.drift for name in view.weights):
        return rows
    return -view.rows(trial.drift)


def pulled_units(view: UnitView, trial: Trial) -> NDArray[np.bool_]:
    """Return which units' incoming weights got any gradient."""
    if any(name not in trial.pull for name in view.weights):
        return np.zeros(view.units, dtype=bool)
    level = sum(trial.level(step) for step in range(trial.steps))
    return np.asarray(np.abs(view.rows(trial.pull)).max(axis=1) > QUIET * level)


def rounding_floor(view: UnitView, trial: Trial) -> float:
    """Return the distance that rounding of the stored weights alone makes."""
    rows = view.rows(trial.before)
    return _precision(view, trial) * float(np.linalg.norm(rows, axis=1).max(initial=0.0))


def _precision(view: UnitView, trial: Trial) -> float:
    """Return the unit roundoff of the weights' type."""
    first = trial.before[view.weights[0]]
    return float(torch.finfo(first.dtype).eps) if first.is_floating_point() else 0.0


def meet(item: Twins, other: Twins | None) -> Twins | None:
    """Return the groups that are together in both."""
    if other is None:
        return None
    labels = np.arange(item.view.units)
    for group in other.groups:
        labels[group] = group[0]
    rest: list[NDArray[np.int64]] = []
    for group in item.groups:
        inner = Orbits(numbered(labels[group]))
        rest.extend(group[part] for part in inner.groups)
    return Twins(item.view, tuple(rest)) if rest else None


@dataclass(frozen=True, slots=True)
class Mirror:
    """Pairs of units in one layer that are each other's negative."""

    view: UnitView
    pairs: tuple[tuple[int, int], ...]


def mirrors_of(view: UnitView, tensors: Mapping[str, Tensor]) -> Mirror | None:
    """Return the pairs with opposite incoming rows and biases, or None."""
    if _large(view, tensors):
        return None
    rows = view.rows(tensors, bias=True)
    pairs = sign_pairs(rows)
    if view.classes is not None:
        pairs = [pair for pair in pairs if view.classes[pair[0]] == view.classes[pair[1]]]
    return Mirror(view, tuple(pairs)) if pairs else None


def still_mirrored(item: Mirror, trial: Trial, tolerance: float) -> Mirror | None:
    """Return the pairs that moved exactly against each other."""
    pulled = pulled_units(item.view, trial)
    moves = displacement(item.view, trial)
    floor = rounding_floor(item.view, trial)
    locked = []
    for left, right in item.pairs:
        scale = float(np.linalg.norm(moves[left]))
        apart = float(np.linalg.norm(moves[left] + moves[right]))
        if pulled[left] and pulled[right] and scale > 0 and apart <= tolerance * scale + floor:
            locked.append((left, right))
    return Mirror(item.view, tuple(locked)) if locked else None


def same_place(
    items: Sequence[Twins], in_series: Callable[[UnitView, UnitView], bool] = lambda _one, _other: False
) -> list[list[Twins]]:
    """Gather layers that share parent and groups: query, key and value of one cloned head, gate and up projection.

    Layers of which one reads the other are two causes.
    """
    gathered: dict[tuple[object, ...], list[list[Twins]]] = {}
    for item in items:
        whole = item.view.part or item.view.kind == "recurrent"  # both directions of one layer, say
        parent = item.view.module if whole else item.view.module.rpartition(".")[0]
        key = (parent, tuple(tuple(group.tolist()) for group in item.groups), item.view.units)
        bundles = gathered.setdefault(key if parent or item.view.part else (id(item),), [])
        fitting = (b for b in bundles if not any(in_series(item.view, other.view) for other in b))
        bundle = next(fitting, None)
        if bundle is None:
            bundles.append([item])
        else:
            bundle.append(item)
    return [bundle for bundles in gathered.values() for bundle in bundles]
