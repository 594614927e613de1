"""Tensors of a .safetensors file: the header checked entry by entry, the numbers read lazily, without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.load.chunked import Chunked, Layout, blocks
from nndiag.load.door import Opened, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HEADER_BYTES = 100 << 20  # the format's own limit
_SAFE = {  # safetensors dtype -> (numpy dtype, bytes)
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def safetensors_header(opened: Opened) -> tuple[dict[str, Any], int]:
    """Return the checked header of a safetensors file and the offset of its data.

    Every span lies inside the file, none overlaps another, none is named twice, and each has the size that its
    shape and dtype need.

    Raises:
        NndiagError: It does not add up.
    """
    with Path(opened.path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER_BYTES, max(opened.size - 8, 0)):
            raise NndiagError(
                f"'{opened.path}' declares a header of {length} bytes in a {opened.size}-byte file",
                hint="it was cut short; write it again",
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
        spans = {name: entry for name, entry in header.items() if name != "__metadata__"}
        data = opened.size - 8 - length
        end = 0
        for name, entry in sorted(spans.items(), key=lambda item: tuple(item[1]["data_offsets"])):
            begin, stop = entry["data_offsets"]
            need = math.prod(entry["shape"]) * _bits(entry["dtype"]) // 8
            if not (end <= begin <= stop <= data) or stop - begin != need or min(entry["shape"], default=0) < 0:
                raise ValueError(f"tensor '{shown(name)}' does not fit its place")  # noqa: TRY301 - one way out
            end = stop
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as broken:
        raise NndiagError(f"'{opened.path}' is damaged: {broken}", hint="write it again") from broken
    return spans, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a JSON object that names a key twice."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return entries


def _bits(dtype: str) -> int:
    """Bits of one element of a safetensors dtype."""
    digits = "".join(char for char in dtype.split("_", maxsplit=1)[0] if char.isdigit())
    return 8 if dtype == "BOOL" else int(digits or "0")


def open_safetensors(opened: Opened) -> dict[str, Chunked]:
    """Return every tensor of numbers, unread."""
    import numpy as np

    spans, base = safetensors_header(opened)
    arrays: dict[str, Chunked] = {}
    for key, entry in spans.items():
        code = _SAFE.get(entry["dtype"])
        if code is None:
            continue  # 8-bit and smaller floats: no label, no input is stored so
        half = code == "bfloat16"
        dtype = np.dtype("<u2" if half else code)
        layout = Layout(tuple(entry["shape"]) or (1,), dtype, base + entry["data_offsets"][0], bfloat16=half)
        name = f"{opened.path}:{shown(key)}"

        def read(rows: int, layout: Layout = layout, name: str = name) -> Iterator[NDArray[Any]]:
            return blocks(lambda: Path(opened.path).open("rb", buffering=0), layout, rows, name)

        arrays[key] = Chunked(name, layout.shape, "bfloat16" if half else str(dtype), read)
    if not arrays:
        raise NndiagError(
            f"'{opened.path}' holds no arrays of numbers", hint="write it with safetensors.numpy.save_file"
        )
    return arrays
