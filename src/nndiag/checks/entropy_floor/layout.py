"""What kind of labels are these: class ids, rows of probabilities, yes-no entries? Which predictions fit them?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IDS, ROWS, BINARY = "class ids", "rows of probabilities", "yes-no labels"
BUDGET = 1 << 17  # numbers in one block


class Source(Protocol):
    """Rows that are read in order, some at a time."""

    @property
    def name(self) -> str:
        """What the user typed."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape, None for an unknown number of rows."""

    @property
    def dtype(self) -> str:
        """NumPy's name of it, or "text"."""

    @property
    def decimals(self) -> int | None:
        """Digits behind the point, of text."""

    def chunks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """The rows in order."""


@dataclass(frozen=True)
class InMemory:
    """An array of the caller's, as a Source."""

    array: NDArray[Any]
    name: str = "array"
    decimals: int | None = None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The array's shape."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> str:
        """The array's dtype."""
        return str(self.array.dtype)

    def chunks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """The rows in order."""
        step = rows or max(BUDGET // max(self.array[:1].size, 1), 1)
        return (self.array[start : start + step] for start in range(0, len(self.array), step))


def as_source(material: Any, name: str) -> Source:
    """Return arrays, tensors and lists as a Source; a Source as it is."""
    if hasattr(material, "chunks"):
        source: Source = material
        return source
    import numpy as np

    plain = material.detach().cpu().numpy() if hasattr(material, "detach") else material
    return InMemory(np.asarray(plain), name)


@dataclass(frozen=True)
class Layout:
    """How a label file is understood."""

    kind: str  # IDS, ROWS or BINARY
    columns: int  # classes of ROWS, entries of BINARY, tokens of IDS
    class_axis: int = -1
    why: str = ""  # in words, when it had to be inferred
    last: bool = False  # whether the file was a single row that lists ids


def peeked(source: Source, rows: int | None = None) -> tuple[NDArray[Any], Iterator[NDArray[Any]]]:
    """Return the first block and an iterator that yields it again.

    Raises:
        NothingApplicableError: There are no rows.
    """
    blocks = source.chunks(rows)
    first = next((block for block in blocks if block.size), None)
    if first is None:
        raise NothingApplicableError(f"{source.name} has no rows", hint="was it written completely?")
    return first, chain([first], blocks)


def understand(first: NDArray[Any], loss: str, prediction_shape: tuple[int | None, ...] | None, ignore: int) -> Layout:
    """Decide what the labels are, from their first block, the loss and the shape of the predictions."""
    integer = first.dtype.kind in "biu"
    width = 1 if first.ndim == 1 else int(first.shape[-1])
    if first.ndim == 1 or (first.ndim == 2 and width == 1):
        return _column(first, loss, prediction_shape)
    if loss == "bce":
        return Layout(BINARY, width)
    if integer:
        return _integers(first, loss, prediction_shape)
    return _floats(first, loss, ignore)


def _column(first: NDArray[Any], loss: str, prediction_shape: tuple[int | None, ...] | None) -> Layout:
    """One number per row."""
    import numpy as np

    values = first[np.isfinite(first)]
    whole = bool((values == np.rint(values)).all())
    unit = bool(((values >= 0) & (values <= 1)).all())
    if loss == "bce":
        return Layout(BINARY, 1)
    if whole:
        narrow = prediction_shape is not None and (len(prediction_shape) == 1 or prediction_shape[1:] == (1,))
        if narrow and unit and loss == "auto":
            return Layout(BINARY, 1, why="one prediction per 0/1 label: binary cross-entropy")
        return Layout(IDS, 1)
    if unit and loss == "auto":
        return Layout(BINARY, 1, why="one fraction per row: binary cross-entropy")
    if unit:
        raise UsageError(
            "one fraction per row is no label of a cross-entropy over classes",
            hint="--loss bce for binary labels; ids or rows of probabilities otherwise",
        )
    return Layout(IDS, 1)


def _integers(first: NDArray[Any], loss: str, prediction_shape: tuple[int | None, ...] | None) -> Layout:
    """Whole numbers in several columns: token ids unless they can only be flags."""
    width = int(first.shape[-1])
    flags = first.dtype.kind == "b" or (int(first.min()) >= 0 and int(first.max()) <= 1)
    tokens = prediction_shape is not None and len(prediction_shape) == first.ndim + 1
    if flags and first.ndim == 2 and not tokens:
        if bool((first.sum(1) == 1).all()):
            return Layout(ROWS, width, why="one-hot rows")
        if loss == "auto":
            return Layout(BINARY, width, why="rows of 0 and 1 with several ones: binary cross-entropy")
    return Layout(IDS, width, why="whole numbers in rows: token ids")


def _floats(first: NDArray[Any], loss: str, ignore: int) -> Layout:
    """Fractions in several columns: probabilities, flags, or ids that were read as text."""
    import numpy as np

    width = int(first.shape[-1])
    if first.ndim > 2:
        axis = -1 if _sums_to_one(first, -1) or not _sums_to_one(first, 1) else 1
        return Layout(ROWS, int(first.shape[axis]), class_axis=axis)
    finite = np.isfinite(first).all()
    whole = bool(finite) and bool((first == np.rint(first)).all())
    if whole and first.min() >= 0 and first.max() <= 1 and (first.sum(1) > 1).any() and loss == "auto":
        return Layout(BINARY, width, why="rows of 0 and 1 with several ones: binary cross-entropy")
    if whole and (first == ignore).any():
        return Layout(IDS, width, why=f"whole numbers with {ignore} among them: token ids")
    if whole and len(first) == 1 and width > 2 and abs(float(first.sum()) - 1.0) > 0.5:
        return Layout(IDS, width, why="one row of whole numbers: class ids", last=True)
    return Layout(ROWS, width)


def _sums_to_one(block: NDArray[Any], axis: int) -> bool:
    import numpy as np

    return bool(np.abs(block[:64].sum(axis) - 1.0).max() < 0.05)


def flat_rows(block: NDArray[Any], axis: int, width: int) -> NDArray[Any]:
    """Bring the class axis last and the rest into rows."""
    import numpy as np

    if block.ndim == 2 and axis == -1:
        return block
    return np.moveaxis(block, axis, -1).reshape(-1, width)


def class_axis_of(shape: tuple[int | None, ...], label_shape: tuple[int | None, ...], kind: str, name: str) -> int:
    """Return which axis of the predictions holds the classes.

    Raises:
        NndiagError: The shapes do not belong together.
    """
    wanted = label_shape[1:] if kind == IDS else label_shape[1:-1]
    if kind == IDS and label_shape[1:] == (1,):
        wanted = ()
    inner = shape[1:]
    if kind == IDS and len(inner) == len(wanted) + 1:
        if inner[:-1] == wanted:
            return -1
        if inner[1:] == wanted:
            return 1  # torch's own order (N, C, d1, …)
    if kind == ROWS and shape[1:] == label_shape[1:]:
        return -1
    raise NndiagError(
        f"{name} has the shape {_shape(shape)}, the labels have {_shape(label_shape)}",
        hint="predictions are (rows, classes), or (rows, tokens, classes) for token ids",
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("rows" if size is None else str(size) for size in shape) + ")"


def lockstep(
    labels: Iterator[NDArray[Any]], others: Iterator[NDArray[Any]], names: tuple[str, str]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield equally long blocks of both.

    Raises:
        NndiagError: One ends before the other; with both counts.
    """
    left = right = None
    counts = [0, 0]
    while True:
        if left is None or not len(left):
            left = next((block for block in labels if len(block)), None)
        if right is None or not len(right):
            right = next((block for block in others if len(block)), None)
        if left is None or right is None:
            break
        n = min(len(left), len(right))
        counts = [counts[0] + n, counts[1] + n]
        yield left[:n], right[:n]
        left, right = left[n:], right[n:]
    counts[0] += (0 if left is None else len(left)) + sum(len(block) for block in labels)
    counts[1] += (0 if right is None else len(right)) + sum(len(block) for block in others)
    if counts[0] != counts[1]:
        raise NndiagError(
            f"{names[1]} has {counts[1]} rows, {names[0]} has {counts[0]}",
            hint="both must be of the same samples, in order",
        )
