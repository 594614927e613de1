"""Files of weights: safetensors one tensor at a time, torch checkpoints without running what is in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.lab.watch.blame import one_line, said
from nndiag.load.door import Opened, inspect, open_zip, shown
from nndiag.load.importing import make_importable
from nndiag.load.sources import WeightsFile
from nndiag.load.tensors import safetensors_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# Where people keep a state dict inside a checkpoint, most specific first.
_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
_DEEP = 4  # levels of nesting searched
_EXPANDED = 1 << 20  # elements beyond which a tensor must own its memory


def load_weights(path: str, *, trust: bool = False) -> WeightsFile:
    """Open a file of weights by its content.

    Args:
        path: .safetensors, a sharded .index.json, .pt, .pth, .bin or Lightning's .ckpt.
        trust: Whether pickled objects may be built.

    Raises:
        UsageError: There is no such file.
        NndiagError: It is damaged, of another kind, or holds pickled objects and is not trusted.
    """
    opened = inspect(path)
    if opened.kind == "safetensors":
        return _safetensors(path, {path: opened})
    if opened.kind == "json" and path.endswith(".index.json"):
        return _sharded(path)
    if opened.kind in {"torch", "pickle", "zip"}:
        return _torch(opened, trust=trust)
    raise NndiagError(
        f"'{path}' is {_a(opened.kind)}, not a file of weights", hint="give .safetensors, .pt, .pth or .ckpt"
    )


def _are(items: list[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}" if kind not in {"text", "json", "binary"} else kind


def _safetensors(name: str, files: Mapping[str, Opened]) -> WeightsFile:
    """Read headers now and tensors when asked."""
    places: dict[str, tuple[str, int, int, str, tuple[int, ...]]] = {}
    for path, opened in files.items():
        spans, base = safetensors_header(opened)
        for key, entry in spans.items():
            begin, stop = entry["data_offsets"]
            places[key] = (path, base + begin, stop - begin, str(entry["dtype"]), tuple(entry["shape"]))

    def read() -> Iterator[tuple[str, Tensor]]:
        for key, (path, offset, size, dtype, shape) in places.items():
            yield key, _read_tensor(path, offset, size, dtype, shape, key)

    return WeightsFile(name, {key: place[4] for key, place in places.items()}, read)


def _read_tensor(  # noqa: PLR0913, PLR0917 - one span of one file
    path: str, offset: int, size: int, code: str, shape: tuple[int, ...], key: str
) -> Tensor:
    import numpy as np
    import torch

    dtype = _dtypes().get(code)
    if dtype is None:
        raise NndiagError(f"'{path}': tensor '{shown(key)}' is of type {shown(code)}", hint="no torch dtype holds it")
    buffer = np.empty(size, np.uint8)
    view, done = buffer.data.cast("B") if size else memoryview(b""), 0
    with Path(path).open("rb", buffering=0) as file:
        file.seek(offset)
        while done < size:
            got = file.readinto(view[done:])
            if not got:
                raise NndiagError(f"'{path}' ends inside '{shown(key)}'", hint="it was cut short; write it again")
            done += got
    return torch.from_numpy(buffer).view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def _dtypes() -> dict[str, Any]:
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
        "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    }  # fmt: skip


def _sharded(path: str) -> WeightsFile:
    """Read an index of shards; each shard must be a plain file beside it."""
    try:
        index = json.loads(Path(path).read_bytes())
        shards = sorted({str(name) for name in index["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise NndiagError(f"'{path}' is no index of shards: {said(error)}", hint="it needs a weight_map") from error
    folder = Path(path).parent
    for name in shards:
        if Path(name).name != name:
            raise NndiagError(f"'{path}' points outside its folder: '{shown(name)}'", hint="refused")
    absent = [name for name in shards if not (folder / name).exists()]
    if absent:
        raise NndiagError(
            f"'{path}' names {one_line(map(shown, absent))}, which {_are(absent)} not beside it",
            hint="copy every shard into the folder",
        )
    files = {str(folder / name): inspect(str(folder / name)) for name in shards}
    odd = [name for name, opened in files.items() if opened.kind != "safetensors"]
    if odd:
        raise NndiagError(f"'{odd[0]}' is no safetensors file", hint="shards are read as safetensors only")
    return _safetensors(path, files)


def _torch(opened: Opened, *, trust: bool) -> WeightsFile:
    """Read a torch checkpoint, and find the state dict in it."""
    content = read_torch(opened, trust=trust)
    tensors = find_state_dict(content)
    if not tensors:
        raise NndiagError(
            f"'{opened.path}' holds no state dict, but {_described(content)}", hint="save model.state_dict()"
        )
    for key, tensor in tensors.items():
        _check_tensor(opened.path, key, tensor)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return WeightsFile(opened.path, shapes, lambda: iter(tensors.items()))


def read_torch(opened: Opened, *, trust: bool) -> Any:
    """Unpickle with weights_only, after the checksums that torch itself ignores.

    Raises:
        NndiagError: Damaged, TorchScript or an exported program, or pickled objects without trust.
    """
    import torch

    path = opened.path
    if opened.kind in {"torch", "zip"}:
        _check_zip(opened)
    try:
        sound = torch.sparse.check_sparse_tensor_invariants()  # type: ignore[no-untyped-call]
        # The open file, not its name: torch would take one that ends in .safetensors at its word.
        with sound, torch.serialization.safe_globals(_harmless()), Path(path).open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refused:
        if not trust:
            raise NndiagError(
                f"'{path}' holds pickled objects{_held(path)}",
                hint="save model.state_dict() alone, or --trust to run what is in the file",
            ) from refused
    except Exception as broken:
        raise NndiagError(f"'{path}' cannot be read: {said(broken)}", hint="write it again") from broken
    make_importable(str(Path.cwd()))  # the classes that the pickle names
    try:
        with Path(path).open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as broken:
        raise NndiagError(
            f"'{path}' cannot be unpickled: {said(broken)}", hint="is the code it needs importable from here?"
        ) from broken


def _harmless() -> list[Any]:
    """Classes that training scripts put beside their weights and that do nothing when built."""
    import argparse
    import pathlib

    import numpy as np
    from numpy._core import multiarray

    scalars = [np.dtype, multiarray.scalar]
    kinds = [type(np.dtype(code)) for code in "bBhHiIlLqQefdg?"]
    return [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, *scalars, *kinds]


def _check_zip(opened: Opened) -> None:
    """Verify names and checksums; TorchScript and exported programs are code."""
    with open_zip(opened) as archive:
        names = archive.namelist()
        try:
            bad = archive.testzip()
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError) as broken:
            raise NndiagError(f"'{opened.path}' is damaged: {broken}", hint="write it again") from broken
    if bad is not None:
        raise NndiagError(f"'{opened.path}' is damaged: '{shown(bad)}' fails its checksum", hint="write it again")
    inner = {name.split("/", 1)[-1] for name in names}
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        raise NndiagError(f"'{opened.path}' is TorchScript: a program", hint="--trust runs it, or save a state dict")
    if not any(name.endswith("data.pkl") for name in names):
        raise NndiagError(f"'{opened.path}' is a zip file without weights", hint="give a file of torch.save")


def _held(path: str) -> str:
    """Say which classes a pickle names, and which tensors it holds."""
    from nndiag.load.pickled import shapes_in

    names = _globals(path)
    tensors = [f"{shown(name)} {'x'.join(map(str, shape))}" for name, shape in shapes_in(path).items()]
    parts = [one_line(map(shown, names))] if names else []
    if tensors:
        parts.append(f"{len(tensors)} tensors: {one_line(tensors)}")
    return f": {'; '.join(parts)}" if parts else ""


def _globals(path: str) -> list[str]:
    """Return the names that unpickling would import, read without importing them."""
    import torch

    try:
        return sorted(map(str, torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception:  # noqa: BLE001 - old formats keep no readable list
        return []


def find_state_dict(content: Any, depth: int = 0) -> dict[str, Tensor]:
    """Return the largest mapping of names to tensors, looked for where checkpoints keep it.

    A module is asked for its state dict. Entries that are not tensors are left out.
    """
    import torch

    if isinstance(content, torch.nn.Module):
        return dict(content.state_dict())
    if isinstance(content, torch.Tensor) and depth == 0:
        return {"tensor": content}
    if not isinstance(content, Mapping) or depth > _DEEP:
        return {}
    own = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    for name in _NESTS:
        if name in content and (inner := find_state_dict(content[name], depth + 1)):
            return inner
    if own:
        return own
    nested = [find_state_dict(value, depth + 1) for value in content.values() if isinstance(value, Mapping)]
    return max(nested, key=len, default={})


def _check_tensor(path: str, key: str, tensor: Tensor) -> None:
    """Refuse tensors that claim more than they hold."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise NndiagError(f"'{path}': '{shown(key)}' is no dense tensor", hint="save it dense")
    if tensor.device.type == "meta":
        raise NndiagError(f"'{path}': '{shown(key)}' has no data (meta device)", hint="save it after loading")
    claimed = tensor.numel() * tensor.element_size()
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() > _EXPANDED and claimed > held:
        raise NndiagError(
            f"'{path}': '{shown(key)}' claims {claimed} bytes and holds {held}", hint="save it with .contiguous()"
        )


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict of {one_line([shown(str(key)) for key in content])}" if content else "an empty dict"
    return f"a {type(content).__name__}"
