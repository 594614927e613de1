"""A column of class names in a CSV file, as ids 0 to C-1 in the order of the sorted names."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError
from nndiag.load.chunked import Chunked
from nndiag.load.csvfile import is_missing, sniff_csv, split
from nndiag.load.door import STDIN, Opened, shown, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

MOST_NAMES = 100_000
REPEATS = 2  # rows per name: below it, they are identifiers of the rows and no classes


def class_names(opened: Opened, column: str | None, prefer: tuple[str, ...]) -> Chunked | None:
    """Return the ids behind a column of names; None where the wanted column holds numbers, or none is wanted.

    Raises:
        NndiagError: Nearly every row has a name of its own, or a cell is empty.
    """
    if opened.kind != "text" or opened.path == STDIN:
        return None
    layout, _ = sniff_csv(opened)
    folded = {name.strip().lower(): i for i, name in reversed(list(enumerate(layout.columns)))}
    wanted = (column.strip().lower(),) if column is not None else prefer
    at = next((folded[name] for name in wanted if name in folded), None)
    if at is None or not layout.named or layout.numeric[at]:
        return None
    place = f"{opened.shown}, column '{shown(layout.columns[at])}'"
    found: dict[str, int] = {}
    codes: list[int] = []
    for number, line in enumerate(islice(text_lines(opened), layout.skip, None), start=layout.skip + 1):
        if not line.strip():
            continue
        row = split(line.rstrip("\r\n"), layout.delimiter)
        cell = row[at].strip() if at < len(row) else ""
        if is_missing(cell):
            raise NndiagError(f"{place}: line {number} has no class", hint="drop the row or fill in its class")
        codes.append(found.setdefault(cell, len(found)))
    if len(found) > MOST_NAMES or (len(found) > 1 and REPEATS * len(found) > len(codes)):
        raise NndiagError(
            f"{place} holds {len(found)} different texts in {len(codes)} rows: no classes",
            hint="name the column of labels: FILE:COLUMN",
        )
    return _ids(place, found, codes)


def _ids(place: str, found: dict[str, int], codes: list[int]) -> Chunked:
    import numpy as np

    names = sorted(found)
    order = np.empty(len(names), dtype=np.int64)
    order[[found[name] for name in names]] = np.arange(len(names))
    ids = order[np.asarray(codes, dtype=np.int64)]

    def read(rows: int) -> Iterator[NDArray[Any]]:
        return (ids[start : start + rows] for start in range(0, len(ids), rows))

    return Chunked(place, ids.shape, "int64", read, columns=tuple(names))
