"""One thing that ran: a module, or a torch function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Where
from nndiag.lab.watch.built import class_name, locate

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor as it was passed: its identity, shape and kind; the tensor itself only for parameters and buffers."""

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    parameter: str = ""  # dotted name, when it is a parameter or buffer of the model
    tensor: Tensor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One call in call order. A module's call comes before the calls that its forward makes."""

    index: int
    name: str  # dotted module name, or the bare function name: "dropout", "add_", "matmul"
    kind: str  # "module" | "function"
    target: str  # torch.nn.Dropout, torch.nn.functional.dropout, torch.Tensor.add
    module: nn.Module | None
    owner: str  # dotted name of the innermost enclosing module; for a module's call its caller
    where: Where  # the line of the call in the user's code
    inputs: tuple[int, ...]  # ids of the tensors read, parameters too
    outputs: tuple[int, ...]
    args: tuple[Any, ...] = ()  # tensors replaced by Ref
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    role: str = "other"  # see roles.py
    end: int = 0  # index after the last call made inside
    opaque: bool = True  # a step of the data flow; False: look at the calls inside instead
    hidden: bool = False  # inside an opaque call
    training: bool | None = None  # the module's own mode flag at the call
    repeat: int = 0  # how often this module had run before in this forward

    @property
    def op(self) -> str:
        """The function's name without in-place and dunder underscores: `__iadd__` and `add_` are "add"."""
        bare = self.name.strip("_") if self.kind == "function" else self.target.rpartition(".")[2]
        if self.name.startswith("__"):
            bare = bare[1:] if bare[1:] in _PLAIN and bare[0] in "ri" else bare
        return {"truediv": "div"}.get(bare, bare)

    @property
    def place(self) -> Where:
        """Where to send the user: the line that built the module, or the line that called the function."""
        if self.module is None:
            return Where(module=self.owner, cls=self.target, file=self.where.file, line=self.where.line)
        return locate(self.module, self.name, otherwise=self.where)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Dotted names of the parameters and buffers passed to this call itself."""
        return tuple(ref.parameter for ref in self.refs if ref.parameter)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Every tensor argument, in order."""
        return tuple(refs_in((self.args, dict(self.kwargs))))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument passed by position or keyword."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else default


_PLAIN = {"add", "sub", "mul", "truediv", "matmul", "pow", "floordiv", "mod", "and", "or", "xor", "div"}


def refs_in(thing: Any) -> list[Ref]:
    """Return every Ref in nested arguments."""
    if isinstance(thing, Ref):
        return [thing]
    if isinstance(thing, Mapping):
        thing = list(thing.values())
    if isinstance(thing, tuple | list):
        return [ref for item in thing for ref in refs_in(item)]
    return []


__all__ = ["Call", "Ref", "class_name", "refs_in"]
