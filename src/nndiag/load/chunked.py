"""An array that is read from its beginning, some rows at a time: a 10 GB file is never loaded whole."""

from __future__ import annotations

import math
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.load.door import WHOLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

CACHE_BYTES = 1 << 20  # chunks of this size stay in the processor's cache


@dataclass(frozen=True)
class Chunked:
    """An array that is read from its beginning, some rows at a time.

    `chunks` may be called again unless `once` (stdin). Rows are the first axis; `shape[0]` is None where only
    reading to the end tells (text).
    """

    name: str  # "labels.npz:y"
    shape: tuple[int | None, ...]
    dtype: str  # "float32", "int64", "bfloat16" (delivered as float32), "text" (delivered as float64)
    reader: Callable[[int], Iterator[NDArray[Any]]]
    decimals: int | None = None  # digits behind the point, where the numbers were written as text
    columns: tuple[str, ...] = ()  # names, where there are any
    left_out: tuple[str, ...] = ()  # columns that hold no numbers and were not asked for
    once: bool = False
    part: Callable[[int, int, int], Iterator[NDArray[Any]]] | None = (
        None  # (rows, rank, world): own blocks only, by seeking
    )

    def share(self, rows: int, rank: int, world: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield every `world`-th block of rows with the number of its first row, beginning with block `rank`."""
        if self.part is not None and world > 1:
            for turn, block in enumerate(self.part(rows, rank, world)):
                yield (rank + turn * world) * rows, block
            return
        start = 0
        for turn, block in enumerate(self.chunks(rows)):
            if turn % world == rank:
                yield start, block
            start += len(block)

    def chunks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield the rows in order, at most `rows` at a time (by default about a MiB)."""
        width = math.prod(size or 1 for size in self.shape[1:]) * 8
        return self.reader(rows or max(CACHE_BYTES // max(width, 1), 1))

    def whole(self, limit: int = WHOLE_BYTES) -> NDArray[Any]:
        """Return the whole array.

        Raises:
            NndiagError: It is larger than `limit` bytes.
        """
        import numpy as np

        parts: list[NDArray[Any]] = []
        held = 0
        for part in self.chunks():
            held += part.nbytes
            if held > limit:
                raise NndiagError(f"{self.name} is larger than {limit >> 20} MiB", hint="give a sample of its rows")
            parts.append(part)
        if not parts:
            return np.empty([size or 0 for size in self.shape])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def from_array(array: NDArray[Any], name: str = "array") -> Chunked:
    """Wrap an array that is already in memory."""

    def read(rows: int) -> Iterator[NDArray[Any]]:
        for start in range(0, len(array), rows):
            yield array[start : start + rows]

    return Chunked(name, tuple(array.shape), str(array.dtype), read)


@contextmanager
def damaged(name: str) -> Iterator[None]:
    """Turn what a broken file makes the readers raise into two lines."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, _zlib_error()) as broken:
        raise NndiagError(f"{name} is damaged: {broken}", hint="it was probably cut short; write it again") from broken


def _zlib_error() -> type[Exception]:
    """The exception of a damaged deflate stream."""
    import zlib

    return zlib.error


@dataclass(frozen=True)
class Layout:
    """Where an array's numbers lie in its file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    fortran: bool = False
    bfloat16: bool = False


def blocks(
    again: Callable[[], Any], layout: Layout, rows: int, name: str, turn: tuple[int, int] = (0, 1)
) -> Iterator[NDArray[Any]]:
    """Yield blocks of rows, reading no more than each needs; of (rank, world), only this rank's turns."""
    import numpy as np

    total, width = layout.shape[0], math.prod(layout.shape[1:])
    with damaged(name), again() as file:
        if layout.fortran:
            yield from _fortranblocks(file, layout, rows, name)
            return
        _skip(file, layout.offset)
        rank, world = turn
        for start in range(rank * rows, total, world * rows):
            count = min(rows, total - start)
            if world > 1:
                file.seek(layout.offset + start * width * layout.dtype.itemsize)
            block = np.empty(count * width, layout.dtype)
            _fill(file, block, name)
            if layout.bfloat16:
                block = (block.astype(np.uint32) << 16).view(np.float32)
            native = block.astype(block.dtype.newbyteorder("="), copy=False)
            yield native.reshape(count, *layout.shape[1:])


def _fortranblocks(file: Any, layout: Layout, rows: int, name: str) -> Iterator[NDArray[Any]]:
    """Yield blocks of rows of a column-major array: one seek per column, or the whole when it is small."""
    import numpy as np

    total, width, item = layout.shape[0], math.prod(layout.shape[1:]), layout.dtype.itemsize
    if total * width * item <= 64 << 20:
        _skip(file, layout.offset)
        flat = np.empty(total * width, layout.dtype)
        _fill(file, flat, name)
        whole = np.ascontiguousarray(flat.reshape(layout.shape, order="F"))
        for start in range(0, total, rows):
            yield whole[start : start + rows].astype(layout.dtype.newbyteorder("="), copy=False)
        return
    if len(layout.shape) != 2 or not file.seekable():
        raise NndiagError(f"{name} is in Fortran order", hint="save it as np.ascontiguousarray(a)")
    for start in range(0, total, rows):
        count = min(rows, total - start)
        block = np.empty((width, count), layout.dtype)
        for column in range(width):
            file.seek(layout.offset + (column * total + start) * item)
            _fill(file, block[column], name)
        yield np.ascontiguousarray(block.T).astype(layout.dtype.newbyteorder("="), copy=False)


def _skip(file: Any, count: int) -> None:
    """Move past the header, also in a member of a zip file."""
    if file.seekable():
        file.seek(count)
    else:
        file.read(count)


def _fill(file: Any, block: NDArray[Any], name: str) -> None:
    """Fill the contiguous array, or say that the file ends early."""
    if not block.size:
        return
    view, done = block.data.cast("B"), 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise NndiagError(
                f"{name} ends {len(view) - done} bytes too early", hint="it was cut short; write it again"
            )
        done += got
