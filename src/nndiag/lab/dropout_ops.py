"""What torch's dropouts and random sources are called, and how their arguments say p and whether they are on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

ELEMENT, CHANNEL, SAMPLE, WHOLE, ROW, LOCKED, WEIGHT = (
    "element", "channel", "sample", "whole", "row", "locked", "weight",
)  # fmt: skip

# op -> (position of p, position of the training flag, default p, default training)
_DROPOUTS: dict[str, tuple[int, int, float, bool]] = {
    "dropout": (1, 2, 0.5, True),
    "dropout1d": (1, 2, 0.5, True),
    "dropout2d": (1, 2, 0.5, True),
    "dropout3d": (1, 2, 0.5, True),
    "feature_dropout": (1, 2, 0.5, True),
    "native_dropout": (1, 2, 0.5, True),
    "alpha_dropout": (1, 2, 0.5, False),  # torch's default: never on unless it is told
    "feature_alpha_dropout": (1, 2, 0.5, False),
}
ALPHA = frozenset({"alpha_dropout", "feature_alpha_dropout"})
_CHANNELS = frozenset({"dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_alpha_dropout"})
FUSED = frozenset({"scaled_dot_product_attention", "multi_head_attention_forward"})
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})

SOURCES = frozenset(
    [
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "randint",
        "randint_like",
        "randperm",
        "bernoulli",
        "multinomial",
        "normal",
        "uniform_",
        "bernoulli_",
        "normal_",
        "random_",
        "exponential_",
        "cauchy_",
        "geometric_",
        "log_normal_",
        "poisson",
        "binomial",
    ]
)
RANDOM_FUNCTIONS = frozenset({"rrelu", "gumbel_softmax", "fractional_max_pool2d", "fractional_max_pool3d"})
FROM_OUTSIDE = frozenset({"tensor", "as_tensor", "asarray", "from_numpy"})
FOREIGN = "a generator outside torch"
SHAPE_ONLY = frozenset(
    [
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_tensor",
        "expand_as",
        "view_as",
        "reshape_as",
        "type_as",
        "broadcast_to",
        "size",
        "dim",
    ]
)


# What turns random numbers into a choice of places: no mask of independent draws any more.
_SELECTING = frozenset(
    "argsort sort msort topk kthvalue gather scatter index_select take take_along_dim cumsum argmax argmin one_hot max min "  # noqa: E501, SIM905 - one sentence
    "searchsorted bucketize unique nonzero randperm softmax sum mean".split()
)


@dataclass(frozen=True)
class Dial:
    """What a dropout call was told: its rate, whether it is on, what it drops together."""

    p: float
    on: bool
    unit: str  # element | channel | …

    @property
    def acts(self) -> bool:
        """Whether anything is dropped."""
        return self.on and self.p > 0


def is_dropout(op: str) -> bool:
    """Whether this is one of torch's own dropout functions."""
    return op in _DROPOUTS


def dial_of(op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Dial | None:
    """Read p and the training flag from the arguments of a call; None for anything but dropout."""
    if op in _DROPOUTS:
        at_p, at_flag, p, on = _DROPOUTS[op]
        p = _argument(args, kwargs, at_p, "p", p)
        on = _argument(args, kwargs, at_flag, "train" if "train" in kwargs else "training", on)
        return Dial(_number(p), bool(on), CHANNEL if op in _CHANNELS else ELEMENT)
    if op == "scaled_dot_product_attention":
        p = _number(_argument(args, kwargs, 4, "dropout_p", 0.0))
        return Dial(p, p > 0, ELEMENT)
    if op == "multi_head_attention_forward":
        p = _number(_argument(args, kwargs, 10, "dropout_p", 0.0))
        return Dial(p, bool(_argument(args, kwargs, 13, "training", True)), ELEMENT)  # noqa: FBT003 - a row of torch's signature
    if op in RECURRENT and len(args) >= 8:
        at = _recurrent_rate(args)
        return Dial(_number(args[at]), bool(args[at + 1]), ELEMENT) if at else None
    return None


def _recurrent_rate(args: tuple[Any, ...]) -> int:
    """Where in torch.lstm's positional arguments p stands: behind has_biases and num_layers, which are bool and int."""
    for at in range(2, len(args) - 1):
        if isinstance(args[at], float) and isinstance(args[at + 1], bool) and isinstance(args[at - 1], int):
            return at
    return 0


def with_rate(
    op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], p: float
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the same arguments with another rate."""
    given = dict(kwargs)
    if op in RECURRENT:
        at = _recurrent_rate(args)
        return (*args[:at], p, *args[at + 1 :]), given
    at = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}.get(op, 1)
    name = "p" if op in _DROPOUTS else "dropout_p"
    if len(args) > at:
        return (*args[:at], p, *args[at + 1 :]), given
    given[name] = p
    return args, given


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], at: int, name: str, default: Any) -> Any:
    if name in kwargs:
        return kwargs[name]
    return args[at] if at < len(args) else default


def _number(value: Any) -> float:
    return float(value) if value is not None else 0.0


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
            "view", "reshape", "unsqueeze", "squeeze", "clone", "detach", "contiguous", "broadcast_to", "transpose", "ne",  # noqa: E501 - one sentence
            "gt", "permute", "getitem", "requires_grad_", "t", "T", "mT", "data", "repeat", "cuda", "int", "long", "byte",  # noqa: E501 - one sentence
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
        value = _argument(args, kwargs, 1, "p", 0.5)
        return Luck(op, float(value.double().mean()) if isinstance(value, Tensor) else float(value))
    if op == "bernoulli":
        given = _argument(args, kwargs, 1, "p", None)
        return Luck(op, float(given) if isinstance(given, float) else float(args[0].double().mean()))
    uniform = op in {"rand", "rand_like"} or (op == "uniform_" and len(args) < 2 and not kwargs)
    return Luck(op, shift=0.0) if uniform else Luck(op, plain=op not in {"randperm", "multinomial"})


@dataclass(frozen=True)
class MaskFacts:
    """What one draw of a hand-written mask looked like."""

    binary: bool  # zero or one constant
    scale: float  # that constant
    kept: int
    total: int
    unit: str


def mask_facts(mask: Tensor, data: Tensor, *, weight: bool) -> MaskFacts:
    """Look at one draw of a candidate mask beside the tensor it multiplies."""
    values = mask.detach()
    distinct = _own_elements(values).double().reshape(-1)
    nonzero = distinct[distinct != 0]
    scale = float(nonzero[0]) if nonzero.numel() else 1.0
    same = bool((nonzero - scale).abs().max() <= 2e-2 * abs(scale)) if nonzero.numel() else True
    return MaskFacts(
        same and scale > 0,
        scale if math.isfinite(scale) else 1.0,
        int(nonzero.numel()),
        int(distinct.numel()),
        WEIGHT if weight else _unit(values, data),
    )


def _own_elements(mask: Tensor) -> Tensor:
    """The elements that were really drawn: expanded axes count once."""
    for axis, stride in enumerate(mask.stride()):
        if stride == 0 and mask.shape[axis] > 1:
            mask = mask.narrow(axis, 0, 1)
    return mask


def _unit(mask: Tensor, data: Tensor) -> str:
    """What one mask element drops together, from which axes of the data it spans."""
    own = list(_own_elements(mask).shape)
    own = [1] * (data.dim() - len(own)) + own
    spans = [size > 1 or data.shape[axis] == 1 for axis, size in enumerate(own)]  # mask differs along this axis
    if all(spans) or data.dim() == 0:
        return ELEMENT
    if all(size == 1 for size in own):
        return WHOLE
    if data.dim() > 1 and own[0] > 1 and all(size == 1 for size in own[1:]):
        return SAMPLE
    if data.dim() == 3 and own[2] == 1:
        return ROW
    if data.dim() == 3 and own[2] > 1:
        return LOCKED
    return CHANNEL if data.dim() > 2 else ROW


def identity_of(x: Tensor) -> Tensor:
    """The same values under a new identity."""
    return x.view_as(x) if x.layout == torch.strided else x.clone()


def fingerprint(tensor: Tensor) -> int:
    """A number that changes with the values of a tensor."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return 0
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
        values = tensor.detach().contiguous().cpu()
        values = values.double() if values.dtype == torch.bfloat16 else values
        return hash((tuple(values.shape), values.numpy().tobytes()))
