"""Arrays of .npy and .npz files, in bounded chunks. Nothing is unpickled; reading verifies every checksum."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from nndiag.core.errors import NndiagError
from nndiag.load.chunked import Chunked, Layout, blocks, damaged
from nndiag.load.door import Opened, inspect, missing_column, open_zip, shown
from nndiag.load.tensors import open_safetensors

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterator

    import numpy as np


def open_arrays(path: str, opened: Opened | None = None) -> dict[str, Chunked]:
    """Return every array of an .npy (under the name ""), .npz or .safetensors file, unread.

    Raises:
        NndiagError: Damaged, cut short, of Python objects, or of another kind.
    """
    opened = opened or inspect(path)
    readers = {"npy": _open_npy, "npz": _open_npz, "safetensors": open_safetensors}
    if opened.kind not in readers:
        raise NndiagError(f"{opened.shown} is {opened.kind}, not an array file", hint="give .npy, .npz or .safetensors")
    return readers[opened.kind](opened)


def pick(arrays: dict[str, Chunked], key: str | None, place: str, prefer: tuple[str, ...] = ()) -> Chunked:
    """Return the array named `key`, or the first of the preferred names, or the only one.

    Raises:
        UsageError: There is no such array, or nothing says which one is meant.
    """
    if key is not None and key in arrays:
        return arrays[key]
    names = list(arrays)
    if key is not None:
        raise missing_column(key, names, place)
    for name in prefer:
        if name in arrays:
            return arrays[name]
    if len(names) == 1:
        return arrays[names[0]]
    raise missing_column(prefer[0] if prefer else "?", names, place)


def _open_npy(opened: Opened) -> dict[str, Chunked]:
    def again() -> BinaryIO:
        return cast("BinaryIO", Path(opened.path).open("rb", buffering=0))

    with Path(opened.path).open("rb") as file:
        return {"": _npy(file, opened.size, opened.path, again, seekable=True)}


def _open_npz(opened: Opened) -> dict[str, Chunked]:
    arrays: dict[str, Chunked] = {}
    with open_zip(opened) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            key = member.filename.removesuffix(".npy")
            name = f"{opened.path}:{shown(key)}"

            @contextmanager
            def again(member: zipfile.ZipInfo = member) -> Iterator[BinaryIO]:
                with open_zip(opened) as fresh, fresh.open(member) as file:
                    yield cast("BinaryIO", file)

            with damaged(name), archive.open(member) as file:
                arrays[key] = _npy(cast("BinaryIO", file), member.file_size, name, again)
    if not arrays:
        raise NndiagError(f"'{opened.path}' holds no arrays", hint="write it with np.savez(path, x=x, y=y)")
    return arrays


def _npy(file: BinaryIO, size: int, name: str, again: Callable[[], Any], *, seekable: bool = False) -> Chunked:
    """Read one .npy header and compare what it declares with what is there."""
    import numpy as np

    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except Exception as broken:  # numpy raises many kinds on a damaged header
        said = str(broken).splitlines()[0][:120] if str(broken) else "its header"
        raise NndiagError(f"{name} is damaged: {said}", hint="write it again with np.save") from broken
    offset = file.tell()
    _numbers_only(dtype, name)
    if any(extent < 0 for extent in shape):
        raise NndiagError(f"{name} declares the shape {shape}", hint="write it again with np.save")
    declared = math.prod(shape) * dtype.itemsize
    if declared > size - offset:
        raise NndiagError(
            f"{name} declares {declared} bytes of data and holds {max(size - offset, 0)}",
            hint="it was cut short; write it again",
        )
    layout = Layout(shape or (1,), dtype, offset, fortran and len(shape) > 1)
    return Chunked(
        name,
        layout.shape,
        str(dtype.newbyteorder("=")),
        lambda rows: blocks(again, layout, rows, name),
        part=(lambda rows, rank, world: blocks(again, layout, rows, name, (rank, world)))
        if seekable and not layout.fortran
        else None,
    )


def _numbers_only(dtype: np.dtype[Any], name: str) -> None:
    """Refuse what is no number; objects would have to be unpickled."""
    if dtype.hasobject:
        raise NndiagError(
            f"{name} holds Python objects, which only unpickling could read; refused",
            hint="save numbers: np.save(path, np.asarray(rows, dtype=np.float64))",
        )
    if dtype.names:
        raise NndiagError(
            f"{name} is a structured array ({dtype})", hint="save one plain column: np.save(path, a['label'])"
        )
    if dtype.kind not in "biuf":
        word = "text" if dtype.kind in "US" else str(dtype)
        raise NndiagError(f"{name} holds {word}, not numbers", hint="map class names to ids 0 to C-1 before saving")
