"""Which way round is a bare parameter multiplied? Seen in one forward, not guessed from its shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nndiag.lab.forward import tensors_in
from nndiag.lab.units.axes import Step, axes_after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nndiag.lab.units.axes import Axes

# What else a parameter may be: a table that is added or joined, a gain, a vector that another one is compared with.
_NO_LAYER = {"add", "sub", "mul", "div", "true_divide", "where", "addcmul", "lerp", "layer_norm", "batch_norm",
             "group_norm", "instance_norm", "rms_norm", "prelu", "cdist", "index_select", "gather", "copy_",
             "__getitem__", "cat", "concat", "stack", "radd", "rsub", "rmul"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Use:
    """Axes of a parameter: `batch` count independent copies, `out` the units, the rest is summed over."""

    batch: tuple[int, ...]
    out: tuple[int, ...]
    split: tuple[int, int] | None = None  # an axis that is so many groups, made two axes first
    bias: str | None = None  # the parameter that is added to the product, one entry per unit

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.split is None:
            return shape
        axis, parts = self.split
        return (*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])

    def size(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...] | None]:
        """Return the number of units and, with copies, the class of each."""
        shape = self._shape(shape)
        copies = math.prod(shape[axis] for axis in self.batch)
        each = math.prod(shape[axis] for axis in self.out)
        classes = tuple(unit // each for unit in range(copies * each)) if copies > 1 else None
        return copies * each, classes

    def turn(self, weight: Tensor) -> Tensor:
        """Return (units, features)."""
        weight = weight.reshape(self._shape(tuple(weight.shape)))
        rest = [axis for axis in range(weight.dim()) if axis not in (*self.batch, *self.out)]
        units = math.prod(weight.shape[axis] for axis in (*self.batch, *self.out))
        return weight.permute(*self.batch, *self.out, *rest).reshape(units, -1)


@dataclass(slots=True)
class Uses:
    """What one forward showed."""

    seen: dict[str, Use] = field(default_factory=dict)
    other: set[str] = field(default_factory=set)  # added, joined, or a gain: no weight of a layer

    def get(self, name: str) -> Use | None:
        """How a parameter is multiplied, None where that was not seen."""
        return self.seen.get(name)


class _Watch(TorchFunctionMode):
    """Follows parameters through views and elementwise arithmetic into products."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.uses = Uses()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tracked: dict[int, tuple[tuple[str, Axes], ...]] = {}
        self.names: dict[int, str] = {}
        self._products: dict[int, tuple[str, ...]] = {}
        self._half: dict[int, tuple[str, Axes]] = {}  # products by hand that are not summed yet
        self._held: list[Any] = []  # keeps ids from being used again
        for name, item in model.named_parameters():
            if isinstance(item, nn.UninitializedParameter) or item.dim() == 0:
                continue
            self.names[id(item)] = name
            if item.dim() >= 2:
                self.shapes[name] = tuple(item.shape)
                self.tracked[id(item)] = ((name, tuple((axis,) for axis in range(item.dim()))),)
        self._known: dict[str, Callable[[Step], None]] = {
            "linear": self._linear, "bilinear": self._bilinear, "einsum": self._einsum, "tensordot": self._tensordot,
            **dict.fromkeys(("matmul", "mm", "bmm", "rmatmul", "mv", "inner"), self._matmul),
            **dict.fromkeys(("addmm", "baddbmm", "addbmm"), self._addmm),
            **dict.fromkeys([f"conv{way}{n}d" for way in ("", "_transpose") for n in (1, 2, 3)], self._convolution),
            **dict.fromkeys(("embedding", "embedding_bag"), self._lookup),
            **dict.fromkeys(("add", "radd"), self._plus),
            **dict.fromkeys(("mul", "rmul"), self._spread), **dict.fromkeys(("sum", "mean"), self._reduced),
        }  # fmt: skip

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        name = name if name in {"__get__", "__getitem__"} else name.strip("_") if name.startswith("__") else name
        step = Step(func, name, args, kwargs, result)
        self._follow(step)
        if (product := self._known.get(name)) is not None:
            product(step)
        return result

    def _follow(self, step: Step) -> None:
        """Carry names and axes on to what a step made of tracked tensors."""
        gathered: dict[str, Axes] = {}
        for at, source in enumerate(step.args[:2]):
            for owner, axes in self.tracked.get(id(source), ()) if isinstance(source, Tensor) else ():
                mine = step if at == 0 else replace(step, args=(source, step.args[0], *step.args[2:]))
                if (after := axes_after(mine, axes)) is not None:
                    gathered[owner] = after
        if step.name in _NO_LAYER:
            for source in tensors_in((step.args, step.kwargs)):
                for owner, axes in self.tracked.get(id(source), ()):
                    if owner not in gathered:
                        self._elsewhere(step, owner, axes)
        for item in step.result if isinstance(step.result, tuple | list) else (step.result,):
            if gathered and isinstance(item, Tensor):
                self.tracked[id(item)] = tuple(gathered.items())
                self._held.append(item)

    def _elsewhere(self, step: Step, owner: str, axes: Axes) -> None:
        """A parameter that is looked up, added or a gain."""
        index = step.args[1] if len(step.args) > 1 else None
        whole = isinstance(index, Tensor) and not index.is_floating_point() and index.dtype is not torch.bool
        if step.name == "__getitem__" and whole and len(axes) == 2:
            self._use(owner, (), axes[1])
        else:
            self.uses.other.add(owner)

    def _linear(self, step: Step) -> None:
        self._product(step.given(1, "weight"), -2, -1, step.result, step.given(2, "bias"))

    def _matmul(self, step: Step) -> None:
        left, right = step.args[:2] if len(step.args) > 1 else (step.args[0], next(iter(step.kwargs.values()), None))
        if step.name == "rmatmul":
            left, right = right, left
        self._product(right, *((-2, -1) if step.name == "inner" else (-1, -2)), step.result)
        self._product(left, -2, -1, step.result)

    def _addmm(self, step: Step) -> None:
        bias, left, right = step.args[:3]
        self._product(right, -1, -2, step.result, bias)
        self._product(left, -2, -1, step.result)

    def _bilinear(self, step: Step) -> None:
        for owner, axes in self._axes_of(step.given(2, "weight"), 3):
            self._use(owner, (), axes[0], bias=step.given(3, "bias"))

    def _lookup(self, step: Step) -> None:
        """A table by ids: its units are the features, because a row belongs to one id."""
        for owner, axes in self._axes_of(step.given(1, "weight"), 2):
            self._use(owner, (), axes[1])

    def _spread(self, step: Step) -> None:
        """A weight times what is broadcast over it: the first half of a product by hand."""
        for source in step.args[:2] if isinstance(step.result, Tensor) else ():
            for owner, axes in self._axes_of(source, 2):
                if step.result.dim() > len(axes) and step.result.shape[-len(axes) :] == source.shape:
                    self._half[id(step.result)] = (owner, ((),) * (step.result.dim() - len(axes)) + axes)
                    self._held.append(step.result)

    def _reduced(self, step: Step) -> None:
        """The second half: the sum over an axis of the weight."""
        if not step.args or id(step.args[0]) not in self._half:
            return
        owner, axes = self._half[id(step.args[0])]
        given = step.args[1] if len(step.args) > 1 else step.kwargs.get("dim", step.kwargs.get("axis"))
        dims = [given] if isinstance(given, int) else given if isinstance(given, tuple | list) else []
        summed = [axis for dim in dims for axis in axes[dim]]
        out = [axis for item in axes for axis in item if axis not in summed]
        if any(self.shapes[owner][axis] > 1 for axis in summed):
            self._use(owner, (), [axis for axis in out if self.shapes[owner][axis] > 1])

    def _plus(self, step: Step) -> None:
        """A product plus a bias."""
        for one, two in (step.args[:2], step.args[1::-1]) if len(step.args) > 1 else ():
            for owner in self._products.get(id(one), ()):
                self._bias(owner, two)

    def _axes_of(self, weight: Any, least: int) -> Sequence[tuple[str, Axes]]:
        if not isinstance(weight, Tensor):
            return ()
        return [(owner, axes) for owner, axes in self.tracked.get(id(weight), ()) if len(axes) >= least]

    def _use(
        self, owner: str, batch: Sequence[int], out: Sequence[int], *, split: tuple[int, int] | None = None,
        bias: Any = None,
    ) -> None:  # fmt: skip
        if out and owner not in self.uses.seen:
            self.uses.seen[owner] = Use(tuple(batch), tuple(out), split=split)
            self._bias(owner, bias)

    def _bias(self, owner: str, bias: Any) -> None:
        """Remember which parameter is added to a product, where it has an entry per unit."""
        use = self.uses.seen.get(owner)
        name = self.names.get(id(bias)) if isinstance(bias, Tensor) else None
        if use is None or name is None or bias.dim() != 1 or use.bias is not None:
            return
        units, copies = use.size(self.shapes[owner])
        if bias.shape[0] == units and (copies is None or use.split is not None):
            self.uses.seen[owner] = replace(use, bias=name)

    def _product(self, weight: Any, out: int, summed: int, result: Any, bias: Any = None) -> None:
        """Units along one axis, sums over the other; what is left counts copies. A vector has no units."""
        for owner, axes in self._axes_of(weight, 2):
            units, inner = axes[out], axes[summed]
            if set(units) & set(inner):
                continue
            rest = [axis for axis in range(len(self.shapes[owner])) if axis not in (*units, *inner)]
            self._use(owner, rest, units, bias=bias)
            if isinstance(result, Tensor):
                self._products[id(result)] = (*self._products.get(id(result), ()), owner)
                self._held.append(result)

    def _convolution(self, step: Step) -> None:
        """Kernels (out, in, taps), turned round (in, out, taps); groups share the first axis out."""
        turned = "transpose" in step.name
        bias, groups = step.given(2, "bias"), step.given(6, "groups") or 1  # the seventh argument of both kinds
        for owner, axes in self._axes_of(step.given(1, "weight"), 3):
            first, units = axes[0], axes[1] if turned else axes[0]
            if groups == 1:
                self._use(owner, (), units, bias=bias)
            elif len(first) > 1 and not turned and self.shapes[owner][first[0]] == groups:  # joined: (groups, each)
                self._use(owner, first[:1], first[1:], bias=bias)
            elif len(first) == 1:
                at = first[0]
                later = [axis + (axis > at) for axis in units] if turned else [at + 1]
                self._use(owner, (at,), later, split=(at, groups), bias=bias)

    def _tensordot(self, step: Step) -> None:
        """Axes by number: what is not summed over counts units."""
        left, right = step.args[:2]
        dims = step.given(2, "dims")
        if isinstance(dims, int):
            dims = (range(-dims, 0), range(dims))
        for operand, summed in zip((left, right), dims if isinstance(dims, tuple | list) else (), strict=False):
            for owner, axes in self._axes_of(operand, 2):
                gone = {int(at) % len(axes) for at in ([summed] if isinstance(summed, int) else summed)}
                self._use(owner, (), [axis for at, own in enumerate(axes) if at not in gone for axis in own])

    def _einsum(self, step: Step) -> None:
        if not isinstance(step.args[0], str):
            return
        operands = step.args[1] if isinstance(step.args[1], list | tuple) else step.args[1:]
        inputs, _, output = step.args[0].replace(" ", "").partition("->")
        letters = inputs.split(",")
        if not output or len(letters) != len(operands):
            return
        for at, (mine, operand) in enumerate(zip(letters, operands, strict=True)):
            if "." in mine:
                continue  # the batch, as a rule; of a weight it would be unclear which axes
            others = "".join(item for index, item in enumerate(letters) if index != at)
            for owner, axes in self._axes_of(operand, 2):
                batch = [axis for letter, own in zip(mine, axes, strict=True) if letter in output and letter in others
                         for axis in own]  # fmt: skip
                out = [axis for letter, own in zip(mine, axes, strict=True) if letter in output and letter not in others
                       for axis in own]  # fmt: skip
                if out and any(letter not in output for letter in mine):
                    self._use(owner, batch, out)


def uses_of(model: nn.Module, run: Callable[[], Any]) -> Uses:
    """Run a forward and return how each parameter of rank two or more was multiplied, where it was.

    Args:
        model: Whose parameters are watched.
        run: Runs it once.
    """
    watch = _Watch(model)
    with torch.no_grad(), watch:
        run()
    return watch.uses
