"""CSV: where the columns are, whether there is a header, and the numbers, block by block."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.door import STDIN, Opened, shown, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SAMPLE = 100  # lines that decide about header and columns
MISSING = frozenset({"", "na", "n/a", "null", "none"})
BINARY = frozenset({".npz", ".npy", ".parquet", ".safetensors", ".pt", ".pth"})  # names that no text file bears
_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(nan|inf|infinity)$", re.IGNORECASE)


@dataclass(frozen=True)
class CsvLayout:
    """How a CSV file is written."""

    columns: tuple[str, ...]
    named: bool
    numeric: tuple[bool, ...]
    delimiter: str  # " " stands for any white space
    skip: int  # lines before the data
    lines: tuple[str, ...] = ()  # the sampled lines, kept because stdin can be read once


def is_number(cell: str) -> bool:
    """Whether a cell is written as a number."""
    return _NUMBER.match(cell.strip()) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().lower() in MISSING


def sniff_csv(opened: Opened) -> tuple[CsvLayout, int | None]:
    """Look at the first lines; return the layout and the digits behind the point.

    Raises:
        NothingApplicableError: There are no rows.
        NndiagError: A line holds another number of cells than the first.
    """
    suffix = Path(opened.path).suffix.lower()
    if suffix in BINARY:
        raise NndiagError(
            f"{opened.shown} is text, not a {suffix} file",
            hint="was it written completely, or is it a page that says why?",
        )
    lines = [line.rstrip("\r\n") for line in islice(text_lines(opened), SAMPLE)]
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if first is None:
        raise NothingApplicableError(f"{opened.shown} has no rows", hint="was it written completely?")
    delimiter = _delimiter(lines[first:])
    rows = [split(line, delimiter) for line in lines[first:] if line.strip()]
    head, body = rows[0], rows[1:]
    named = _is_header(head, body)
    data = body if named else rows
    if not data:
        raise NothingApplicableError(f"{opened.shown} has a header and no rows", hint="was it written completely?")
    width = len(head)
    if len(data[0]) == width + 1 and named:  # R writes no name over its row numbers
        head, width = ["", *head], width + 1
    columns = tuple(name.strip() for name in head) if named else tuple(map(str, range(width)))
    numeric = tuple(_numeric_column([row[i] for row in data if i < len(row)]) for i in range(width))
    skip = first + int(named)
    return CsvLayout(columns, named, numeric, delimiter, skip, _kept(lines, opened)), digits(lines[skip:])


def _kept(lines: list[str], opened: Opened) -> tuple[str, ...]:
    """The sampled lines of a stream that cannot be read again."""
    return tuple(lines) if opened.path == STDIN else ()


def _delimiter(lines: Sequence[str]) -> str:
    """The separator that splits the lines most evenly; white space when none does."""
    sample = [line for line in lines if line.strip()][:20]
    for candidate in (",", "\t", ";", "|"):
        counts = [line.count(candidate) for line in sample]
        if min(counts) > 0 and len(set(counts[1:] or counts)) == 1:
            return candidate
    if any("," in line for line in sample):
        return ","
    return " " if all(len(line.split()) > 1 for line in sample) else ","


def split(line: str, delimiter: str) -> list[str]:
    """Split one line; quotes are honoured."""
    if delimiter == " ":
        return line.split()
    return next(csv.reader([line], delimiter=delimiter), [])


def _is_header(head: list[str], body: list[list[str]]) -> bool:
    """Whether the first row names the columns."""
    if all(not is_number(cell) for cell in head):
        return True
    plain = [cell.strip() for cell in head]
    tail = plain[1:] if len(plain) > 1 and not is_number(plain[0]) else plain
    counted = tail in ([str(i) for i in range(len(tail))], [str(i + 1) for i in range(len(tail))])
    # pandas names columns 0, 1, 2 …; a first row "0,1" may also be a one-hot row
    if not counted or not body:
        return False
    return tail is not plain or len(tail) > 2 or (len(tail) == 2 and any("." in cell for cell in body[0]))


def _numeric_column(cells: list[str]) -> bool:
    """Whether a column is of numbers: false only when none of its sampled cells is one."""
    written = [cell for cell in cells if not is_missing(cell)]
    return not written or any(is_number(cell) for cell in written)


def digits(lines: Sequence[str]) -> int | None:
    """The digits behind the point among numbers of ordinary size: how finely the text was written."""
    found: list[tuple[float, int]] = []
    for line in lines:
        for whole, fraction, exponent in re.findall(r"(\d+)\.(\d+)(?:[eE]([+-]?\d+))?", line):
            places = len(fraction) - int((exponent or "0")[:6])
            found.append((float(f"{whole}.{fraction}e{(exponent or '0')[:6]}"), places))
    ordinary = [places for size, places in found if size >= 0.1]
    return max(ordinary or [places for _, places in found], default=None)


def csv_chunks(opened: Opened, layout: CsvLayout, wanted: list[int], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the wanted columns as float64; empty cells are NaN."""
    lines = islice(text_lines(opened, [f"{line}\n" for line in layout.lines]), layout.skip, None)
    number = layout.skip
    while block := list(islice(lines, min(rows, 1 << 16))):
        table = _block(block, layout, wanted, opened, number)
        number += len(block)
        if len(table):
            yield table


def _block(lines: list[str], layout: CsvLayout, wanted: list[int], opened: Opened, before: int) -> NDArray[Any]:
    """Read a block: NumPy's own parser where every cell is a number, cell by cell otherwise."""
    import numpy as np

    if not any(line.strip() for line in lines):
        return np.empty((0, len(wanted)))
    try:
        table = np.loadtxt(
            lines,
            delimiter=None if layout.delimiter == " " else layout.delimiter,
            usecols=wanted,
            ndmin=2,
            quotechar='"',
            comments=None,
        )
    except (ValueError, IndexError, UnicodeError):
        return _slowly(lines, layout, wanted, opened, before)
    return np.asarray(table)


def _slowly(lines: list[str], layout: CsvLayout, wanted: list[int], opened: Opened, before: int) -> NDArray[Any]:
    """Read a block cell by cell, so that the error can name the line and the column."""
    import numpy as np

    table = []
    for offset, line in enumerate(lines):
        if not line.strip() or line.startswith("#"):
            continue
        cells = split(line.rstrip("\r\n"), layout.delimiter)
        place = f"line {before + offset + 1} of {opened.shown}"
        if len(cells) != len(layout.columns):
            raise NndiagError(
                f"{place} has {len(cells)} cells, the first has {len(layout.columns)}",
                hint="the file was cut short there, or a cell holds the separator unquoted",
            )
        table.append([_cell(cells[i], layout.columns[i] if layout.named else str(i + 1), place) for i in wanted])
    return np.array(table, dtype=np.float64).reshape(len(table), len(wanted))


def _cell(cell: str, column: str, place: str) -> float:
    """One number, NaN for a missing one."""
    if is_missing(cell):
        return float("nan")
    try:
        return float(cell)
    except ValueError as text:
        raise NndiagError(
            f"{place}, column '{shown(column)}': '{shown(cell, 30)}' is no number",
            hint="give columns of numbers: FILE:COLUMN or FILE:COL1,COL2; class names must become ids 0 to C-1",
        ) from text
