"""What is known of each tensor of a forward: whether data is in it, whether it is random, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.lab.dropout.ops import argument

if TYPE_CHECKING:
    from collections.abc import Mapping

FOREIGN = "a generator outside torch"
# What turns random numbers into a choice of places: no mask of independent draws any more.
_SELECTING = frozenset(
    {
        "argsort",
        "sort",
        "msort",
        "topk",
        "kthvalue",
        "gather",
        "scatter",
        "index_select",
        "take",
        "take_along_dim",
        "cumsum",
        "argmax",
        "argmin",
        "one_hot",
        "max",
        "min",
        "searchsorted",
        "bucketize",
        "unique",
        "nonzero",
        "randperm",
        "softmax",
        "sum",
        "mean",
    }
)


@dataclass(frozen=True)
class Luck:
    """What is known of a random tensor that depends on no data: the start of a hand-written mask."""

    source: str  # the function it came from
    rate: float | None = None  # probability of a nonzero, for zero-or-something tensors
    shift: float | None = None  # for uniform tensors: what was added to U(0, 1)
    plain: bool = True  # element by element: nothing was sorted, gathered or counted

    def after(self, op: str, others: list[Any], *, swapped: bool) -> Luck:
        """Follow it through one more operation with plain numbers."""
        if op in _SELECTING:
            return Luck(self.source, plain=False)
        if not self.plain:
            return self
        number = next((float(o) for o in others if isinstance(o, int | float) and not isinstance(o, bool)), None)
        if self.shift is not None:
            return self._uniform(op, number, swapped=swapped)
        if self.rate is not None and op in {"bitwise_not", "logical_not", "invert", "rsub", "sub"}:
            flips = op not in {"rsub", "sub"} or (number == 1 and swapped)
            return Luck(self.source, 1 - self.rate if flips else None)
        if op in {"eq", "ne"} and self.rate is not None and number == 0:
            return Luck(self.source, 1 - self.rate if op == "eq" else self.rate)
        keeps = op in {
            "to", "float", "double", "half", "bool", "type", "type_as", "bfloat16", "div", "mul", "expand", "expand_as",
            "view", "reshape", "unsqueeze", "squeeze", "clone", "detach", "contiguous", "broadcast_to", "transpose",
            "ne", "gt", "permute", "getitem", "requires_grad_", "t", "T", "mT", "data", "repeat", "cuda", "int", "long",
            "byte",
        }  # fmt: skip
        return self if keeps else Luck(self.source)

    def _uniform(self, op: str, number: float | None, *, swapped: bool) -> Luck:
        shift = self.shift or 0.0
        if op in {"lt", "le", "gt", "ge"} and number is not None:
            below = (op in {"lt", "le"}) != swapped
            chance = min(1.0, max(0.0, number - shift))
            return Luck(self.source, chance if below else 1 - chance)
        if op == "add" and number is not None:
            return Luck(self.source, shift=shift + number)
        if op == "floor" and 0 < shift <= 1:
            return Luck(self.source, rate=shift)
        if op in {
            "to",
            "float",
            "double",
            "clone",
            "detach",
            "view",
            "reshape",
            "unsqueeze",
            "expand",
            "expand_as",
            "half",
        }:
            return self
        return Luck(self.source)


def luck_of(op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Luck:
    """What is known of the output of a random source."""
    if op == "bernoulli_":
        value = argument(args, kwargs, 1, "p", 0.5)
        return Luck(op, float(value.double().mean()) if isinstance(value, Tensor) else float(value))
    if op == "bernoulli":
        given = argument(args, kwargs, 1, "p", None)
        return Luck(op, float(given) if isinstance(given, float) else float(args[0].double().mean()))
    uniform = op in {"rand", "rand_like"} or (op == "uniform_" and len(args) < 2 and not kwargs)
    return Luck(op, shift=0.0) if uniform else Luck(op, plain=op not in {"randperm", "multinomial"})


@dataclass(slots=True)
class Tag:
    """What is known of one tensor of a forward."""

    id: int
    data: bool  # it depends on the input or on parameters
    luck: Luck | None = None  # it is random


class Tags:
    """The tags of one forward, kept on the tensors themselves."""

    def __init__(self, model: nn.Module, foreign: list[int], drawn: frozenset[int]) -> None:
        """Start afresh.

        Args:
            model: Its buffers are no news.
            foreign: Takes the fingerprints of tensors that no torch function made, in order.
            drawn: Which of these are random.
        """
        self._foreign, self._drawn = foreign, drawn
        self._known = {id(item) for item in model.buffers()}
        self._next = 1

    def of(self, tensor: Tensor) -> Tag:
        """The tag of a tensor; a new one if it has none of this forward."""
        tag = getattr(tensor, "_nndiag_tag", None)
        if tag is None or tag[0] is not self:
            self.put(tensor, data=isinstance(tensor, nn.Parameter), luck=self._from_outside(tensor))
            tag = tensor._nndiag_tag  # type: ignore[attr-defined]  # noqa: SLF001 - put there by us
        found: Tag = tag[1]
        return found

    def put(self, tensor: Tensor, *, data: bool, luck: Luck | None = None) -> None:
        """Give a tensor a new identity."""
        tensor._nndiag_tag = (self, Tag(self._next, data, luck))  # type: ignore[attr-defined]  # noqa: SLF001 - ours
        self._next += 1

    def _from_outside(self, tensor: Tensor) -> Luck | None:
        """Note a tensor that no torch function made: NumPy's and Python's generators hide behind these."""
        if isinstance(tensor, nn.Parameter) or id(tensor) in self._known:
            return None
        order = len(self._foreign)
        self._foreign.append(fingerprint(tensor))
        return Luck(FOREIGN) if order in self._drawn else None


def fingerprint(tensor: Tensor) -> int:
    """A number that changes with the values of a tensor; 0 for one that has no values to look at."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return 0
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
        values = tensor.detach().contiguous().cpu()
        values = values.double() if values.dtype == torch.bfloat16 else values
        try:
            return hash((tuple(values.shape), values.numpy().tobytes()))
        except RuntimeError:  # torch.func's own tensors, inside vmap, have no storage
            return 0
