"""How low can the loss go on these labels, and where do these predictions stand? One pass over the files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.layout import (
    BINARY,
    BUDGET,
    IDS,
    ROWS,
    Layout,
    Source,
    class_axis_of,
    flat_rows,
    lockstep,
    peeked,
    understand,
)
from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nndiag.checks.entropy_floor.distilled import Mixed
    from nndiag.science.entropy_rows import LabelTotals, LossTotals

MOST_CLASSES = 10_000_000
SAMPLE = 1024  # target rows kept for what needs whole rows
SAMPLE_NUMBERS = 1 << 15


@dataclass(frozen=True)
class Recipe:
    """The loss as the user trains it."""

    loss: str = "auto"  # auto | cross_entropy | bce | kl
    classes: int | None = None
    epsilon: float = 0.0
    style: str = "torch"
    temperature: float = 1.0
    ignore: int = -100
    weights: tuple[float, ...] | None = None
    alpha: float = 0.5  # weight of the labels beside a teacher

    @property
    def scale(self) -> float:
        """The factor of a distillation loss (Hinton et al. 2015, section 2)."""
        return self.temperature**2

    def entry_weights(self, entries: int) -> NDArray[Any] | None:
        """Weights of yes and no per entry (entries, 2): BCEWithLogitsLoss's pos_weight, or w0,w1 of a single entry."""
        import numpy as np

        if self.weights is None:
            return None
        given = np.asarray(self.weights, dtype=np.float64)
        if len(given) == 2 and entries == 1:
            return given[None, ::-1]
        return np.stack([np.broadcast_to(given, entries), np.ones(entries)], axis=1)

    def rate(self, classes: int) -> float:
        """Label smoothing, torch style."""
        from nndiag.science.entropy import smoothing_rate

        return smoothing_rate(self.epsilon, classes, self.style)


@dataclass
class IdTotals:
    """What class ids add up to."""

    counts: NDArray[Any]
    ignored: int = 0
    seen: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    lowest: float = math.inf
    highest: float = -math.inf


@dataclass
class Measured:
    """Everything that one pass over labels (and predictions) tells."""

    layout: Layout
    recipe: Recipe
    classes: int
    ids: IdTotals | None = None
    labels: LabelTotals | None = None
    losses: LossTotals | None = None
    given_as: str = ""  # "logits" or "probabilities"
    sample: NDArray[Any] | None = None  # target rows before smoothing and weights
    sample_weights: NDArray[Any] | None = None  # of yes-no labels: the weights of yes and no beside each sampled one
    column: NDArray[Any] | None = None  # sums of weighted yes and no per entry (entries, 2)
    rows: int = 0  # usable label rows
    mixed: Mixed | None = None  # of labels beside a teacher
    extra: dict[str, Any] = field(default_factory=dict)  # what the predictions look like


def measure(labels: Source, predictions: Source | None, given_as: str, recipe: Recipe) -> Measured:
    """Read the labels once, and the predictions beside them.

    Raises:
        NothingApplicableError: There are no rows.
        NndiagError: Shapes or counts do not belong together, or predictions are not finite.
        UsageError: Options contradict the files.
    """
    first, blocks = peeked(labels)
    shape: tuple[int | None, ...] | None = None
    others: Iterator[NDArray[Any]] | None = None
    if predictions is not None:
        block, others = peeked(predictions)
        shape = (predictions.shape[0], *block.shape[1:])
    reader, label_shape = _reader_of(labels, first, recipe, shape)
    if predictions is None or others is None:
        for block in blocks:
            reader.labels(block)
        return _done(reader, given_as)
    reader.attach(predictions, shape or (), label_shape, given_as)
    width = math.prod(size or 1 for size in (shape or ())[1:])
    step = max(BUDGET // max(width, 1), 1)
    for left, right in lockstep(blocks, others, (labels.name, predictions.name)):
        for start in range(0, len(left), step):
            reader.both(left[start : start + step], right[start : start + step])
    return _done(reader, given_as)


def _reader_of(
    labels: Source, first: NDArray[Any], recipe: Recipe, shape: tuple[int | None, ...] | None
) -> tuple[Any, tuple[int | None, ...]]:
    """The reader of these labels, and the shape that they have."""
    if hasattr(labels, "teacher"):
        from nndiag.checks.entropy_floor.distilled import MixReader, Paired

        if isinstance(labels, Paired):
            return MixReader(recipe, labels, first), labels.shape
    layout = understand(first, recipe.loss, shape, recipe.ignore)
    return _reader(layout, recipe, labels, first, shape), (labels.shape[0], *first.shape[1:])


def _done(reader: Any, given_as: str) -> Measured:
    measured: Measured = reader.done(given_as)
    return measured


def _reader(
    layout: Layout, recipe: Recipe, labels: Source, first: NDArray[Any], shape: tuple[int | None, ...] | None
) -> Any:
    from nndiag.checks.entropy_floor.readers import BinaryReader, IdReader, RowReader

    if layout.kind == ROWS:
        if recipe.classes not in (None, layout.columns):
            raise UsageError(
                f"{labels.name} has {layout.columns} columns, --classes says {recipe.classes}",
                hint="leave --classes out",
            )
        if layout.columns < 2:
            raise NothingApplicableError(f"{labels.name} has one class", hint="a loss over one class is always 0")
        _fits(recipe, layout.columns)
        return RowReader(layout, recipe, labels, first)
    if layout.kind == BINARY:
        _fits_entries(recipe, layout.columns)
        return BinaryReader(layout, recipe, labels, first)
    classes = recipe.classes
    if classes is None and shape is not None and len(shape) > 1:
        axis = class_axis_of(shape, (labels.shape[0], *first.shape[1:]), IDS, "the predictions")
        classes = shape[axis]
    return IdReader(layout, recipe, labels, first, classes)


def _fits(recipe: Recipe, classes: int) -> None:
    """Refuse class weights of another length."""
    if recipe.weights is not None and len(recipe.weights) != classes:
        raise UsageError(f"{len(recipe.weights)} class weights for {classes} classes", hint="give one per class")


def _fits_entries(recipe: Recipe, entries: int) -> None:
    """Refuse weights that are no pos_weight of these entries."""
    if (
        recipe.weights is not None
        and len(recipe.weights) not in (1, entries)
        and (len(recipe.weights), entries) != (2, 1)
    ):
        raise UsageError(
            f"{len(recipe.weights)} class weights for {entries} yes-no {'entries' if entries > 1 else 'entry'}",
            hint="one pos_weight per entry, one for all, or w0,w1 for a single entry",
        )


def prediction_rows(block: NDArray[Any], axis: int, width: int, start: int, name: str) -> NDArray[Any]:
    """Return predictions as finite float64 rows (rows, classes).

    Raises:
        NndiagError: A value is NaN or infinite (minus infinity, a masked logit, is let through).
    """
    import numpy as np

    rows = flat_rows(np.asarray(block), axis, width).astype(np.float64)
    broken = np.isnan(rows).any(1) | (rows == np.inf).any(1) | (rows == -np.inf).all(1)
    if broken.any():
        row = start + int(broken.argmax())
        raise NndiagError(
            f"row {row} of {name} is not finite", hint="predictions with NaN have no loss; find out why first"
        )
    return rows
