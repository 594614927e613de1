"""Where a random tensor meets data: which is the mask, which the data, and how to exchange either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nndiag.lab.forward import mapped, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nndiag.lab.dropout.tags import Tag

_MASKING = frozenset({"mul", "multiply", "where", "masked_fill", "setitem", "einsum"})


@dataclass
class Meeting:
    """A mask and the data it is put on."""

    mask: Tensor
    data: Tensor
    inverted: bool = False  # a nonzero mask element drops


def mask_meeting(op: str, args: Any, kwargs: Any, tag_of: Callable[[Tensor], Tag]) -> Meeting | None:
    """Say which operand is the mask and which the data; None where this is no masking."""
    if op not in _MASKING:
        return None
    tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
    masks = [item for item in tensors if tag_of(item).luck is not None and not tag_of(item).data]
    data = [item for item in tensors if tag_of(item).data]
    if len(masks) != 1 or len(data) != 1 or not data[0].is_floating_point():
        return None
    if op == "where":
        return _where(masks[0], data[0], args, kwargs)
    if op in {"masked_fill", "setitem"}:
        value = args[2] if len(args) > 2 else kwargs.get("value", 1.0)
        empty = not isinstance(value, bool) and float(value) == 0
        fits = op == "masked_fill" or masks[0].dtype == torch.bool
        return Meeting(~masks[0].bool(), data[0], inverted=True) if empty and fits else None
    return Meeting(masks[0], data[0]) if len(tensors) == 2 else None


def _where(condition: Tensor, data: Tensor, args: Any, kwargs: Any) -> Meeting | None:
    parts = [*args, *kwargs.values()]
    if len(parts) != 3 or parts[0] is not condition:
        if len(parts) == 3 and parts[0] is data:  # x.where(mask, 0)
            parts = [parts[1], parts[0], parts[2]]
        else:
            return None
    other = parts[2] if parts[1] is data else parts[1]
    empty = bool((other == 0).all()) if isinstance(other, Tensor) else float(other) == 0
    if not empty:
        return None
    inverted = parts[1] is not data
    return Meeting(~condition.bool() if inverted else condition.bool(), data, inverted=inverted)


def bare(name: str) -> str:
    """The name without in-place and dunder underscores."""
    plain = name.strip("_") if name.startswith("__") or name.endswith("_") else name
    if name.startswith("__") and plain[:1] in "ri" and plain[1:] in {
        "add", "sub", "mul", "truediv", "matmul", "pow", "div", "and", "or", "xor",
    }:  # fmt: skip
        plain = ("r" if plain == "rsub" else "") + plain[1:]
    return {
        "truediv": "div",
        "true_divide": "div",
        "multiply": "mul",
        "divide": "div",
        "masked_fill_": "masked_fill",
    }.get(plain, plain)


def in_place(name: str) -> bool:
    """Whether a function writes into its first argument: x.mul_(mask), x *= mask, x[mask] = 0."""
    if name.startswith("__"):
        return name == "__setitem__" or (name[2] == "i" and name not in {"__invert__", "__index__", "__int__"})
    return name.endswith("_")


def replaced(args: Any, kwargs: Any, slot: int, other: Tensor) -> tuple[Any, dict[str, Any]]:
    """Return the arguments with the tensor in one slot exchanged."""
    seen = iter(range(10**9))
    changed = mapped(tuple(args), lambda item: other if next(seen) == slot else item)
    return changed, mapped(dict(kwargs), lambda item: other if next(seen) == slot else item)


def handed(args: Any, kwargs: Any, given: Sequence[Tensor], *, inplace: bool) -> tuple[Any, dict[str, Any]]:
    """Return the arguments with the first tensors exchanged where shapes agree; in place, their values are."""
    for slot, other in enumerate(given):
        tensor = tensors_in((args, kwargs))[slot]
        if tensor.shape == other.shape and inplace:
            tensor.copy_(other)
        elif tensor.shape == other.shape:
            args, kwargs = replaced(args, kwargs, slot, other)
    return args, kwargs


def swapped(args: Any, kwargs: Any, old: Tensor, new: Tensor) -> tuple[Any, dict[str, Any]]:
    """Return the arguments with one tensor exchanged for another."""
    return (
        mapped(tuple(args), lambda item: new if item is old else item),
        mapped(dict(kwargs), lambda item: new if item is old else item),
    )


def learns(args: Any, kwargs: Any) -> bool:
    """Whether F.batch_norm normalises by the batch and keeps running statistics."""
    running = args[1] if len(args) > 1 else kwargs.get("running_mean")
    return running is not None and bool(args[5] if len(args) > 5 else kwargs.get("training", False))
