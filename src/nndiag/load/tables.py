"""Tables in bounded chunks: CSV, JSON lines, Parquet, stdin. An error names the line and the column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.csvfile import csv_chunks, sniff_csv
from nndiag.load.door import STDIN, Opened, inspect, missing_column, require, shown
from nndiag.load.jsonfile import JsonLayout, json_chunks, sniff_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

from nndiag.load.chunked import Chunked

SINGLE = ("float", "halffloat")  # Arrow's float32 and float16
# first columns that number the rows and say nothing about them
ROW_NUMBERS = ("", "unnamed: 0", "index", "idx", "id", "row", "sample", "sample_id", "image_id", "step")


@dataclass(frozen=True)
class Table:
    """A table whose columns are known and whose rows are still in the file."""

    opened: Opened
    columns: tuple[str, ...]  # names; "0", "1", … where the file gives none
    named: bool
    numeric: tuple[bool, ...]  # judged on the first rows
    decimals: int | None  # digits behind the point
    layout: Any = None  # what its own reader needs

    @property
    def place(self) -> str:
        """The file, for messages."""
        return self.opened.shown

    def select(self, columns: Sequence[str] | None = None) -> Chunked:
        """Return some columns (all numeric ones by default) as rows of float64, empty cells as NaN.

        Raises:
            UsageError: There is no such column.
            NndiagError: No column holds numbers. While reading: a cell holds text.
        """
        left_out: tuple[str, ...] = ()
        if columns is None:
            wanted = [i for i, numeric in enumerate(self.numeric) if numeric]
            left_out = tuple(name for i, name in enumerate(self.columns) if i not in wanted)
            if not wanted:
                raise NndiagError(
                    f"{self.place} has no column of numbers",
                    hint=f"its columns: {', '.join(map(shown, self.columns[:12]))}",
                )
            if self.named and len(wanted) > 1 and self.columns[wanted[0]].strip().lower() in ROW_NUMBERS:
                left_out = (self.columns[wanted[0]] or "(row number)", *left_out)
                wanted = wanted[1:]
        else:
            wanted = [self.position(name) for name in columns]

        def read(rows: int) -> Iterator[NDArray[Any]]:
            return self._chunks(wanted, rows)

        names = tuple(self.columns[i] for i in wanted) if self.named else ()
        return Chunked(
            self.place, (None, len(wanted)), self.dtype(wanted) if self.opened.kind == "parquet" else "text", read,
            decimals=self.decimals, columns=names, left_out=left_out, once=self.opened.path == STDIN,
        )  # fmt: skip

    def dtype(self, wanted: Sequence[int]) -> str:
        """What Parquet columns are delivered as: float32 where none needs more."""
        return "float32" if all(self.layout[i] in SINGLE for i in wanted) else "float64"

    def position(self, name: str) -> int:
        """Return the place of a column, by name, or by number where the file gives no names."""
        if name in self.columns:
            return self.columns.index(name)
        folded = [column.strip().lower() for column in self.columns]
        if folded.count(name.strip().lower()) == 1:
            return folded.index(name.strip().lower())
        raise missing_column(name, self.columns, self.place)

    def _chunks(self, wanted: list[int], rows: int) -> Iterator[NDArray[Any]]:
        if self.opened.kind == "parquet":
            return _parquet_chunks(self, wanted, rows)
        if isinstance(self.layout, JsonLayout):
            return json_chunks(self.opened, self.layout, [self.columns[i] for i in wanted], rows)
        return csv_chunks(self.opened, self.layout, wanted, rows)


def open_table(path: str, opened: Opened | None = None) -> Table:
    """Return the table in a CSV, JSON-lines, JSON or Parquet file, or on stdin, with its columns but unread.

    Raises:
        UsageError: The file does not exist.
        NothingApplicableError: It has no rows.
        NndiagError: It is no table, or is damaged.
    """
    opened = opened or inspect(path)
    if opened.kind == "parquet":
        return _open_parquet(opened)
    if opened.kind == "json":
        plain, decimals = sniff_json(opened)
        return Table(opened, plain.columns, plain.named, plain.numeric, decimals, plain)
    if opened.kind == "text":
        layout, decimals = sniff_csv(opened)
        return Table(opened, layout.columns, layout.named, layout.numeric, decimals, layout)
    raise NndiagError(f"{opened.shown} is {opened.kind}, not a table", hint="give CSV, JSON lines or Parquet")


def _open_parquet(opened: Opened) -> Table:
    parquet = require("pyarrow.parquet", "data", "reading Parquet")
    try:
        file = parquet.ParquetFile(opened.path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        file.close()
    except Exception as broken:  # pyarrow raises its own kinds
        said = str(broken).splitlines()[0][:120]
        raise NndiagError(
            f"'{opened.path}' is damaged: {said}", hint="it was probably cut short; write it again"
        ) from broken
    if not rows:
        raise NothingApplicableError(f"'{opened.path}' has no rows", hint="was it written completely?")
    numeric = tuple(_holds_numbers(field.type) for field in schema)
    kinds = tuple(str(field.type) for field in schema)
    return Table(opened, tuple(schema.names), named=True, numeric=numeric, decimals=None, layout=kinds)


def _holds_numbers(kind: Any) -> bool:
    """Whether an Arrow column is of numbers, or of lists of numbers."""
    word = str(kind)
    inner = word.split("<", 1)[1] if word.startswith(("list", "fixed_size_list", "large_list")) else word
    return any(name in inner for name in ("int", "float", "double", "bool", "decimal"))


def _parquet_chunks(table: Table, wanted: list[int], rows: int) -> Iterator[NDArray[Any]]:
    """Yield rows of the wanted columns; a column of lists gives one column per entry."""
    import numpy as np

    parquet = require("pyarrow.parquet", "data", "reading Parquet")
    names, dtype = [table.columns[i] for i in wanted], np.dtype(table.dtype(wanted))
    try:
        with parquet.ParquetFile(table.opened.path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=names):
                parts = []
                for column, name in zip(batch.columns, names, strict=True):
                    if "list" in str(column.type):
                        cells = column.to_pylist()
                        parts.append(np.asarray(cells, dtype=np.float64))
                    else:
                        try:
                            parts.append(column.to_numpy(zero_copy_only=False).astype(dtype)[:, None])
                        except (TypeError, ValueError) as text:
                            raise NndiagError(
                                f"column '{shown(name)}' of {table.place} holds text", hint="name a column of numbers"
                            ) from text
                yield np.concatenate(parts, axis=1)
    except NndiagError:
        raise
    except Exception as broken:  # pyarrow raises its own kinds; ragged lists raise ValueError
        said = str(broken).splitlines()[0][:120]
        raise NndiagError(f"'{table.opened.path}' cannot be read: {said}", hint="write it again") from broken
