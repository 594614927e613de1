"""Live data: tensors, data sets, loaders, iterables, factories. An item's looks decide whether it is a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.load.batches import LoaderData, Remembered, in_groups
from nndiag.load.splitting import TARGET_KEYS, Shape, split
from nndiag.load.usercode import called, users_code

if TYPE_CHECKING:
    from nndiag.core.subject import DataSource


def object_data(name: str, thing: Any, *, shape: Shape, size: int, seed: int) -> DataSource:
    """Return a source for an object.

    Args:
        name: What the user typed.
        thing: A tensor or array of samples; a pair of them; a dict of them; a map-style or iterable data set; a
            loader; an iterable of batches or samples; a function that returns any of these.
        shape: What the model's forward takes.
        size: Rows of a batch where that is ours to decide.
        seed: Seeds shuffling.
    """
    begin = _beginner(name, thing, shape=shape, size=size, seed=seed)
    return LoaderData(name, begin, shape, seed)


def _beginner(  # noqa: PLR0911 - one return for each kind of data
    name: str, thing: Any, *, shape: Shape, size: int, seed: int
) -> Callable[[int | None], Iterable[Any]]:
    """Return a function that begins to read the object's batches from the start."""
    from torch import nn
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    if isinstance(thing, nn.Module) or (isinstance(thing, type) and issubclass(thing, nn.Module)):
        raise NndiagError(f"{name} is a model where data was expected", hint="give the data as well: MODEL DATA")
    if _is_array(thing) or _is_columns(thing):
        return lambda wish: _rows(thing, wish or size)
    _refuse_uneven(name, thing)
    if isinstance(thing, DataLoader):
        return _restarting(thing)
    if isinstance(thing, IterableDataset):
        return lambda wish: DataLoader(thing, batch_size=wish or size)
    if isinstance(thing, Dataset) or _is_data_set(thing):
        return lambda wish: in_groups(_samples(thing), wish or size)
    if hasattr(thing, "train_dataloader"):
        return _restarting(_of_module(thing))
    if callable(thing) and not isinstance(thing, Iterable):
        return _from_factory(name, thing, shape=shape, size=size, seed=seed)
    if isinstance(thing, Iterator):
        kept = Remembered(thing)
        return lambda wish: _batches_of(kept, shape, wish or size)
    if isinstance(thing, Iterable) and not isinstance(thing, str | bytes):
        return lambda wish: _batches_of(thing, shape, wish or size)
    raise NndiagError(
        f"{name} is a {type(thing).__name__}, not data",
        hint="name a tensor, a Dataset, a DataLoader, an iterable of batches, or a function that returns one",
    )


def _from_factory(
    name: str, build: Callable[..., Any], *, shape: Shape, size: int, seed: int
) -> Callable[[int | None], Iterable[Any]]:
    """Call a factory anew each time it is read; a parameter called batch_size is given one when it needs it."""

    def begin(wish: int | None) -> Iterable[Any]:
        args: dict[str, Any] = {}
        try:
            known = inspect.signature(build).parameters.get("batch_size")
        except (TypeError, ValueError):
            known = None
        if known is not None and known.default is inspect.Parameter.empty:
            args["batch_size"] = wish or size
        made = called(name, build, args, option="a default for")
        if made is None:
            raise NndiagError(f"{name} returned nothing", hint="return a tensor, a Dataset, a DataLoader or batches")
        if callable(made) and made is build:
            raise NndiagError(f"{name} returned itself", hint="return data")
        return _beginner(name, made, shape=shape, size=size, seed=seed)(wish)

    return begin


def _is_array(thing: Any) -> bool:
    import numpy as np
    import torch

    return isinstance(thing, torch.Tensor | np.ndarray)


def _is_columns(thing: Any) -> bool:
    """Whether this is a tuple, pair or mapping of arrays with one row per sample.

    A list of two arrays is (inputs, targets) only when they cannot be two batches of one kind.
    """
    if isinstance(thing, Mapping):
        arrays = [value for value in thing.values() if _is_array(value)]
        return bool(arrays) and len({len(item) for item in arrays if item.ndim}) == 1 and len(arrays) == len(thing)
    if not isinstance(thing, tuple | list) or not thing or hasattr(thing, "data"):
        return False
    if not all((_is_array(item) and item.ndim) or _is_columns(item) for item in thing):
        return False
    if isinstance(thing, tuple):
        return len(thing) >= 2 and _same_rows(thing)
    both = all(map(_is_array, thing))
    return (
        len(thing) == 2
        and both
        and _same_rows(thing)
        and (thing[0].shape, thing[0].dtype) != (thing[1].shape, thing[1].dtype)
    )


def _refuse_uneven(name: str, thing: Any) -> None:
    """Inputs and targets of different length: a tuple of arrays with different axes cannot be two batches of a kind."""
    if not isinstance(thing, tuple) or len(thing) != 2 or not all(map(_is_array, thing)):
        return
    rows, aims = thing
    if rows.ndim > 1 and aims.ndim == 1 and len(rows) != len(aims):
        raise NndiagError(f"{name} has {len(rows)} rows of inputs and {len(aims)} targets", hint="one for each row")


def _same_rows(parts: Sequence[Any]) -> bool:
    return len({_length(item) for item in parts}) == 1


def _length(item: Any) -> int:
    if isinstance(item, Mapping):
        return _length(next(iter(item.values())))
    return _length(item[0]) if isinstance(item, tuple | list) else len(item)


def _rows(thing: Any, size: int) -> Iterator[Any]:
    """Yield slices of arrays that stand side by side."""
    import torch

    def cut(item: Any, start: int) -> Any:
        if isinstance(item, Mapping):
            return {key: cut(value, start) for key, value in item.items()}
        if isinstance(item, tuple | list):
            return tuple(cut(value, start) for value in item)
        piece = item[start : start + size]
        if min(getattr(piece, "strides", ()) or (0,), default=0) < 0:  # x[:, ::-1]: torch has no such view
            piece = piece.copy()
        return piece if isinstance(piece, torch.Tensor) else torch.as_tensor(piece)

    for start in range(0, _length(thing), size):
        yield cut(thing, start)


def _is_data_set(thing: Any) -> bool:
    """Whether an object of another package is a map-style data set, rather than a sequence of batches."""
    known = isinstance(thing, Mapping | Sequence | str | bytes)
    return not known and hasattr(thing, "__getitem__") and hasattr(thing, "__len__") and not hasattr(thing, "__next__")


def _samples(data: Any) -> Iterator[Any]:
    for index in range(len(data)):
        yield data[index]


def _of_module(module: Any) -> Any:
    """Return the training loader of a Lightning data module."""
    for step, args in (("prepare_data", ()), ("setup", ("fit",))):
        if hasattr(module, step):
            getattr(module, step)(*args)
    return module.train_dataloader()


def _restarting(loader: Any) -> Callable[[int | None], Iterable[Any]]:
    """Begin a loader anew with its own generators where they were at first."""
    places = (loader, loader.sampler, getattr(loader, "batch_sampler", None))
    found = [getattr(item, "generator", None) for item in places]
    generators = [generator for generator in found if generator is not None]
    states = [generator.get_state() for generator in generators]

    def begin(_wish: int | None) -> Iterable[Any]:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return loader  # type: ignore[no-any-return]

    return begin


def _batches_of(items: Iterable[Any], shape: Shape, size: int) -> Iterator[Any]:
    """Yield batches of an iterable, stacking its items when they are single samples."""
    iterator = iter(items)
    first = next(iterator, None)
    if first is None:
        return
    joined = _chain(first, iterator)
    if is_sample(first, shape):
        with users_code("the data"):
            yield from in_groups(joined, size)
    else:
        yield from joined


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def is_sample(item: Any, shape: Shape) -> bool:
    """Whether an item is one sample rather than a batch.

    A batch has one target per row of its inputs. A number as target, or inputs that are a number, make a sample;
    without targets an item is what loaders yield: a batch, unless it has no axis to stack along.
    """
    import torch

    batch = split(item, shape)
    inputs = batch.inputs
    if isinstance(inputs, Mapping):
        inputs = next((value for key, value in inputs.items() if key not in TARGET_KEYS), None)
    while isinstance(inputs, tuple | list) and inputs:
        if isinstance(inputs[0], int | float):
            return True  # a list of numbers: one sample's features
        inputs = inputs[0]
    targets = batch.targets
    if isinstance(targets, int | float | bool | str) or (hasattr(targets, "ndim") and targets.ndim == 0):
        return True
    if isinstance(inputs, int | float) or (hasattr(inputs, "ndim") and inputs.ndim == 0):
        return True
    if hasattr(inputs, "ndim") and hasattr(targets, "ndim"):
        return len(torch.as_tensor(targets)) != len(inputs)
    return False
