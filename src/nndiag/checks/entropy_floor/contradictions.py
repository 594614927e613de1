"""ENT008: do equal inputs carry different labels? Then the floor is higher than the labels alone say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.layout import IDS, ROWS, Source, flat_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nndiag.checks.entropy_floor.measure import Measured

MOST_BYTES = 1 << 30
MOST_NUMBERS = 1 << 25  # labels of repeated inputs held at once
DIFFERENT = 1e-6


@dataclass(frozen=True)
class Contradictions:
    """What repeated inputs do to the floor."""

    groups: int  # inputs that occur with different labels
    rows: int  # samples in them
    repeated: int  # inputs that occur more than once
    rise: float  # by how much the mean floor rises, nats
    example: tuple[int, ...]  # rows of the largest group


def why_not(x: Source, labels: Source, measured: Measured) -> str:
    """Return why this cannot be judged; empty when it can."""
    size = 1
    for extent in x.shape:
        size *= extent or 0
    if getattr(labels, "once", False) or getattr(x, "once", False):
        return "stdin can be read once"
    if size * 8 > MOST_BYTES:
        return "the inputs are larger than a GiB"
    if measured.layout.kind not in (IDS, ROWS) or (measured.layout.kind == IDS and measured.layout.columns > 1):
        return "judged for one label per input only"
    if measured.recipe.weights is not None or measured.mixed is not None:
        return "not computed under class weights or a teacher"
    return ""


def contradictions(x: Source, labels: Source, measured: Measured) -> Contradictions:
    """Group rows by equal inputs, and compare the mean floor of groups with that of rows."""
    import numpy as np

    from nndiag.science.entropy import row_floor

    keys = [digest for block in x.chunks() for digest in _digests(block)]
    _, group, sizes = np.unique(np.array(keys, dtype="S16"), return_inverse=True, return_counts=True)
    repeated = sizes > 1
    slot = np.cumsum(repeated) - 1  # place of a repeated group among the repeated ones
    total, classes = int(repeated.sum()), measured.classes
    if not total or total * classes > MOST_NUMBERS:
        return Contradictions(0, 0, total, 0.0, ())
    sums, alone = np.zeros((total, classes)), np.zeros(total)
    low, high, count = np.full((total, classes), np.inf), np.full((total, classes), -np.inf), np.zeros(total)
    at = 0
    for block in labels.chunks():
        targets, usable = _targets(block, measured)
        members = group[at : at + len(usable)]
        at += len(usable)
        inside = usable & repeated[members]
        where, u = slot[members[inside]], targets[inside[usable]]
        np.add.at(sums, where, u)
        np.add.at(alone, where, row_floor(u))
        np.add.at(count, where, 1.0)
        np.minimum.at(low, where, u)
        np.maximum.at(high, where, u)
    differ = (count > 1) & ((high - low).max(1) > DIFFERENT)
    mean = sums / np.maximum(count, 1.0)[:, None]
    rise = float((count * row_floor(mean) - alone)[differ].sum()) / max(measured.rows, 1)
    example: tuple[int, ...] = ()
    if differ.any():
        largest = int(np.argmax(np.where(differ, count, 0)))
        original = int(np.flatnonzero(repeated)[largest])
        example = tuple(int(row) for row in np.flatnonzero(group == original)[:4])
    return Contradictions(int(differ.sum()), int(count[differ].sum()), total, rise * measured.recipe.scale, example)


def _digests(block: NDArray[Any]) -> list[bytes]:
    """One 16-byte digest per row; +0.0 makes the two zeros equal."""
    import numpy as np

    rows = np.ascontiguousarray(block.reshape(len(block), -1))
    if rows.dtype.kind == "f":
        rows = rows + rows.dtype.type(0.0)
    # a digest may end in a zero byte, which NumPy's byte strings drop; both equal digests lose it alike
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def _targets(block: NDArray[Any], measured: Measured) -> tuple[NDArray[Any], NDArray[Any]]:
    """Target rows of usable labels, and the mask of those."""
    import numpy as np

    from nndiag.science.entropy import one_hot, soften, targets_of

    recipe, classes = measured.recipe, measured.classes
    if measured.layout.kind == IDS:
        flat = np.asarray(block).ravel()
        usable = np.isfinite(flat) & (flat == np.rint(flat)) & (flat >= 0) & (flat < classes) & (flat != recipe.ignore)
        q = one_hot(flat[usable].astype(np.int64), classes)
    else:
        rows = flat_rows(np.asarray(block, dtype=np.float64), measured.layout.class_axis, classes)
        usable = np.isfinite(rows).all(1) & (rows >= 0).all(1) & (rows > 0).any(1)
        q = soften(rows[usable], recipe.temperature)
    return np.asarray(targets_of(q, recipe.rate(classes))), usable
