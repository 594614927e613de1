"""Which tensors of a forward pass are one-hot vectors, however they were made?"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALLEST_ONE_HOT = 64  # classes; below, a one-hot vector is a feature, not a lookup
# What leaves a one-hot matrix one-hot, an identity an identity, or a table a table (possibly transposed).
KEEPS = frozenset({
    "float", "double", "half", "bfloat16", "to", "type", "type_as", "contiguous", "view", "reshape", "flatten",
    "unsqueeze", "squeeze", "permute", "transpose", "t", "clone", "cuda", "cpu", "detach", "movedim", "expand", "T",
    "__get__",
})  # fmt: skip
_ZEROS = frozenset({"zeros", "zeros_like", "new_zeros"})
_DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "random_", "bernoulli_", "exponential_", "erfinv_"})
_PICKS = frozenset({"__getitem__", "index_select", "embedding"})
_MADE: weakref.WeakKeyDictionary[nn.Module, list[Tensor]] = weakref.WeakKeyDictionary()


class EyesMade(TorchFunctionMode):
    """Inside, every identity matrix that is built is remembered: on the meta device its numbers cannot be asked.

    Drawing numbers that are not there is left out: it would import torch's compiler, two seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function and keep its result where it is an identity."""
        name = getattr(func, "__name__", "")
        target = args[0] if args else (kwargs or {}).get("tensor")
        draws = name in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init"
        if draws and name.endswith("_") and isinstance(target, Tensor) and target.is_meta:
            return target
        result = func(*args, **(kwargs or {}))
        kept = name in KEEPS and args and any(args[0] is item for item in self.made)
        if isinstance(result, Tensor) and (name == "eye" or kept) and _square(result):
            self.made.append(result)
        return result

    def remember(self, model: nn.Module) -> nn.Module:
        """Keep what was made for as long as the model lives, and return it."""
        _MADE[model] = self.made
        return model


def eyes_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield the identity matrices that a model holds, as buffers or plainly."""
    yield from _MADE.get(model, ())
    for module in model.modules():
        for held in (*module._buffers.values(), *vars(module).values()):  # noqa: SLF001 - plain tensors count, too
            if isinstance(held, Tensor) and not held.is_meta and _square(held) and _is_eye(held):
                yield held


def looks_one_hot(tensor: Any) -> bool:
    """Whether every vector along the last axis is zeros and exactly one 1, over at least `SMALLEST_ONE_HOT` classes."""
    if not isinstance(tensor, Tensor) or tensor.dim() < 2 or tensor.is_meta or tensor.shape[-1] < SMALLEST_ONE_HOT:
        return False
    some = tensor.reshape(-1, tensor.shape[-1])[:256]
    binary = (some == 0) | (some == 1)
    return bool(binary.all()) and bool((some.sum(-1) == 1).all())


def _square(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] >= SMALLEST_ONE_HOT


def _is_eye(tensor: Tensor) -> bool:
    rows = tensor.shape[0]
    return bool((tensor.diagonal() == 1).all()) and int(torch.count_nonzero(tensor)) == rows


class HotTensors:
    """Follows one-hot matrices, and what they are made of, through a forward pass.

    Args:
        model: Whose identity matrices are known from the start.
    """

    def __init__(self, model: nn.Module) -> None:
        self._hot: dict[int, Tensor] = {}  # kept alive, so that an identity is not reused
        self._zeros: dict[int, Tensor] = {}
        self._ranges: dict[int, Tensor] = {}
        self._eyes = {id(tensor): tensor for tensor in eyes_of(model)}

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether its last axis holds one-hot vectors."""
        return id(tensor) in self._hot

    def mark(self, tensor: Tensor) -> None:
        """Take this tensor as one-hot vectors."""
        self._hot[id(tensor)] = tensor

    def follow(self, func: Any, name: str, args: Any, result: Any) -> None:
        """Look at what a function made of its arguments."""
        if name == "__setitem__" and self._sets_one(args):
            self.mark(args[0])
        if not isinstance(result, Tensor):
            return
        if name in _ZEROS:
            self._zeros[id(result)] = result
        elif name == "eye" and _square(result):
            self._eyes[id(result)] = result
        elif name == "arange" and (len(args) == 1 or args[:1] == (0,)):
            self._ranges[id(result)] = result
        elif name in KEEPS and args and isinstance(args[0], Tensor):
            self._keep(args[0], result)
        if func is functional.one_hot or self._made_hot(name, args, result):
            self.mark(result)

    def _keep(self, source: Tensor, result: Tensor) -> None:
        same_axis = result.shape[-1:] == source.shape[-1:]
        for known in (self._hot, self._ranges, self._eyes):
            if id(source) in known and same_axis and (known is not self._eyes or _square(result)):
                known[id(result)] = result

    def _made_hot(self, name: str, args: Any, result: Tensor) -> bool:
        if name in {"scatter", "scatter_"}:
            return self._marks_one(args)
        if name in _PICKS:
            return self._picks(name, args)
        if name in {"eq", "__eq__"} and len(args) == 2 and result.dim() > 1:
            pair = [item for item in args if isinstance(item, Tensor)]
            ranged = [item for item in pair if id(item) in self._ranges and item.numel() == result.shape[-1]]
            return len(pair) == 2 and len(ranged) == 1 and any(item.shape[-1:] == (1,) for item in pair)
        return False

    def _picks(self, name: str, args: Any) -> bool:
        """Whether rows of an identity are picked by whole numbers."""
        if len(args) < 2:
            return False
        if name == "index_select" and args[1] != 0:
            return False
        place = 2 if name == "index_select" else 1
        table, index = (args[1], args[0]) if name == "embedding" else (args[0], args[place])
        whole = isinstance(index, Tensor) and not index.is_floating_point() and index.dtype != torch.bool
        return whole and isinstance(table, Tensor) and id(table) in self._eyes

    def _marks_one(self, args: Any) -> bool:
        """Whether this writes one 1 into each vector of zeros along the last axis."""
        if len(args) < 4 or id(args[0]) not in self._zeros or not isinstance(args[2], Tensor):
            return False
        last = args[1] in {-1, args[0].dim() - 1}
        return last and args[2].shape[-1] == 1 and isinstance(args[3], int | float) and args[3] == 1

    def _sets_one(self, args: Any) -> bool:
        """Whether zeros get a 1 at one place per vector: z[range, ids] = 1."""
        target, index, value = (*args, None, None, None)[:3]
        if id(target) not in self._zeros or not isinstance(index, tuple) or not isinstance(value, int | float):
            return False
        return value == 1 and len(index) == target.dim() and all(isinstance(item, Tensor) for item in index)
