"""Nested batches and outputs: tensors inside tuples, mappings and dataclasses, found, cut, moved and changed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch

if TYPE_CHECKING:
    from collections.abc import Callable


def tensors_in(thing: Any) -> list[Tensor]:
    """Return every tensor inside tuples, lists, mappings and dataclasses, in order, each container once."""
    found: list[Tensor] = []
    _collect(thing, found, set())
    return found


def batch_rows(batch: Any) -> int:
    """Return the number of samples: the first axis of the first tensor (or array) that has one.

    Raises:
        NndiagError: When nothing in the batch has an axis.
    """
    inputs = batch.inputs if isinstance(batch, Batch) else batch
    for item in tensors_in(as_tensors(inputs)):
        if item.dim() > 0:
            return int(item.shape[0])
    raise NndiagError("the batch holds no tensor with an axis", hint="yield (inputs, targets) as training code does")


def take(batch: Any, n: int) -> Any:
    """Return the first `n` rows of a batch; what has no row axis of the batch's length stays as it is.

    A batch whose rows belong together is returned whole.
    """
    if isinstance(batch, Batch) and batch.whole:
        return batch
    try:
        rows = batch_rows(batch)
    except NndiagError:
        return batch

    def cut(item: Tensor) -> Tensor:
        return item[:n] if item.dim() > 0 and item.shape[0] == rows else item

    return mapped(batch, cut) if n < rows else batch


def rows_of(batch: Any, start: int, stop: int) -> Any:
    """Return rows `start` to `stop` of a batch, as `take` does.

    Raises:
        NndiagError: The rows of this batch belong together.
    """
    rows = batch_rows(batch)
    if isinstance(batch, Batch) and batch.whole and (start > 0 or stop < rows):
        raise NndiagError(
            "the model takes a batch of this data as a whole only", hint="a part of it cannot be shared out"
        )
    return mapped(batch, lambda item: item[start:stop] if item.dim() > 0 and item.shape[0] == rows else item)


def move(batch: Any, device: str | torch.device, dtype: torch.dtype | None = None) -> Any:
    """Return the batch as tensors on a device; `dtype` is applied to floating-point tensors only."""

    def moved(item: Tensor) -> Tensor:
        return item.to(device=device, dtype=dtype if dtype is not None and item.is_floating_point() else None)

    return mapped(batch, moved)


def as_tensors(thing: Any) -> Any:
    """Return the same structure with numeric NumPy arrays turned into tensors."""
    return mapped(thing, lambda item: item)


def mapped(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same structure with every tensor changed; arrays become tensors, strangers stay."""
    result: Any = thing
    if isinstance(thing, Tensor):
        result = change(thing)
    elif isinstance(thing, np.ndarray | np.generic) and thing.dtype.kind in "biufc":
        result = change(torch.as_tensor(np.ascontiguousarray(thing).reshape(np.shape(thing))))
    elif isinstance(thing, Batch):
        result = Batch(mapped(thing.inputs, change), mapped(thing.targets, change), thing.whole)
    elif isinstance(thing, torch.nn.utils.rnn.PackedSequence):
        result = thing
    elif isinstance(thing, tuple) and hasattr(thing, "_fields"):
        result = type(thing)(*(mapped(item, change) for item in thing))
    elif isinstance(thing, tuple | list):
        result = type(thing)(mapped(item, change) for item in thing)
    elif isinstance(thing, Mapping):
        result = _refilled(thing, {key: mapped(value, change) for key, value in thing.items()})
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        result = copy.copy(thing)
        for field in dataclasses.fields(thing):
            object.__setattr__(result, field.name, mapped(getattr(thing, field.name), change))
    return result


def _refilled(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return a mapping of the same kind where the kind allows it (BatchEncoding has attributes)."""
    if type(mapping) is dict:
        return items
    try:
        twin: Any = copy.copy(mapping)
        for key, value in items.items():
            twin[key] = value
    except Exception:  # noqa: BLE001 - a read-only mapping of whatever make; a dict serves
        return items
    return twin if isinstance(twin, Mapping) else items


def _collect(thing: Any, found: list[Tensor], seen: set[int]) -> None:
    """Append tensors depth first; a container that contains itself is visited once."""
    if isinstance(thing, Tensor):
        found.append(thing)
        return
    parts: Any = ()
    if isinstance(thing, Mapping):
        parts = list(thing.values())
    elif isinstance(thing, tuple | list):
        parts = thing
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    elif isinstance(thing, set | frozenset):
        parts = [item for item in thing if isinstance(item, Tensor)]
    if not parts or id(thing) in seen:
        return
    seen.add(id(thing))
    for part in parts:
        _collect(part, found, seen)
