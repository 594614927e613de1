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

    @property
    def scale(self) -> float:
        """The factor of a distillation loss (Hinton et al. 2015, section 2)."""
        return self.temperature**2

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
    column: NDArray[Any] | None = None  # sum of yes-no labels per entry
    rows: int = 0  # usable label rows
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
    layout = understand(first, recipe.loss, shape, recipe.ignore)
    label_shape = (labels.shape[0], *first.shape[1:])
    reader = _reader(layout, recipe, labels, first, shape)
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


def _done(reader: Any, given_as: str) -> Measured:
    measured: Measured = reader.done(given_as)
    return measured


def _reader(
    layout: Layout, recipe: Recipe, labels: Source, first: NDArray[Any], shape: tuple[int | None, ...] | None
) -> Any:
    from nndiag.checks.entropy_floor.readers import BinaryReader, IdReader, RowReader

    if layout.kind == BINARY and recipe.weights is not None:
        raise UsageError("class weights belong to a cross-entropy over classes", hint="leave them out with --loss bce")
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
