"""The levels that a loss is compared with: floor, class prior, ln C, and what an architecture may impose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.layout import BINARY, IDS, ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nndiag.checks.entropy_floor.measure import Measured, Recipe

EQUAL = 1e-6  # nats: rows with one bound
STRUCTURE_CLASSES = 4096  # beyond it, soft rows have no structural floors worth the time


@dataclass(frozen=True)
class Levels:
    """Levels of the loss in nats per sample, averaged as torch's reduction="mean" averages."""

    floor: float
    floor_se: float  # NaN for one row
    prior: float  # the best constant prediction
    uniform: float  # the loss of equal probabilities
    gini: float  # mean of 1 - sum(q^2)
    rows: int
    classes: int
    certain: bool  # whether every label puts all on one class, so that the floor is 0
    quantiles: tuple[float, float, float, float, float]  # 5, 25, 50, 75, 95 % of the row floors
    highest: float
    norm: float = 1.0  # factor from a mean over samples to torch's weighted mean
    entropy: float = 0.0  # what was taken off every level: the loss is a KL divergence
    rise: float = 0.0  # by how much equal inputs with different labels raise the floor

    @property
    def reachable(self) -> float:
        """The floor of a function of the inputs given; `floor` is that of the labels alone."""
        return self.floor + self.rise

    @property
    def removable(self) -> float:
        """What inputs can remove: prior minus floor."""
        return self.prior - self.floor

    @property
    def span(self) -> float:
        """The scale of "near": the removable loss, or ln C minus floor where labels say nothing else."""
        if self.removable > 1e-3 * max(self.uniform - self.floor, 1e-12):
            return self.removable
        return max(self.uniform - self.floor, 0.0)

    def as_divergence(self) -> Levels:
        """The levels of a KL loss: the entropy of the labels is no part of it."""
        return replace(
            self, floor=0.0, prior=self.prior - self.floor, uniform=self.uniform - self.floor, entropy=self.floor
        )


def levels_of(measured: Measured) -> Levels | None:
    """Return the levels; None when no row is usable."""
    if not measured.rows:
        return None
    if measured.mixed is not None:
        from nndiag.checks.entropy_floor.distilled import levels_of_mixture

        return levels_of_mixture(measured)
    if measured.layout.kind == IDS:
        levels = _of_ids(measured)
    elif measured.layout.kind == ROWS:
        levels = _of_rows(measured)
    else:
        levels = _of_entries(measured)
    return levels.as_divergence() if measured.recipe.loss == "kl" else levels


def levels_of_classes(classes: int, recipe: Recipe) -> Levels:
    """Return what is known without labels: the floor of certain labels, and ln C; the prior is taken as balanced."""
    import numpy as np

    from nndiag.checks.entropy_floor.layout import Layout
    from nndiag.checks.entropy_floor.measure import IdTotals, Measured

    totals = IdTotals(np.ones(classes, dtype=np.int64))
    made = Measured(Layout(IDS, 1), recipe, classes, ids=totals, rows=classes)
    levels = levels_of(made)
    if levels is None:
        raise AssertionError("a class without rows")
    return replace(levels, rows=0, floor_se=0.0)


def _of_ids(measured: Measured) -> Levels:
    import numpy as np

    from nndiag.science.entropy import hard_floors, row_floor

    recipe, classes = measured.recipe, measured.classes
    counts = measured.ids.counts if measured.ids else np.zeros(classes)
    weights = None if recipe.weights is None else np.asarray(recipe.weights)
    rate = recipe.rate(classes)
    floors = hard_floors(classes, rate, weights)
    n = float(counts.sum())
    w = np.ones(classes) if weights is None else weights
    share = counts / n
    u = w * (rate / classes + (1.0 - rate) * share)
    divisor = float((share * w).sum())  # torch divides by the labels' weights
    scale = recipe.scale / divisor if divisor > 0 else math.nan
    mean = float((share * floors).sum())
    variance = max(float((share * (floors - mean) ** 2).sum()), 0.0)
    right, wrong = 1.0 - rate + rate / classes, rate / classes
    shown = np.repeat(floors, np.ceil(counts * (10_000 / n)).astype(int)) if n else floors
    return Levels(
        floor=mean * scale,
        floor_se=math.sqrt(variance / n) * scale if n > 1 else math.nan,
        prior=float(row_floor(u[None])[0]) * scale,
        uniform=float(u.sum()) * math.log(classes) * scale,
        gini=1.0 - right**2 - (classes - 1) * wrong**2,
        rows=int(n),
        classes=classes,
        certain=rate == 0.0,
        quantiles=quantiles_of(shown * scale),
        highest=float(floors[counts > 0].max()) * scale,
        norm=scale / recipe.scale,
    )


def _of_rows(measured: Measured) -> Levels:
    from nndiag.science.entropy import row_floor

    totals, recipe = measured.labels, measured.recipe
    if totals is None:
        raise AssertionError("rows without totals")
    n = totals.floor.n
    u = totals.column / n
    total = float(u.sum())
    if recipe.weights is None and abs(total - 1.0) <= totals.tolerance:
        total = 1.0
    return Levels(
        floor=max(totals.floor.mean, 0.0),
        floor_se=totals.floor.se,
        prior=float(row_floor(u[None].astype(float))[0]) * recipe.scale,
        uniform=total * math.log(measured.classes) * recipe.scale,
        gini=max(totals.gini / n, 0.0),
        rows=n,
        classes=measured.classes,
        certain=totals.certain == n,
        quantiles=quantiles_of(totals.spread.values),
        highest=float(totals.spread.values.max()),
    )


def _of_entries(measured: Measured) -> Levels:
    from nndiag.science.entropy import row_floor

    totals = measured.labels
    if totals is None or measured.column is None:
        raise AssertionError("entries without totals")
    pairs = measured.column / max(measured.rows, 1)  # (entries, 2)
    return Levels(
        floor=max(totals.floor.mean, 0.0),
        floor_se=totals.floor.se,
        prior=float(row_floor(pairs).mean()),
        uniform=float(pairs.sum(1).mean()) * math.log(2.0),
        gini=max(totals.gini / totals.floor.n, 0.0) / 2.0,  # one logit moves both probabilities
        rows=measured.rows,
        classes=2,
        certain=totals.certain == totals.floor.n,
        quantiles=quantiles_of(totals.spread.values),
        highest=float(totals.spread.values.max()),
    )


def quantiles_of(values: NDArray[Any]) -> tuple[float, float, float, float, float]:
    """Return the 5, 25, 50, 75 and 95 % quantiles."""
    import numpy as np

    low, lower, median, upper, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    return float(low), float(lower), float(median), float(upper), float(high)


@dataclass(frozen=True)
class Bound:
    """The least loss that bounded logits leave on these labels."""

    level: float
    se: float = 0.0  # where it was computed from a sample of the rows
    each: bool = False  # whether every row has this bound, so that no batch can fall below it (a mean of cosines can)


def structures_of(measured: Measured | None, levels: Levels, recipe: Recipe) -> dict[str, Bound]:
    """Return the floors that bounded logits would impose on these labels, by name; empty where none is computed."""
    import numpy as np

    from nndiag.science.entropy import targets_of
    from nndiag.science.entropy_structure import COSINE, binary_structures, hard_structures, soft_structures

    mixed = measured is not None and measured.mixed is not None
    if mixed or recipe.weights is not None or recipe.temperature != 1.0 or levels.classes < 2:
        return {}
    if measured is not None and measured.layout.kind == BINARY and measured.sample is not None:
        found = _of_sample(binary_structures, targets_of(measured.sample, recipe.rate(2)), levels)
    elif levels.certain:
        found = {name: Bound(level, each=name != COSINE) for name, level in hard_structures(levels.classes).items()}
    elif levels.classes > STRUCTURE_CLASSES:
        found = {}
    elif measured is None or measured.sample is None:
        row = np.zeros((1, levels.classes))
        row[0, 0] = 1.0
        found = _of_sample(soft_structures, targets_of(row, recipe.rate(levels.classes)), levels)
    else:
        found = _of_sample(soft_structures, targets_of(measured.sample, recipe.rate(levels.classes)), levels)
    return {name: replace(bound, level=bound.level - levels.entropy) for name, bound in found.items()}


def _of_sample(structures: Any, u: NDArray[Any], levels: Levels) -> dict[str, Bound]:
    """A sample tells how far each bound keeps above the floor; the floor itself is known of all rows."""
    import numpy as np

    from nndiag.science.entropy import row_floor
    from nndiag.science.entropy_structure import COSINE

    rows = u / u.sum(1, keepdims=True)
    floors = row_floor(rows)
    found = {}
    for name, losses in structures(rows).items():
        above = losses - floors
        spread = 0.0 if len(rows) in (1, levels.rows) else float(np.std(above)) / math.sqrt(len(rows))
        each = name != COSINE and bool(np.ptp(losses) < EQUAL)
        found[name] = Bound(levels.floor + levels.entropy + float(above.mean()), spread, each)
    return found
