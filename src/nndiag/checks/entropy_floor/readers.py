"""Three kinds of labels, one way of adding them up: rows of probabilities, class ids, yes-no entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID253 - imported late, by measure()

from nndiag.checks.entropy_floor.layout import BINARY, Layout, Source, class_axis_of, flat_rows
from nndiag.checks.entropy_floor.measure import (
    MOST_CLASSES,
    SAMPLE,
    SAMPLE_NUMBERS,
    IdTotals,
    Measured,
    Recipe,
    _fits,
    prediction_rows,
)
from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
from nndiag.science.entropy import log_softmax, one_hot, soften, targets_of
from nndiag.science.entropy_rows import LabelTotals, LossTotals, rounding_slack, text_tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # coarser than float32


def tolerance_of(source: Source, classes: int) -> float:
    """Return by how much a row's sum may be off: rounding of the dtype, and of the digits that were written."""
    eps = EPS.get(source.dtype, 2.0**-23)
    return classes * eps + (rounding_slack(classes, source.decimals) if source.decimals is not None else 0.0)


def _sample(q: NDArray[Any]) -> NDArray[Any]:
    """Some rows, evenly spaced."""
    count = min(SAMPLE, max(SAMPLE_NUMBERS // q.shape[1], 16), len(q))
    return np.array(q[np.linspace(0, len(q) - 1, count).astype(int)], dtype=np.float64)


class _Reader:
    """What the three have in common: predictions beside labels."""

    def __init__(self, layout: Layout, recipe: Recipe, labels: Source) -> None:
        self.layout, self.recipe, self.name = layout, recipe, labels.name
        self.weights = None if recipe.weights is None else np.asarray(recipe.weights)
        self.out = Measured(layout, recipe, 0)
        self.axis, self.width, self.given, self.taken = -1, 0, "", 0
        self.tolerance, self.predictions = 0.0, ""
        self.look = {"low": np.inf, "high": -np.inf, "off": 0, "sums": 0.0, "reach1": 0, "reach2": 0, "rows": 0}
        self.look |= {"gap": 0.0, "probable": True, "edge": 0, "sum_low": np.inf, "sum_high": -np.inf}
        self.columns: Any = 0.0

    def attach(
        self, source: Source, shape: tuple[int | None, ...], label_shape: tuple[int | None, ...], given: str
    ) -> None:
        """Get ready for predictions of this shape."""
        self.given, self.predictions = given, source.name
        if self.layout.kind == BINARY:
            if tuple(shape[1:]) not in (label_shape[1:], (1,), ()) or (
                len(shape) > 1 and shape[1] != self.layout.columns
            ):
                raise NndiagError(
                    f"{source.name} has {shape[1:]} entries per row, the labels have {label_shape[1:]}",
                    hint="binary predictions have the shape of the labels",
                )
            self.width = self.layout.columns
        else:
            self.axis = class_axis_of(shape, label_shape, self.layout.kind, source.name)
            self.width = int(shape[self.axis] or 0)
        self.tolerance = tolerance_of(source, self.width)
        self.out.losses = LossTotals(2 if self.layout.kind == BINARY else self.width)

    def log_p(self, block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return normalised log probabilities, and the log of what the rows summed to before."""
        rows = prediction_rows(block, self.axis, self.width, self.taken, self.predictions)
        self._look_at(rows)
        if self.given == "logits":
            return log_softmax(rows / self.recipe.temperature), None
        if rows.min() < 0 or rows.max() > 1.0 + self.tolerance:
            worst = float(rows.min()) if rows.min() < 0 else float(rows.max())
            raise UsageError(
                f"{self.predictions} holds {worst:.4g}, which is no probability",
                hint="if these are logits, pass --logits",
            )
        sums = rows.sum(1)
        with np.errstate(divide="ignore"):
            surplus = np.log(sums)
            log_p = np.log(rows) - surplus[:, None]
        if self.recipe.temperature != 1.0:
            return log_softmax(log_p / self.recipe.temperature), None
        return log_p, surplus

    def _look_at(self, rows: NDArray[Any]) -> None:
        """Remember what the rows look like: probabilities, bounded numbers, sums."""
        look = self.look
        sums = rows.sum(1)
        look["rows"] += len(rows)
        look["low"], look["high"] = min(look["low"], rows.min()), max(look["high"], rows.max())
        look["sum_low"], look["sum_high"] = min(look["sum_low"], sums.min()), max(look["sum_high"], sums.max())
        allowed = max(self.tolerance, text_tolerance(rows))
        look["off"] += int((np.abs(sums - 1.0) > allowed).sum())
        look["sums"] += float(sums.sum())
        look["edge"] += int((np.abs(rows).max(1) > 0.97).sum())
        self.columns = self.columns + rows.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.log(rows.max(1)) - np.log(rows.min(1)) if self.given != "logits" else np.zeros(len(rows))
        look["gap"] = max(look["gap"], float(gap.max()))
        look["reach1"] += int((gap > 0.97).sum())
        look["reach2"] += int((gap > 1.94).sum())

    def done(self, given: str) -> Measured:
        """Return what was added up."""
        if self.out.losses is not None:
            self.out.given_as = given
            self.out.extra = {**self.look, "columns": self.columns}
        return self.out


class RowReader(_Reader):
    """Rows of probabilities (rows, classes)."""

    def __init__(self, layout: Layout, recipe: Recipe, labels: Source, _first: NDArray[Any]) -> None:
        super().__init__(layout, recipe, labels)
        self.rate = recipe.rate(layout.columns)
        self.totals = LabelTotals(layout.columns, tolerance_of(labels, layout.columns))
        self.out.labels, self.out.classes = self.totals, layout.columns
        self.plain = self.rate == 0.0 and self.weights is None and recipe.temperature == 1.0

    def labels(self, block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Add label rows; return their targets and the mask of usable rows."""
        q = flat_rows(block, self.layout.class_axis, self.layout.columns)
        q = q if q.dtype in (np.float32, np.float64) else q.astype(np.float64)
        usable = self.totals.screen(q)
        q = q if usable.all() else q[usable]
        if not self.plain:
            q = soften(q.astype(np.float64), self.recipe.temperature)
        if self.out.sample is None and len(q):
            self.out.sample = _sample(q)
        u = q if self.plain else targets_of(q, self.rate, self.weights)
        self.totals.add(u, self.recipe.scale, weighted=self.weights is not None)
        self.out.rows += len(q)
        return u, usable

    def both(self, block: NDArray[Any], predictions: NDArray[Any]) -> None:
        """Add label rows and the predictions for them."""
        u, usable = self.labels(block)
        log_p, surplus = self.log_p(predictions)
        if self.out.losses is not None and len(u):
            kept = None if surplus is None else surplus[usable]
            self.out.losses.add(
                u.astype(np.float64), log_p[usable], kept, self.recipe.scale, self.taken + np.flatnonzero(usable)
            )
        self.taken += len(log_p)


class BinaryReader(_Reader):
    """Yes-no entries (rows, entries): each is a two-class row (y, 1-y)."""

    def __init__(self, layout: Layout, recipe: Recipe, labels: Source, _first: NDArray[Any]) -> None:
        super().__init__(layout, recipe, labels)
        self.rate = recipe.rate(2)
        self.totals = LabelTotals(2, 4 * tolerance_of(labels, 2))
        self.out.labels, self.out.classes = self.totals, 2
        self.out.column = np.zeros((layout.columns, 2))
        self.pairs = recipe.entry_weights(layout.columns)

    def labels(self, block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Add labels; return their targets and the mask of usable entries."""
        entries = np.asarray(block, dtype=np.float64).reshape(-1, self.layout.columns)
        y = entries.ravel()
        q = np.stack([y, 1.0 - y], axis=1)
        usable = self.totals.screen(q)
        good = usable.reshape(entries.shape).all(1)
        weights = None if self.pairs is None else np.tile(self.pairs, (len(entries), 1))  # (rows x entries, 2)
        if self.out.column is not None and good.any():
            yes = entries[good] * (1.0 - self.rate) + self.rate / 2
            sums = np.stack([yes.sum(0), (1.0 - yes).sum(0)], axis=1)
            self.out.column = self.out.column + (sums if self.pairs is None else sums * self.pairs)
        q = q[usable]
        weights = weights if weights is None else weights[usable]
        if self.out.sample is None and len(q):
            self.out.sample = _sample(q)
            self.out.sample_weights = None if weights is None else _sample(weights)
        u = targets_of(q, self.rate)
        u = u if weights is None else u * weights
        self.totals.add(u, weighted=weights is not None)
        self.out.rows += int(good.sum())
        return u, usable

    def both(self, block: NDArray[Any], predictions: NDArray[Any]) -> None:
        """Add labels and the predictions for them."""
        u, usable = self.labels(block)
        rows = prediction_rows(predictions.reshape(len(predictions), -1), -1, self.width, self.taken, self.predictions)
        flat = rows.ravel()
        if self.given == "logits":
            self.look["low"], self.look["high"] = min(self.look["low"], flat.min()), max(self.look["high"], flat.max())
            self.look["edge"] += int((np.abs(rows).max(1) > 0.97).sum())
            log_p = np.stack([-np.logaddexp(0.0, -flat), -np.logaddexp(0.0, flat)], axis=1)
        else:
            if flat.min() < 0 or flat.max() > 1:
                worst = float(flat.min()) if flat.min() < 0 else float(flat.max())
                raise UsageError(
                    f"{self.predictions} holds {worst:.4g}, which is no probability",
                    hint="if these are logits, pass --logits",
                )
            with np.errstate(divide="ignore"):
                log_p = np.stack([np.log(flat), np.log1p(-flat)], axis=1)
        self.look["rows"] += len(rows)
        if self.out.losses is not None and len(u):
            self.out.losses.add(u, log_p[usable], None, 1.0, self.taken + np.flatnonzero(usable) // self.layout.columns)
        self.taken += len(rows)


class IdReader(_Reader):
    """Class ids: (rows,), or token ids of any shape."""

    def __init__(
        self, layout: Layout, recipe: Recipe, labels: Source, _first: NDArray[Any], classes: int | None
    ) -> None:
        super().__init__(layout, recipe, labels)
        self.classes = classes
        self.totals = IdTotals(np.zeros(classes or 0, dtype=np.int64))
        self.out.ids = self.totals

    def labels(self, block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Add ids; return the usable ones and their mask."""
        totals, flat = self.totals, np.asarray(block).ravel()
        start, totals.seen = totals.seen, totals.seen + len(flat)
        ignored = flat == self.recipe.ignore
        finite = np.isfinite(flat)
        safe = np.where(finite, flat, 0)
        whole = safe == np.rint(safe)
        negative = finite & whole & (flat < 0) & ~ignored
        high = (
            finite & whole & (flat >= self.classes) & ~ignored if self.classes else np.zeros(len(flat), dtype=np.bool_)
        )
        for kind, rows in (
            ("nonfinite", ~finite),
            ("fraction", finite & ~whole),
            ("negative", negative),
            ("high", high),
        ):
            if rows.any():
                totals.bad[kind] = totals.bad.get(kind, 0) + int(rows.sum())
                totals.first.setdefault(kind, start + int(rows.argmax()))
        spoken = flat[finite & whole & ~ignored]
        if len(spoken):
            totals.lowest, totals.highest = (
                min(totals.lowest, float(spoken.min())),
                max(totals.highest, float(spoken.max())),
            )
        usable = finite & whole & ~negative & ~high & ~ignored
        ids = flat[usable].astype(np.int64)
        totals.ignored += int(ignored.sum())
        if len(ids):
            self._count(ids)
        self.out.rows += len(ids)
        return ids, usable

    def _count(self, ids: NDArray[Any]) -> None:
        if int(ids.max()) >= MOST_CLASSES:
            raise NndiagError(
                f"{self.name} holds the id {int(ids.max())}", hint="are these class ids? name another column"
            )
        counted = np.bincount(ids, minlength=len(self.totals.counts))
        if len(counted) > len(self.totals.counts):
            self.totals.counts = np.pad(self.totals.counts, (0, len(counted) - len(self.totals.counts)))
        self.totals.counts[: len(counted)] += counted

    def both(self, block: NDArray[Any], predictions: NDArray[Any]) -> None:
        """Add ids and the predictions for them."""
        ids, usable = self.labels(block)
        log_p, surplus = self.log_p(predictions)
        if self.out.losses is not None and len(ids):
            log_p, kept = log_p[usable], None if surplus is None else surplus[usable]
            if self.recipe.epsilon or self.weights is not None:
                u = targets_of(one_hot(ids, self.width), self.recipe.rate(self.width), self.weights)
                self.out.losses.add(u, log_p, kept, self.recipe.scale, self.taken + np.flatnonzero(usable))
            else:
                self.out.losses.add_hard(ids, log_p, kept, self.recipe.scale, self.taken + np.flatnonzero(usable))
        self.taken += len(usable)

    def done(self, given: str) -> Measured:
        """Return what was added up, with the number of classes."""
        out = super().done(given)
        out.classes = self.classes or len(self.totals.counts)
        if not self.classes:
            _fits(self.recipe, max(out.classes, 1))
        elif self.recipe.weights is not None:
            _fits(self.recipe, self.classes)
        if out.rows and out.classes < 2:
            raise NothingApplicableError(
                f"{self.name} holds one class (id 0)", hint="nothing can be learnt; pass --classes if there are more"
            )
        if out.rows and len(self.totals.counts) < out.classes:
            self.totals.counts = np.pad(self.totals.counts, (0, out.classes - len(self.totals.counts)))
        return out
