"""Which axes of a parameter do the axes of its views stand for? Followed through transpositions and reshapings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Axes = tuple[tuple[int, ...], ...]  # per axis of a view, the axes of the parameter that it runs over

SAME = {
    "to", "float", "double", "half", "bfloat16", "contiguous", "clone", "type_as", "type", "detach", "requires_grad_",
    "neg", "sign", "abs", "tanh", "sigmoid", "exp", "softplus", "relu", "clamp", "round", "normalize", "softmax",
    "log_softmax", "mul", "div", "true_divide", "add", "sub", "rsub", "rmul", "radd", "rtruediv", "where",
    "masked_fill", "_weight_norm", "cuda", "cpu", "alias", "hardtanh", "square", "cos", "sin",
}  # fmt: skip
_VIEWS = {"view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "view_as", "reshape_as"}
_EXPANDS = {"expand", "expand_as", "broadcast_to"}
_PARTS = {"chunk", "split", "narrow", "tensor_split", "split_with_sizes"}


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on a tracked tensor."""

    func: Any  # as torch hands it on
    name: str  # bare
    args: Sequence[Any]  # the tracked tensor comes first
    kwargs: Mapping[str, Any]
    result: Any  # a tensor, or several of equal layout

    def given(self, at: int, key: str) -> Any:
        """Return an argument passed by position or by keyword, None where it was not."""
        return self.args[at] if len(self.args) > at else self.kwargs.get(key)


def axes_after(step: Step, axes: Axes) -> Axes | None:
    """Return the axes of what a step made of a tensor with these axes, None where they cannot be told."""
    name, result, source = step.name, step.result, step.args[0]
    if not isinstance(result, Tensor):
        return _of_several(step, axes)
    if (name in SAME and result.shape == source.shape) or name == "narrow":
        return axes
    if name in {"t", "adjoint"} or (name == "__get__" and _is_transposition(step.func)):
        return _swapped(axes, -1, -2) if len(axes) >= 2 else axes
    if name in _EXPANDS:
        return ((),) * (result.dim() - len(axes)) + axes
    if name in _VIEWS:
        return regrouped(axes, tuple(source.shape), tuple(result.shape))
    turn = _TURNS.get(name)
    return turn(step, axes) if turn is not None else None


def _of_several(step: Step, axes: Axes) -> Axes | None:
    """Pieces of a tensor keep its layout; unbinding takes an axis away."""
    if not isinstance(step.result, tuple | list):
        return None
    if step.name in _PARTS:
        return axes
    return _selected(step, axes) if step.name == "unbind" else None


def _selected(step: Step, axes: Axes) -> Axes:
    at = int(step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else 0)) % len(axes)
    return tuple(item for index, item in enumerate(axes) if index != at)


def _transposed(step: Step, axes: Axes) -> Axes:
    names = ("dim0", "dim1", "axis0", "axis1")
    first, second = [*step.args[1:], *(step.kwargs[key] for key in names if key in step.kwargs)]
    return _swapped(axes, int(first), int(second))


def _swapped(axes: Axes, first: int, second: int) -> Axes:
    turned = list(axes)
    turned[first], turned[second] = turned[second], turned[first]
    return tuple(turned)


def _permuted(step: Step, axes: Axes) -> Axes:
    rest = step.args[1:]
    given = step.kwargs.get("dims", rest[0] if len(rest) == 1 and not isinstance(rest[0], int) else rest)
    return tuple(axes[int(index)] for index in given)


def _moved(step: Step, axes: Axes) -> Axes | None:
    """One axis taken to another place."""
    rest = [*step.args[1:], *(step.kwargs[key] for key in ("source", "destination") if key in step.kwargs)]
    if len(rest) != 2 or not all(isinstance(item, int) for item in rest):
        return None
    order = [index for index in range(len(axes)) if index != rest[0] % len(axes)]
    order.insert(rest[1] % len(axes), rest[0] % len(axes))
    return tuple(axes[index] for index in order)


def _indexed(step: Step, axes: Axes) -> Axes | None:
    """Slices keep an axis, whole numbers take it away; a lookup by a tensor is no view of the layout."""
    index = step.args[1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(not (item is None or item is Ellipsis or type(item) is int or isinstance(item, slice)) for item in parts):
        return None
    used = sum(1 for item in parts if item is not None and item is not Ellipsis)
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[at : at + 1] = [slice(None)] * (len(axes) - used)
    result: list[tuple[int, ...]] = []
    position = 0
    for item in parts:
        if item is None:
            result.append(())
            continue
        if isinstance(item, slice):
            result.append(axes[position])
        position += 1
    return tuple(result)


def regrouped(axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes | None:
    """Return the axes after a reshape that only joins axes, or adds and drops axes of one entry; else None.

    Example:
        >>> regrouped(((0,), (1,), (2,)), (6, 3, 5), (6, 15))
        ((0,), (1, 2))
        >>> regrouped(((0,), (1,)), (6, 4), (2, 3, 4)) is None
        True
    """
    result: list[tuple[int, ...]] = []
    waiting = [(size, item) for size, item in zip(old, axes, strict=True) if size != 1]
    for size in new:
        if size == 1:
            result.append(())
            continue
        joined: tuple[int, ...] = ()
        product = 1
        while waiting and product < size:
            length, item = waiting.pop(0)
            product *= length
            joined += item
        if product != size:
            return None
        result.append(joined)
    return None if waiting else tuple(result)


def _is_transposition(func: Any) -> bool:
    """Whether this property getter is .T, .mT, .H or .mH."""
    owner = getattr(func, "__self__", None)
    return getattr(owner, "__name__", "") in {"T", "mT", "H", "mH"}


_TURNS: dict[str, Callable[[Step, Axes], Axes | None]] = {
    "transpose": _transposed, "swapaxes": _transposed, "swapdims": _transposed,
    "permute": _permuted, "movedim": _moved, "moveaxis": _moved,
    "select": _selected, "__getitem__": _indexed,
}  # fmt: skip
