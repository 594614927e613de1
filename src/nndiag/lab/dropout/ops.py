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
# What asks a tensor for its form or its storage, and computes nothing.
PLUMBING = frozenset({
    "size", "stride", "numel", "nelement", "is_contiguous", "is_floating_point", "is_complex", "item", "tolist",
    "get_device", "element_size", "data_ptr", "storage_offset", "ndimension", "untyped_storage", "storage",
    "numpy", "set_grad_enabled", "is_same_size", "equal", "allclose",
})  # fmt: skip
FROM_OUTSIDE = frozenset({"tensor", "as_tensor", "asarray", "from_numpy"})
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
        p = argument(args, kwargs, at_p, "p", p)
        on = argument(args, kwargs, at_flag, "train" if "train" in kwargs else "training", on)
        return Dial(_number(p), bool(on), CHANNEL if op in _CHANNELS else ELEMENT)
    if op == "scaled_dot_product_attention":
        p = _number(argument(args, kwargs, 4, "dropout_p", 0.0))
        return Dial(p, p > 0, ELEMENT)
    if op == "multi_head_attention_forward":
        p = _number(argument(args, kwargs, 10, "dropout_p", 0.0))
        return Dial(p, bool(argument(args, kwargs, 13, "training", True)), ELEMENT)  # noqa: FBT003 - a row of torch's signature
    if op in RECURRENT and len(args) >= 8:
        at = recurrent_rate(args)
        return Dial(_number(args[at]), bool(args[at + 1]), ELEMENT) if at else None
    return None


def recurrent_rate(args: tuple[Any, ...]) -> int:
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
        at = recurrent_rate(args)
        return (*args[:at], p, *args[at + 1 :]), given
    at = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}.get(op, 1)
    name = "p" if op in _DROPOUTS else "dropout_p"
    if len(args) > at:
        return (*args[:at], p, *args[at + 1 :]), given
    given[name] = p
    return args, given


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], at: int, name: str, default: Any) -> Any:
    """An argument of a call, by name or by position."""
    if name in kwargs:
        return kwargs[name]
    return args[at] if at < len(args) else default


def _number(value: Any) -> float:
    return float(value) if value is not None else 0.0


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
    if data.dim() > 2 and own[2 if data.dim() == 3 else 1] == 1:
        return ROW  # every channel of a token or of a position
    return CHANNEL if data.dim() > 3 and all(size == 1 for size in own[2:]) else LOCKED


def identity_of(x: Tensor) -> Tensor:
    """The same values under a new identity."""
    return x.view_as(x) if x.layout == torch.strided else x.clone()
