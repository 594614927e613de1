"""A forward on inputs that may be wrong: stopped before one operation takes the machine's memory, or all too long."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from nndiag.lab.uncompiled import PlainMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BYTES = 512 << 20  # of what one operation returns
_SUSPECT = _BYTES // 8  # elements: below that no operation can reach the limit
_GROWING = {"arange", "linspace", "index", "repeat", "im2col", "_cdist_forward", "_euclidean_dist", "repeat_interleave"}


class TooMuchError(RuntimeError):
    """An operation would take more memory, or the forward more time, than a trial may."""


class Guard(PlainMode):  # type: ignore[no-untyped-call]
    """Asks, before any operation that could be large, how large its result will be.

    The answer comes from the same operation on the meta device, which allocates nothing. Wrong inputs make
    enlarged position tables and attention over pixels of hundreds of gigabytes; those end here.

    Attributes:
        operations: How many were run: how far the forward came.
        produced: Bytes of all results, views left out: about what autograd would keep.
    """

    def __init__(self, seconds: float) -> None:
        """Allow `seconds` from now on."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.produced = 0
        self._deadline = time.monotonic() + seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, unless its result would be too large or time is up."""
        kwargs = kwargs or {}
        if time.monotonic() > self._deadline:
            raise TooMuchError("the forward took too long")
        view = _is_view(func)
        if not view and _at_most(_name(func), args) > _SUSPECT:
            _refuse_if_large(func, args, kwargs)
        result = func(*args, **kwargs)
        self.operations += 1
        if not view:
            self.produced += sum(map(_bytes, result if isinstance(result, tuple | list) else (result,)))
        return result


@cache
def _is_view(func: Any) -> bool:
    returns = func._schema.returns  # noqa: SLF001 - where torch tells
    return any(item.alias_info is not None and not item.alias_info.is_write for item in returns)


@cache
def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")  # noqa: SLF001 - likewise


def _bytes(item: Any) -> int:
    return item.numel() * item.element_size() if isinstance(item, Tensor) and item.layout is torch.strided else 0


def _at_most(name: str, args: Sequence[Any]) -> int:
    """Return a bound on the elements of a result, from shapes alone: cheap, and rarely above the limit by mistake."""
    tensors = [item for item in _flat(args) if isinstance(item, Tensor)]
    if name in {"mm", "bmm", "addmm", "baddbmm"} and len(tensors) >= 2:
        left, right = tensors[-2:]
        return left.numel() // max(left.shape[-1], 1) * right.shape[-1]
    if name == "embedding":
        return tensors[1].numel() * tensors[0].shape[-1]
    if name == "cat":
        return sum(item.numel() for item in tensors)
    if name in _GROWING or "upsample" in name:
        return _product(args)
    sizes = [math.prod(max(int(n), 1) for n in item) for item in args if _is_sizes(item)]
    return max([math.prod(_broadcast(tensors)), *sizes])


def _flat(args: Sequence[Any]) -> Iterator[Any]:
    for item in args:
        if isinstance(item, tuple | list):
            yield from _flat(item)
        else:
            yield item


def _is_sizes(item: Any) -> bool:
    return isinstance(item, tuple | list) and bool(item) and all(isinstance(size, int) for size in item)


def _broadcast(tensors: list[Tensor]) -> list[int]:
    """Return the largest size of each axis, aligned at the last."""
    rank = max((item.dim() for item in tensors), default=0)
    return [max((item.shape[-k] for item in tensors if item.dim() >= k), default=1) for k in range(rank, 0, -1)]


def _product(args: Sequence[Any]) -> int:
    """Return the product of all sizes and whole numbers: no such result has more elements."""
    product = 1
    for item in _flat(args):
        if isinstance(item, Tensor):
            product *= max(item.numel(), 1)
        elif isinstance(item, int | float) and math.isfinite(item):
            product *= max(int(abs(item)), 1)
    return product


def _refuse_if_large(func: Any, args: Any, kwargs: Any) -> None:
    """Raise when the operation's result, worked out on the meta device, is too large."""

    def bare(item: Any) -> Any:
        if isinstance(item, Tensor) and item.layout is torch.strided and type(item) in {Tensor, torch.nn.Parameter}:
            return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
        return torch.device("meta") if isinstance(item, torch.device) else item

    try:
        without = {key: value for key, value in kwargs.items() if key not in {"generator", "pin_memory"}}
        results = tree_leaves(func(*tree_map(bare, args), **tree_map(bare, without)))
    except Exception:  # noqa: BLE001 - what depends on data has no answer here; wrong shapes are the operation's to refuse
        return
    need = max(map(_bytes, results), default=0)
    if need > _BYTES:
        raise TooMuchError(f"{_name(func)} would take {need / 2**30:.1f} GiB")
