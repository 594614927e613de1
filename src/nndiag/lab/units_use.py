"""Which way round is a bare parameter multiplied? Seen in one forward, not guessed from its shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KEEP = {
    "to", "float", "double", "half", "bfloat16", "contiguous", "clone", "type_as", "unsqueeze", "expand", "squeeze",
    "__getitem__", "type", "expand_as",
}  # fmt: skip
_TURN = {"t", "__get__", "transpose", "swapaxes", "swapdims", "permute", "mT", "T", "adjoint"}
_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm", "__rmatmul__"}
_SUMMED = {"addmm", "baddbmm"}


@dataclass(frozen=True, slots=True)
class Use:
    """Axes of a parameter: `batch` count independent copies, `out` the units, the rest is summed over."""

    batch: tuple[int, ...]
    out: tuple[int, ...]

    def size(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...] | None]:
        """Return the number of units and, with copies, the class of each."""
        copies = math.prod(shape[axis] for axis in self.batch)
        each = math.prod(shape[axis] for axis in self.out)
        classes = tuple(unit // each for unit in range(copies * each)) if copies > 1 else None
        return copies * each, classes

    def turn(self, weight: Tensor) -> Tensor:
        """Return (units, features)."""
        rest = [axis for axis in range(weight.dim()) if axis not in (*self.batch, *self.out)]
        units = math.prod(weight.shape[axis] for axis in (*self.batch, *self.out))
        return weight.permute(*self.batch, *self.out, *rest).reshape(units, -1)


class _Watch(TorchFunctionMode):
    """Follows parameters through views into products."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.names = dict(parameters)
        self.turned: dict[int, tuple[str, bool]] = {key: (name, False) for key, name in parameters.items()}
        self.uses: dict[str, Use] = {}
        self._held: list[Tensor] = []  # keeps ids from being used again

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        self._note(name, func, args, kwargs or {}, result)
        return result

    def _note(self, name: str, func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        first = args[0] if args else None
        if isinstance(result, Tensor) and isinstance(first, Tensor) and id(first) in self.turned:
            owner, turned = self.turned[id(first)]
            if name in _KEEP:
                self._follow(result, owner, turned)
            elif name in _TURN and (name != "__get__" or _is_transposition(func)):
                self._follow(result, owner, not turned)
        if name == "linear":
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            self._product(weight, row_axis_first=True)
        elif name in _PRODUCTS and len(args) >= 2:
            left, right = (args[1], args[0]) if name == "__rmatmul__" else (args[0], args[1])
            self._product(right, row_axis_first=False)
            self._product(left, row_axis_first=True)
        elif name in _SUMMED and len(args) >= 3:
            self._product(args[2], row_axis_first=False)
        elif name == "einsum" and args and isinstance(args[0], str):
            self._einsum(args[0], args[1:] if not isinstance(args[1], list | tuple) else args[1])

    def _follow(self, result: Tensor, owner: str, turned: bool) -> None:
        self.turned[id(result)] = (owner, turned)
        self._held.append(result)

    def _product(self, weight: Any, *, row_axis_first: bool) -> None:
        """Of the last two axes, the first holds the units of linear(x, w) and of w @ x, the last those of x @ w."""
        if not isinstance(weight, Tensor) or id(weight) not in self.turned:
            return
        owner, turned = self.turned[id(weight)]
        rank = self.rank(owner)
        if rank < 2:
            return
        first = row_axis_first != turned
        self.uses.setdefault(owner, Use(tuple(range(rank - 2)), (rank - 2 if first else rank - 1,)))

    def rank(self, owner: str) -> int:
        """Dimensions of a parameter, learned at the start."""
        return self.ranks[owner]

    ranks: dict[str, int]

    def _einsum(self, equation: str, operands: Any) -> None:
        inputs, _, output = equation.replace(" ", "").partition("->")
        letters = inputs.split(",")
        if not output or "." in equation or len(letters) != len(operands):
            return
        for mine, operand in zip(letters, operands, strict=True):
            if not isinstance(operand, Tensor) or id(operand) not in self.names:
                continue
            others = "".join(item for item in letters if item is not mine)
            batch = tuple(axis for axis, letter in enumerate(mine) if letter in output and letter in others)
            out = tuple(axis for axis, letter in enumerate(mine) if letter in output and letter not in others)
            if out and len(batch) + len(out) < len(mine):
                self.uses.setdefault(self.names[id(operand)], Use(batch, out))


def _is_transposition(func: Any) -> bool:
    """Whether this property getter is .T, .mT, .H or .mH."""
    owner = getattr(func, "__self__", None)
    return getattr(owner, "__name__", "") in {"T", "mT", "H", "mH"}


def uses_of(model: nn.Module, run: Callable[[], Any]) -> dict[str, Use]:
    """Run a forward and return how each parameter of rank two or more was multiplied, where it was.

    Args:
        model: Whose parameters are watched.
        run: Runs it once.
    """
    known = {
        id(item): name
        for name, item in model.named_parameters()
        if not isinstance(item, nn.UninitializedParameter) and item.dim() >= 2
    }
    watch = _Watch(known)
    watch.ranks = {name: item.dim() for name, item in model.named_parameters() if name in set(known.values())}
    with torch.no_grad(), watch:
        run()
    return watch.uses
