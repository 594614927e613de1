"""From what the user typed as DATA to a source of batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.load.arrays import open_arrays
from nndiag.load.batches import DEFAULT_SIZE, ArrayData
from nndiag.load.chunked import from_array
from nndiag.load.door import STDIN, inspect
from nndiag.load.shards import ENDINGS, shards
from nndiag.load.splitting import TARGET_KEYS, Shape, shape_of
from nndiag.load.tables import open_table
from nndiag.load.usercode import is_code, resolve

if TYPE_CHECKING:
    from torch import nn

    from nndiag.core.subject import DataSource
    from nndiag.load.chunked import Chunked

_INPUT_KEYS = ("x", "X", "inputs", "input", "data", "images", "features", "x_train")
_TARGET_KEYS = ("y", "Y", *TARGET_KEYS, "y_train")
_TARGET_COLUMNS = (*TARGET_KEYS, "class", "class_id")


def load_data(
    target: str,
    *,
    model: nn.Module | None = None,
    column: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> DataSource:
    """Resolve a DATA.

    Args:
        target: A file of arrays, a table, a folder of images by class, `file.py:attr`, `synthetic:…`, or "-".
        model: Whose forward tells which keys and how many arguments it takes.
        column: In tables, the column that is the target.
        batch_size: Rows of a batch where the data does not say.
        seed: Seeds the user's shuffling and what is invented.

    Raises:
        UsageError: It does not exist, or an option of it is unknown.
        NndiagError: It cannot be read.
        NothingApplicableError: It is empty.
    """
    shape = shape_of(model)
    size = batch_size or DEFAULT_SIZE
    if target.startswith("synthetic:") or target == "synthetic":
        from nndiag.load.invented.synthetic import parse_synthetic

        return parse_synthetic(target, size=size, seed=seed)
    if is_code(target):
        from nndiag.load.objects import object_data

        found = resolve(target, what="data")
        return object_data(target, found.thing, shape=shape, size=size, seed=seed)
    if target.lower().endswith(ENDINGS):
        return shards(target, size=size)
    if target != STDIN and Path(target).is_dir():
        from nndiag.load.images import image_folder

        return image_folder(target, size=size)
    return file_data(target, shape=shape, column=column, size=size)


def data_of(data: Any, *, model: nn.Module | None = None, batch_size: int | None = None, seed: int = 0) -> DataSource:
    """Return a source for a live object: tensors, a data set, a loader, an iterable, a factory."""
    if hasattr(data, "batches") and hasattr(data, "synthetic"):
        given: DataSource = data
        return given
    if isinstance(data, str | Path):
        return load_data(str(data), model=model, batch_size=batch_size, seed=seed)
    from nndiag.load.objects import object_data

    size = batch_size or DEFAULT_SIZE
    return object_data(type(data).__name__, data, shape=shape_of(model), size=size, seed=seed)


def file_data(target: str, *, shape: Shape, column: str | None, size: int) -> DataSource:
    """Return a source for a file of arrays or a table."""
    opened = inspect(target)
    if opened.kind in {"npy", "npz", "safetensors"}:
        return _array_data(target, open_arrays(target, opened), shape, size)
    if opened.kind in {"text", "json", "parquet"}:
        return _table_data(target, column, size)
    hint = "give .npy, .npz, .safetensors, .csv, .parquet, .tar, a folder of images or file.py:attr"
    if opened.kind in {"torch", "pickle"}:
        hint = f"load it in a function of yours and name that: data.py:load; or {hint}"
    raise NndiagError(f"'{target}' is {opened.kind}: no data that nndiag reads", hint=hint)


def _array_data(target: str, arrays: dict[str, Chunked], shape: Shape, size: int) -> ArrayData:
    """Find inputs and targets by key; keys that the forward knows are passed by keyword."""
    if len(arrays) == 1:
        return ArrayData(target, next(iter(arrays.values())), default=size)
    x = next((key for key in _INPUT_KEYS if key in arrays), None)
    y = next((key for key in _TARGET_KEYS if key in arrays), None)
    if x is None or x in shape.names:
        keyed = {key: array for key, array in arrays.items() if key in shape.names and key != y}
        if len(keyed) > 1 or (keyed and x is None):
            return ArrayData(target, keyed, arrays[y] if y else None, default=size)
    if x is None:
        x = next(key for key in arrays if key != y)
    if y is None:
        y = next((key for key in arrays if key != x and _matches(arrays[key], arrays[x])), None)
    return ArrayData(target, arrays[x], arrays[y] if y else None, default=size)


def _matches(targets: Chunked, inputs: Chunked) -> bool:
    return targets.shape[0] == inputs.shape[0]


def _table_data(target: str, column: str | None, size: int) -> ArrayData:
    table = open_table(target)
    folded = {name.strip().lower(): name for name in table.columns}
    wanted = column or next((folded[name] for name in _TARGET_COLUMNS if table.named and name in folded), None)
    if wanted is None:
        return ArrayData(target, table.select(), default=size)
    position = table.position(wanted)
    if not table.numeric[position]:
        raise NndiagError(f"column '{wanted}' of {table.place} holds text", hint="encode the classes as numbers")
    plain = table.select()
    names = list(plain.columns or [table.columns[i] for i, numeric in enumerate(table.numeric) if numeric])
    rest = [name for name in names if name != table.columns[position]]
    if not rest:
        return ArrayData(target, table.select([table.columns[position]]), default=size)
    if plain.once:
        return _split_in_memory(target, plain, names.index(table.columns[position]), size)
    return ArrayData(target, table.select(rest), table.select([table.columns[position]]), default=size, single=True)


def _split_in_memory(target: str, plain: Chunked, position: int, size: int) -> ArrayData:
    """Split the target off a table that can be read once."""
    import numpy as np

    whole = plain.whole()
    named = tuple(name for at, name in enumerate(plain.columns) if at != position)
    inputs = replace(from_array(np.delete(whole, position, 1), plain.name), columns=named, decimals=plain.decimals)
    targets = replace(from_array(whole[:, [position]], plain.name), decimals=plain.decimals)
    return ArrayData(target, inputs, targets, default=size, single=True)


def unknown_key(key: str, known: list[str], place: str) -> UsageError:
    """Say which keys a `synthetic:` target takes."""
    return UsageError(
        f"{place} takes no '{key}'", hint=did_you_mean(key, known, otherwise="it takes " + ", ".join(known))
    )
