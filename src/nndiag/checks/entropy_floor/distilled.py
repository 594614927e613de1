"""Labels beside a teacher's answers: how low can a CE on the labels plus T² KL from the teacher go?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID253 - imported late, by measure()

from nndiag.checks.entropy_floor.layout import ROWS, Layout, Source, flat_rows, lockstep
from nndiag.checks.entropy_floor.levels import Levels, quantiles_of
from nndiag.checks.entropy_floor.readers import _Reader
from nndiag.core.errors import NndiagError, UsageError
from nndiag.science.distillation import Mixture
from nndiag.science.entropy import log_softmax, one_hot, targets_of, xlogx
from nndiag.science.entropy_rows import LabelTotals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nndiag.checks.entropy_floor.measure import Measured, Recipe

NEARLY_ONE = 1e-2


@dataclass(frozen=True)
class Paired:
    """Label ids or rows, and the teacher's rows for the same samples, side by side: a Source of (rows, 1 or C, + C)."""

    labels: Source
    teacher: Source

    @property
    def classes(self) -> int:
        """How many classes the teacher tells apart."""
        shape = self.teacher.shape
        if len(shape) != 2 or (shape[1] or 0) < 2:
            raise NndiagError(f"{self.teacher.name} is no (rows, classes)", hint="one row of C numbers per sample")
        return int(shape[1] or 0)

    @property
    def name(self) -> str:
        """The label file."""
        return self.labels.name

    @property
    def shape(self) -> tuple[int | None, ...]:
        """As predictions for these rows have it."""
        return (self.labels.shape[0], self.classes)

    @property
    def dtype(self) -> str:
        """The teacher's."""
        return self.teacher.dtype

    @property
    def decimals(self) -> int | None:
        """Digits behind the point, of the teacher's text."""
        return self.teacher.decimals

    @property
    def once(self) -> bool:
        """Whether one of the two is stdin."""
        return bool(getattr(self.labels, "once", False) or getattr(self.teacher, "once", False))

    def chunks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Blocks of both, joined along the columns."""
        both = lockstep(self.labels.chunks(rows), self.teacher.chunks(rows), (self.labels.name, self.teacher.name))
        for left, right in both:
            labels = np.asarray(left, dtype=np.float64).reshape(len(left), -1)
            if labels.shape[1] not in (1, self.classes):
                raise NndiagError(
                    f"{self.labels.name} has {labels.shape[1]} columns, {self.teacher.name} {self.classes} classes",
                    hint="labels beside a teacher are one id or one row of probabilities per sample",
                )
            yield np.concatenate([labels, np.asarray(right, dtype=np.float64)], axis=1)


class MixReader(_Reader):
    """Rows of a mixed distillation loss."""

    def __init__(self, recipe: Recipe, labels: Paired, first: NDArray[Any]) -> None:
        classes = labels.classes
        super().__init__(Layout(ROWS, classes, why="labels beside a teacher's answers"), recipe, labels)
        if recipe.weights is not None or recipe.loss not in ("auto", "cross_entropy"):
            raise UsageError(
                "--teacher goes with a plain cross-entropy on the labels", hint="leave --loss and --class-weights out"
            )
        self.mixture = Mixture(recipe.alpha, recipe.temperature)
        taught = first[:, -classes:]
        self.probable = bool((taught >= 0).all() and (np.abs(taught.sum(1) - 1.0) < NEARLY_ONE).all())
        self.totals = LabelTotals(classes, 0.0)
        self.out.labels, self.out.classes = self.totals, classes
        self.sums, self.entropy = np.zeros((2, classes)), 0.0  # of labels and teacher; of the teacher's entropies

    def labels(self, block: NDArray[Any]) -> tuple[tuple[NDArray[Any], NDArray[Any]], NDArray[Any]]:
        """Add rows; return their optima and floors, and the mask of usable ones."""
        y, q, usable = self._targets(block)
        best = self.mixture.optimum(y, q)
        floors = self.mixture.loss(best, y, q)
        totals, recipe = self.totals, self.recipe
        totals.rows += len(block)
        totals.floor.add(floors)
        totals.spread.add(floors)
        one, soft = np.exp(log_softmax(best)), np.exp(log_softmax(best / recipe.temperature))
        bend = recipe.alpha * (1.0 - (one**2).sum(1)) + (1.0 - recipe.alpha) * (1.0 - (soft**2).sum(1))
        totals.gini += float(bend.sum())
        self.sums += np.stack([y.sum(0), q.sum(0)])
        self.entropy -= float(xlogx(q).sum())
        self.out.rows += len(y)
        return (best, floors), usable

    def _targets(self, block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Label rows, the teacher's probabilities at the temperature, and which rows have both."""
        classes, recipe = self.layout.columns, self.recipe
        given, taught = block[:, :-classes], block[:, -classes:]
        usable = np.isfinite(block).all(1)
        if given.shape[1] == 1:
            ids = given[:, 0]
            ignored = ids == recipe.ignore
            wrong = ~ignored & ~((ids == np.rint(ids)) & (ids >= 0) & (ids < classes))
            usable &= ~ignored
        else:
            wrong = (given < 0).any(1) | (np.abs(given.sum(1) - 1.0) > NEARLY_ONE)
        if self.probable:
            wrong |= (taught < 0).any(1) | (np.abs(taught.sum(1) - 1.0) > NEARLY_ONE)
        if wrong.any():
            row = self.totals.rows + int(wrong.argmax())
            raise NndiagError(
                f"row {row} of {self.name} or its teacher is no label over {classes} classes",
                hint="ids 0 to C-1 or rows that sum to 1; the teacher as probabilities or as logits throughout",
            )
        hard = one_hot(given[usable, 0].astype(np.int64), classes) if given.shape[1] == 1 else given[usable]
        with np.errstate(divide="ignore"):
            logits = np.log(taught[usable]) if self.probable else taught[usable]
        return targets_of(hard, recipe.rate(classes)), np.exp(log_softmax(logits / recipe.temperature)), usable

    def both(self, block: NDArray[Any], predictions: NDArray[Any]) -> None:
        """Add rows and the student's outputs for them."""
        (best, floors), usable = self.labels(block)
        rows = flat_rows(np.asarray(predictions, dtype=np.float64), self.axis, self.width)
        log_p, _ = self.log_p(predictions)
        z = rows if self.given == "logits" else log_p
        if self.out.losses is not None and len(best):
            excess = self.mixture.excess(z[usable], best)
            plain = log_softmax(z[usable])
            self.out.losses.record(
                excess, floors, plain, np.exp(log_softmax(best)), self.taken + np.flatnonzero(usable)
            )
        self.taken += len(rows)

    def done(self, given: str) -> Measured:
        """Return what was added up, with the means that the prior needs."""
        out = super().done(given)
        n = max(out.rows, 1)
        out.mixed = Mixed(self.mixture, self.sums[0] / n, self.sums[1] / n, self.entropy / n, self.probable)
        return out


@dataclass(frozen=True)
class Mixed:
    """What the levels of a mixed loss are made of."""

    mixture: Mixture
    labels: NDArray[Any]  # mean label (classes,)
    taught: NDArray[Any]  # mean of the teacher's probabilities at the temperature (classes,)
    entropy: float  # mean entropy of these
    probable: bool  # whether the teacher was given as probabilities


def levels_of_mixture(measured: Measured) -> Levels:
    """Return the levels of a mixed distillation loss."""
    totals, mixed = measured.labels, measured.mixed
    if totals is None or mixed is None:
        raise AssertionError("a mixture without totals")
    y, q = mixed.labels[None], mixed.taught[None]
    best = mixed.mixture.optimum(y, q)
    return Levels(
        floor=max(totals.floor.mean, 0.0),
        floor_se=totals.floor.se,
        prior=float(mixed.mixture.mean_loss(best, y, q, mixed.entropy)[0]),
        uniform=float(mixed.mixture.mean_loss(np.zeros_like(y), y, q, mixed.entropy)[0]),
        gini=totals.gini / totals.floor.n,
        rows=measured.rows,
        classes=measured.classes,
        certain=False,
        quantiles=quantiles_of(totals.spread.values),
        highest=float(totals.spread.values.max()),
    )
