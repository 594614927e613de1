"""The weights of an exported program (.pt2): JSON and raw bytes in a zip file, read without running the program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.lab.watch.blame import said
from nndiag.load.door import inspect, open_zip, shown
from nndiag.load.sources import WeightsFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_CONFIG = "data/weights/model_weights_config.json"
_CONFIG_BYTES = 64 << 20


def exported_weights(target: str) -> WeightsFile | None:
    """Return the weights of an exported program; None where this archive keeps none in the open.

    Raises:
        NndiagError: Its description and its bytes contradict each other.
    """
    with open_zip(inspect(target)) as archive:
        place = next((item for item in archive.infolist() if item.filename.endswith(_CONFIG)), None)
        if place is None or place.file_size > _CONFIG_BYTES:
            return None
        folder = place.filename.removesuffix(_CONFIG.rpartition("/")[2])
        try:
            config = json.loads(archive.read(place))["config"]
            entries = {str(name): _entry(folder, item) for name, item in config.items() if not item["use_pickle"]}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise NndiagError(f"'{target}' is damaged: {said(error)}", hint="export it again") from error

    def read() -> Iterator[tuple[str, Tensor]]:
        with open_zip(inspect(target)) as opened:
            for name, entry in entries.items():
                yield name, _tensor(target, name, opened, entry)

    return WeightsFile(target, {name: entry[1] for name, entry in entries.items()}, read) if entries else None


def _entry(folder: str, item: Any) -> tuple[str, tuple[int, ...], tuple[int, ...], int, int]:
    """Return member, sizes, strides, offset and type of one tensor."""
    about = item["tensor_meta"]
    sizes, strides = (tuple(int(size["as_int"]) for size in about[key]) for key in ("sizes", "strides"))
    return folder + str(item["path_name"]), sizes, strides, int(about["storage_offset"]["as_int"]), int(about["dtype"])


def _tensor(target: str, name: str, archive: Any, entry: tuple[Any, ...]) -> Tensor:
    import torch

    member, sizes, strides, offset, code = entry
    dtype = _dtypes().get(code)
    if dtype is None:
        raise NndiagError(f"'{target}': '{shown(name)}' is of an unknown type", hint="is this torch too old for it?")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    try:
        raw = bytearray(archive.read(member))
    except Exception as error:
        raise NndiagError(f"'{target}' is damaged: {said(error)}", hint="export it again") from error
    if 0 in sizes:
        return torch.empty(sizes, dtype=dtype)
    if min(sizes, default=1) < 0 or min(strides, default=0) < 0 or offset < 0 or last * dtype.itemsize > len(raw):
        raise NndiagError(f"'{target}': '{shown(name)}' claims more than it holds", hint="export it again")
    return torch.frombuffer(raw, dtype=dtype, count=last).as_strided(sizes, strides, offset)


def _dtypes() -> dict[int, Any]:
    """Return torch's types by the numbers of its export schema."""
    import torch

    return {
        1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
        7: torch.float32, 8: torch.float64, 10: torch.complex64, 11: torch.complex128, 12: torch.bool,
        13: torch.bfloat16,
    }  # fmt: skip
