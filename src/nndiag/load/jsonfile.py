"""JSON lines and JSON arrays of numbers, lists or objects, line by line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.csvfile import digits
from nndiag.load.door import STDIN, Opened, missing_column, shown, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

WHOLE_JSON = 256 << 20  # a document that is not one value per line is read at once
SAMPLE = 50  # values looked at first
VALUE = "value"  # the column of lines that are no objects


def records(opened: Opened, again: Sequence[str] = ()) -> Iterator[tuple[int, Any]]:
    """Yield (line, value): one per line, or one per entry of a document that is a list.

    Raises:
        NndiagError: A line is no JSON.
    """
    lines = text_lines(opened, again)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        value = _value(line)
        nested = isinstance(value, list) and value and isinstance(value[0], (list, dict))
        if number == 1 and (value is _BROKEN or nested):
            yield from _document(opened, line, lines)
            return
        if value is _BROKEN:
            said = shown(line.strip(), 40)
            raise NndiagError(f"line {number} of {opened.shown} is no JSON: {said}", hint="one JSON value per line")
        yield number, value


_BROKEN = object()


def _value(text: str) -> Any:
    """Parse, or return the marker of a broken line; deep nesting and huge integers are broken too."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _BROKEN


def _document(opened: Opened, first: str, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Yield the entries of one JSON document."""
    parts, held = [first], len(first)
    for line in lines:
        parts.append(line)
        held += len(line)
        if held > WHOLE_JSON:
            said = f"{opened.shown} is one JSON document of more than {WHOLE_JSON >> 20} MiB"
            raise NndiagError(said, hint="write one value per line")
    value = _value("".join(parts))
    if value is _BROKEN:
        said = f"{opened.shown} is no JSON: {shown(first.strip(), 40)}"
        raise NndiagError(said, hint="it was cut short, or line 1 is damaged")
    yield from enumerate(value if isinstance(value, list) else [value], start=1)


def read_document(path: str) -> Any:
    """Return a whole small JSON document, or None when the file is none (JSON lines)."""
    if path == STDIN or Path(path).stat().st_size > WHOLE_JSON:
        return None
    value = _value(Path(path).read_text(encoding="utf-8-sig", errors="replace"))
    return None if value is _BROKEN else value


@dataclass(frozen=True)
class JsonLayout:
    """How a file of JSON values is written."""

    columns: tuple[str, ...]
    named: bool
    numeric: tuple[bool, ...] = (True,)
    lines: tuple[str, ...] = ()  # the sampled lines, kept because stdin can be read once


def sniff_json(opened: Opened) -> tuple[JsonLayout, int | None]:
    """Look at the first values; return the layout and the digits behind the point."""
    kept: tuple[str, ...] = ()
    if opened.path == STDIN:
        kept = tuple(islice(text_lines(opened), SAMPLE))
        parsed = [_value(line) for line in kept if line.strip()]
        values = parsed if parsed[:1] != [_BROKEN] else [[]]
    else:
        values = [value for _, value in islice(records(opened), SAMPLE)]
    if not values:
        raise NothingApplicableError(f"{opened.shown} has no rows", hint="was it written completely?")
    written = digits(kept or [json.dumps(value) for value in values])
    if not isinstance(values[0], dict):
        return JsonLayout((VALUE,), named=False, lines=kept), written
    objects = [value for value in values if isinstance(value, dict)]
    columns = tuple(dict.fromkeys(str(key) for value in objects for key in value))
    numeric = tuple(any(not isinstance(v.get(c), (str, dict, type(None))) for v in objects) for c in columns)
    return JsonLayout(columns, named=True, numeric=numeric, lines=kept), written


def json_chunks(opened: Opened, layout: JsonLayout, columns: list[str], rows: int) -> Iterator[NDArray[Any]]:
    """Yield rows of float64: the named entries of objects, or the values; lists give several columns."""
    import numpy as np

    block: list[list[float]] = []
    width = 0
    for number, value in records(opened, layout.lines):
        place = f"line {number} of {opened.shown}"
        if layout.named and not isinstance(value, dict):
            raise NndiagError(f"{place} is no object, the first line is", hint="one JSON object per line")
        cells = [value[c] if c in value else _absent(c, value, place) for c in columns] if layout.named else [value]
        row = list(chain.from_iterable(_numbers(cell, place) for cell in cells))
        width = width or len(row)
        if len(row) != width:
            said = f"{place} has {len(row)} numbers, the first has {width}"
            raise NndiagError(said, hint="every row needs the same length")
        block.append(row)
        if len(block) >= rows:
            yield np.array(block)
            block = []
    if block:
        yield np.array(block)


def _absent(name: str, value: dict[str, Any], place: str) -> Any:
    raise missing_column(name, [str(key) for key in value], place)


def _numbers(cell: Any, place: str) -> list[float]:
    """The number or numbers of one cell."""
    if isinstance(cell, list):
        return [entry for part in cell for entry in _numbers(part, place)]
    if cell is None:
        return [float("nan")]
    if isinstance(cell, (int, float)):
        try:
            return [float(cell)]
        except OverflowError:
            return [float("inf")]
    raise NndiagError(f"{place}: {shown(json.dumps(cell), 30)} is no number", hint="map class names to ids 0 to C-1")
