"""What does a pickle hold? Read without building any of its objects."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES = 64 << 20  # of a pickle; the weights lie beside it
_DEEP = 40


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tensor of the pickle."""

    sizes: tuple[int, ...]


class _Inert:
    """Takes the place of every class and function that the pickle names: it keeps its state and does nothing."""

    state: Any = None

    def __init__(self, *_args: Any, **_named: Any) -> None:
        """Take whatever is passed."""

    def __setstate__(self, state: Any) -> None:
        """Keep it."""
        self.state = state

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Drop it."""

    def append(self, _item: Any) -> None:
        """Drop it."""

    def extend(self, _items: Any) -> None:
        """Drop them."""


def _tensor(_storage: Any, _offset: int, sizes: Any, *_rest: Any) -> _Shape:
    return _Shape(tuple(int(size) for size in sizes))


def _parameter(data: Any, *_rest: Any) -> Any:
    return data


class _Reader(pickle.Unpickler):
    """Gives a stand-in for every name; nothing is imported."""

    def find_class(self, _module: str, name: str) -> Any:
        """Return a stand-in."""
        known = {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter, "OrderedDict": dict}
        return known.get(name, _Inert)

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage as it is."""
        return pid


def shapes_in(path: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors in a checkpoint; empty where they cannot be read without building.

    Args:
        path: A file of torch.save, whose checksums have been verified.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(item for item in archive.infolist() if item.filename.endswith("data.pkl"))
            if member.file_size > _BYTES:
                return {}
            with archive.open(member) as file:
                content = _read(file)
        return dict(_tensors(content, "", 0))
    except Exception:  # noqa: BLE001 - any bytes may stand in the file; the refusal stands without the list
        return {}


def _read(file: IO[bytes]) -> Any:
    return _Reader(file).load()


def _tensors(thing: Any, name: str, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors in mappings and in the tables of modules."""
    if isinstance(thing, _Shape):
        yield name or "tensor", thing.sizes
        return
    parts = thing.state if isinstance(thing, _Inert) else thing
    if not isinstance(parts, dict) or depth > _DEEP:
        return
    is_module = "_parameters" in parts and "_modules" in parts
    tables = [parts[key] for key in ("_parameters", "_buffers", "_modules") if key in parts] if is_module else [parts]
    for table in tables:
        for key, value in table.items() if isinstance(table, dict) else ():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth + 1)
