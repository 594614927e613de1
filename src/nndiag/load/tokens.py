"""Ids of a corpus as a stream: integer arrays, tables, or running text cut at white space."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError, did_you_mean
from nndiag.load.arrays import open_arrays, pick
from nndiag.load.door import Opened, inspect, require, shown, split_column, text_lines
from nndiag.load.tables import open_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from nndiag.load.chunked import Chunked

_IDS = ("input_ids", "ids", "tokens", "token_ids", "token", "x")
_NUMBER = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?|[+-]?\d+[eE][+-]?\d+")
_BLOCK = 1 << 18  # ids per chunk of text


@dataclass(frozen=True, slots=True)
class Tokens:
    """A corpus of ids, read from its beginning as often as wanted."""

    name: str
    kind: str  # "ids", or "words": ids given in order of first appearance
    width: int | None  # ids per row, where the file has rows
    reader: Callable[[], Iterator[NDArray[Any]]]

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Yield one-dimensional int64 arrays in order."""
        return self.reader()


def load_tokens(spec: str) -> Tokens:
    """Open `--tokens FILE[:COLUMN]`.

    Args:
        spec: npy, npz, safetensors, parquet or csv with whole numbers; a text file of whole numbers; or running
            text, whose words become ids in order of first appearance.

    Returns:
        The stream.

    Raises:
        UsageError: No such file or column.
        NothingApplicableError: The file is empty.
        NndiagError: It is damaged, holds fractions, or is text in another encoding.
    """
    path, column = split_column(spec)
    opened = inspect(path)
    if opened.kind in {"npy", "npz", "safetensors"}:
        return _of_array(pick(open_arrays(path, opened), column, opened.shown, prefer=_IDS), opened)
    if opened.kind == "parquet":
        return _of_parquet(opened, column)
    if opened.kind == "json" or (opened.kind == "text" and _is_table(opened)):
        table = open_table(path, opened)
        known = [name for name in _IDS if name in table.columns]
        names = [column] if column else known[:1] or None
        return _of_array(table.select(names), opened)
    if opened.kind == "text":
        return _of_text(opened)
    raise NndiagError(
        f"{opened.shown} is {opened.kind}, which holds no ids", hint="give .npy, .parquet, .csv or a text file"
    )


def _is_table(opened: Opened) -> bool:
    return opened.path.lower().endswith((".csv", ".tsv"))


def _of_array(source: Chunked, opened: Opened) -> Tokens:
    if source.shape[0] == 0 or 0 in source.shape[1:]:
        raise NothingApplicableError(f"{opened.shown} holds no ids", hint="its array is empty")
    if source.dtype.startswith(("float", "bfloat")) and opened.kind in {"npy", "npz", "safetensors"}:
        raise NndiagError(
            f"{opened.shown} holds {source.dtype}, and ids are whole numbers",
            hint="save them as np.asarray(ids, dtype=np.int64)",
        )
    if source.dtype == "bool":
        raise NndiagError(f"{opened.shown} holds booleans, not ids", hint="save the ids themselves")
    width = source.shape[1] if len(source.shape) > 1 and source.shape[1] != 1 else None
    return Tokens(opened.shown, "ids", width, lambda: (_whole(part, opened) for part in source.chunks()))


def _whole(part: NDArray[Any], opened: Opened) -> NDArray[Any]:
    """Return ids as int64; a table delivers them as floats."""
    import numpy as np

    flat = part.reshape(-1)
    if flat.dtype.kind == "f":
        if not np.isfinite(flat).all() or (flat != np.round(flat)).any():
            wrong = flat[~np.isfinite(flat) | (flat != np.round(flat))][0]
            raise NndiagError(f"{opened.shown} holds {wrong:g}, and ids are whole numbers", hint="give the id column")
    elif flat.dtype.kind == "u" and flat.size and flat.max() > np.iinfo(np.int64).max:
        raise NndiagError(f"{opened.shown} holds ids beyond 63 bits", hint="save them as int64")
    ids: NDArray[Any] = flat.astype(np.int64)
    return ids


def _of_parquet(opened: Opened, column: str | None) -> Tokens:
    """Read a column of lists of ids (as tokenizers write it) or one of whole numbers."""
    parquet = require("pyarrow.parquet", "data", "reading Parquet")
    types = require("pyarrow.types", "data", "reading Parquet")
    try:
        schema = parquet.read_schema(opened.path)
    except Exception as broken:  # pyarrow raises many kinds
        raise NndiagError(f"{opened.shown} is damaged: {broken}", hint="write it again") from broken
    lists = [
        field.name
        for field in schema
        if (types.is_list(field.type) or types.is_large_list(field.type)) and types.is_integer(field.type.value_type)
    ]
    if column is not None and column not in schema.names:
        raise NndiagError(f"{opened.shown} has no column '{shown(column)}'", hint=did_you_mean(column, schema.names))
    preferred = next((name for name in _IDS if name in lists), None)
    wanted = column if column in lists else (None if column else preferred or (lists[0] if lists else None))
    if wanted is None:
        table = open_table(opened.path, opened)
        known = [name for name in _IDS if name in table.columns]
        return _of_array(table.select([column] if column else known[:1] or None), opened)

    def read() -> Iterator[NDArray[Any]]:
        import numpy as np

        with parquet.ParquetFile(opened.path) as file:
            for batch in file.iter_batches(columns=[wanted], batch_size=4096):
                values = batch.column(0).flatten().to_numpy(zero_copy_only=False)
                yield _whole(np.asarray(values), opened)

    return Tokens(opened.shown, "ids", None, read)


def _of_text(opened: Opened) -> Tokens:
    """Read whole numbers, or words; the first words decide which."""
    first = _first_words(opened)
    if not first:
        raise NothingApplicableError(f"{opened.shown} holds no words", hint="it is blank")
    if sum(_NUMBER.fullmatch(word) is not None for word in first) > 0.9 * len(first):
        return Tokens(opened.shown, "ids", None, lambda: _numbers(opened))
    if all(_NUMBER.fullmatch(word) or _DECIMAL.fullmatch(word) for word in first):
        raise NndiagError(f"{opened.shown} holds fractions, and ids are whole numbers", hint="write ids as integers")
    return Tokens(opened.shown, "words", None, lambda: _words(opened))


def _first_words(opened: Opened) -> list[str]:
    found: list[str] = []
    for line in text_lines(opened):
        found += _cut(line, opened)
        if len(found) >= 64:
            break
    return found


def _cut(line: str, opened: Opened) -> list[str]:
    if any("\udc80" <= letter <= "\udcff" for letter in line) if not line.isascii() else False:
        raise NndiagError(f"{opened.shown} is not UTF-8 text", hint="convert it: iconv -f latin1 -t utf-8 FILE")
    return line.replace(",", " ").replace(";", " ").split() if line[:1].isdigit() else line.split()


def _numbers(opened: Opened) -> Iterator[NDArray[Any]]:
    def values() -> Iterator[int]:
        for number, line in enumerate(text_lines(opened), 1):
            for word in _cut(line, opened):
                if not _NUMBER.fullmatch(word):
                    raise NndiagError(
                        f"line {number} of {opened.shown} holds '{shown(word)}' among ids",
                        hint="give whole numbers only, or text only",
                    )
                yield int(word)

    return _blocks(values())


def _words(opened: Opened) -> Iterator[NDArray[Any]]:
    known: dict[str, int] = {}
    words = chain.from_iterable(_cut(line, opened) for line in text_lines(opened))
    return _blocks(known.setdefault(word, len(known)) for word in words)


def _blocks(values: Iterable[int]) -> Iterator[NDArray[Any]]:
    import numpy as np

    block: list[int] = []
    for value in values:
        block.append(value)
        if len(block) == _BLOCK:
            yield np.asarray(block, dtype=np.int64)
            block = []
    if block:
        yield np.asarray(block, dtype=np.int64)
