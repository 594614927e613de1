"""Closed form at the map behind a dropout: spread, participation and skew of the sums, from one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from nndiag.lab.dropout.ops import CHANNEL, ELEMENT, LOCKED
from nndiag.science import activation_moments as am
from nndiag.science.rescale import PowerSums, grouped

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.lab.dropout.graph import Span, Step

BUDGET = 60_000  # pre-activations looked at
PARTS = 600_000  # contributions of single channels held at once
_CONVS: dict[str, Callable[..., Tensor]] = {
    "conv1d": functional.conv1d,
    "conv2d": functional.conv2d,
    "conv3d": functional.conv3d,
}


@dataclass(frozen=True)
class Sums:
    """Pre-activations of some samples and what dropout does to them."""

    mean: Tensor  # eval pre-activations, (samples, …, units) or (samples, channels, …)
    power: PowerSums  # of the contributions to each, same shape
    inputs: int  # contributions per unit
    bias: Tensor | None = None  # of the map, (units,)
    weight: Tensor | None = None  # (units, inputs), of a dense map
    rows: Tensor | None = None  # (samples, inputs), what it reads
    contributions: Callable[[Tensor], Tensor] | None = None  # indices into `mean` -> (sums, inputs)

    @property
    def signal(self) -> Tensor:
        """Variance of each unit over the batch and positions, (units,)."""
        if self.rows is not None and self.weight is not None:
            return (self.rows @ self.weight.T).var(0, unbiased=False)
        return self.mean.var(_all_but_units(self.mean), unbiased=False)

    @property
    def noise(self) -> Tensor:
        """Σ c² of each unit, averaged likewise, (units,)."""
        if self.rows is not None and self.weight is not None and self.inputs == self.weight.shape[1]:
            return (self.rows * self.rows).mean(0) @ (self.weight**2).T
        return self.power.second.mean(_all_but_units(self.power.second))


def _all_but_units(sums: Tensor) -> tuple[int, ...]:
    """Units stand last behind a dense map, second behind a convolution."""
    return (0,) if sums.dim() == 2 else tuple(axis for axis in range(sums.dim()) if axis != 1)


def in_rows(fed: Tensor | None, x: Tensor) -> bool:
    """Whether a linear map reads channel dropout along a later axis: (N, T, C) handed to Dropout1d loses rows."""
    return fed is not None and fed.dim() > 2 and fed.shape == x.shape and torch.equal(fed[0].to(x.dtype), x[0])


def scattered(n: int, wanted: int, device: torch.device | str = "cpu") -> Tensor:
    """Some of the indices below n, evenly spread and free of any period: a fixed step would meet the same units again.

    Multiples of the golden ratio modulo one are the most even of all such sequences (Weyl 1916; Knuth, TAOCP 6.4).
    """
    if n <= wanted:
        return torch.arange(n, device=device)
    turns = torch.arange(wanted, dtype=torch.float64, device=device) * 0.6180339887498949
    return (turns % 1 * n).long()


def sums_at(step: Step, x: Tensor, args: Any, kwargs: Any, *, unit: str, channels: int) -> Sums | str:  # noqa: PLR0913 - torch hands a call over in these parts
    """Work out the contributions to every unit of the affine map that reads a dropout.

    Args:
        step: The affine step.
        x: What the dropout hands it in eval.
        args: Arguments of the step.
        kwargs: Likewise.
        unit: What one mask element drops together.
        channels: Channels of the dropped tensor, for channel dropout.

    Returns:
        The sums, or in words why there is no closed form.
    """
    if unit not in {ELEMENT, LOCKED, CHANNEL}:
        return f"one mask element drops a whole {unit}"
    if step.op in _CONVS:
        return _conv(step.op, x, args, kwargs, by_channel=unit == CHANNEL)
    weight_bias = _matrix(step.op, x, args, kwargs)
    if isinstance(weight_bias, str):
        return weight_bias
    weight, bias = weight_bias
    rows = x.detach().reshape(-1, x.shape[-1])
    spans = x.shape[-1] // channels if unit == CHANNEL and channels and x.shape[-1] % channels == 0 else 1
    return _linear(rows, weight.detach(), bias, spans)


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None, spans: int) -> Sums:
    """Power sums of w_ji x_i over i, for some of the rows."""
    keep = max(8, min(len(rows), BUDGET // max(1, len(weight))))
    some, quick = _quick(rows[:: max(1, len(rows) // keep)][:keep]), _quick(weight)
    mean = (some @ quick.T).double()
    if bias is not None:
        mean = mean + bias.detach().double()
    rows, weight = rows.double(), weight.double()
    if spans > 1:
        few = some[: max(1, min(16, 2_000_000 // weight.numel()))].double()
        parts = grouped(few[:, None] * weight[None], weight.shape[1] // spans)
        inputs = weight.shape[1] // spans
        return Sums(mean[: len(few)], PowerSums.of(parts), inputs, bias, weight, rows, _picked(parts))
    square, heavy = some * some, quick * quick
    power = PowerSums(
        (square @ heavy.T).double(), ((square * some) @ (heavy * quick).T).double(),
        ((square * square) @ (heavy * heavy).T).double(),
    )  # fmt: skip
    return Sums(mean, power, weight.shape[1], bias, weight, rows, _products(some.double(), weight))


def _quick(x: Tensor) -> Tensor:
    """In the precision of the model, half precision apart: sums of powers need no more, and double takes longer."""
    return x.float() if x.dtype.itemsize < 4 else x


def _picked(parts: Tensor) -> Callable[[Tensor], Tensor]:
    """Reads contributions that are there already, (…, inputs)."""
    return lambda at: parts[at.unbind(1)]


def _products(rows: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Works out w_ji x_i for chosen rows and units."""
    return lambda at: rows[at[:, 0]] * weight[at[:, 1]]


def _matrix(op: str, x: Tensor, args: Any, kwargs: Any) -> tuple[Tensor, Tensor | None] | str:
    """The weight as (units, inputs) and the bias of a dense map."""
    if op == "linear":
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return weight, (args[2] if len(args) > 2 else kwargs.get("bias"))
    if op == "addmm" and len(args) == 3:
        return args[2].T, args[0]
    if op in {"matmul", "mm"} and len(args) == 2 and args[1].dim() == 2 and args[1] is not x:
        return args[1].T, None
    return f"the map behind it is {op}"


def _conv(op: str, x: Tensor, args: Any, kwargs: Any, *, by_channel: bool) -> Sums | str:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    weight = _quick(given["weight"].detach())
    options = {name: given[name] for name in ("stride", "padding", "dilation") if name in given}
    groups = int(given.get("groups", 1))
    bias = given["bias"].detach().double() if given.get("bias") is not None else None
    convolve = _CONVS[op]
    x = _quick(x.detach())
    inside = weight.shape[1]
    size = convolve(x[:1], weight, **options, groups=groups).numel()
    some = x[: max(1, min(len(x), BUDGET * 4 // max(1, size)))]
    if by_channel and groups > 1:
        return "channel dropout in front of a grouped convolution"
    contributions: Callable[[Tensor], Tensor] | None
    if by_channel:
        # Every input channel apart: as many samples and, of wide layers, as many output channels as fit.
        some = some[: max(1, PARTS // max(1, size * inside))]
        weight = weight[:: max(1, size * inside // PARTS)]
        each = weight.transpose(0, 1).reshape(inside * len(weight), 1, *weight.shape[2:])
        parts = convolve(some, each, **options, groups=inside).unflatten(1, (inside, len(weight))).movedim(1, -1)  # type: ignore[no-untyped-call]
        mean, power, inputs, contributions = (
            parts.double().sum(-1),
            PowerSums.of(parts),
            inside,
            _picked(parts.double()),
        )
        bias = bias[:: max(1, size * inside // PARTS)] if bias is not None else None
    else:
        square, heavy = some * some, weight * weight
        mean, *raised = [
            convolve(a, w, **options, groups=groups).double()
            for a, w in (
                (some, weight),
                (square, heavy),
                (square * some, heavy * weight),
                (square * square, heavy * heavy),
            )
        ]
        power, inputs = PowerSums(*raised), weight[0].numel()
        contributions = _patches(some.double(), weight.double(), options, groups)
    if bias is not None:
        mean = mean + bias.reshape(-1, *[1] * (weight.dim() - 2))
    return Sums(mean, power, inputs, contributions=contributions)


def _patches(x: Tensor, weight: Tensor, options: dict[str, Any], groups: int) -> Callable[[Tensor], Tensor] | None:
    """Reads w·x at chosen output positions of a convolution; None where the padding is a word."""
    dims = weight.dim() - 2
    if isinstance(options.get("padding", 0), str):
        return None
    padding, stride, dilation = (
        (given,) * dims if isinstance(given := options.get(name, default), int) else tuple(given) * (dims // len(given))
        for name, default in (("padding", 0), ("stride", 1), ("dilation", 1))
    )
    wide = functional.pad(x, [side for amount in reversed(padding) for side in (amount, amount)])
    for axis, (kernel, step, gap) in enumerate(zip(weight.shape[2:], stride, dilation, strict=True)):
        wide = wide.unfold(2 + axis, (kernel - 1) * gap + 1, step)[..., ::gap]
    units, inside = weight.shape[:2]  # wide is (samples, channels, *positions, *kernel), a view

    def contributions(at: Tensor) -> Tensor:
        sample, unit, *position = at.unbind(1)
        patch = wide.movedim(1, -1 - dims)[(sample, *position)]  # (sums, channels, *kernel)
        first = unit // (units // groups) * inside
        channels = first[:, None] + torch.arange(inside, device=at.device)
        return (patch[torch.arange(len(at))[:, None], channels] * weight[unit]).flatten(1)

    return contributions


def activation_of(op: str, args: Any = (), kwargs: Any = None) -> am.Activation | None:
    """The elementwise function a step computes, with its Gaussian moments; None when it is not elementwise."""
    kwargs = kwargs or {}
    rest = args[1:]
    first = float(rest[0]) if rest and isinstance(rest[0], int | float) else None
    plain: dict[str, am.Activation] = {
        "relu": am.Activation("relu", torch.relu, am.relu_mean, am.relu_second),
        "gelu": am.Activation("gelu", functional.gelu, am.gelu_mean),
        "selu": am.Activation("selu", functional.selu, am.selu_mean),
        "relu6": am.Activation("relu6", functional.relu6, lambda m, s: am.clamp_mean(m, s, 0.0, 6.0)),
        **{
            name: am.Activation(name, getattr(functional, name))
            for name in ["silu", "mish", "softplus", "hardswish", "hardsigmoid", "logsigmoid", "softsign", "tanhshrink"]
        },
        "tanh": am.Activation("tanh", torch.tanh),
        "sigmoid": am.Activation("sigmoid", torch.sigmoid),
        "expit": am.Activation("sigmoid", torch.sigmoid),
    }
    if op == "gelu" and (kwargs.get("approximate") == "tanh" or "tanh" in rest):
        return am.Activation("gelu", lambda x: functional.gelu(x, approximate="tanh"), am.gelu_mean)
    if op in plain:
        return plain[op]
    if op == "leaky_relu":
        slope = float(kwargs.get("negative_slope", first if first is not None else 0.01))
        return am.Activation(
            "leaky_relu", lambda x: functional.leaky_relu(x, slope), lambda m, s: am.leaky_mean(m, s, slope)
        )
    if op in {"elu", "celu"}:
        alpha = float(kwargs.get("alpha", first if first is not None else 1.0))
        form = am.elu_mean if op == "elu" else am.celu_mean
        f = functional.elu if op == "elu" else functional.celu
        return am.Activation(op, lambda x: f(x, alpha), lambda m, s: form(m, s, alpha))
    if op in {"hardtanh", "clamp", "clamp_min"}:
        return _clamp(op, rest, kwargs)
    return None


def module_activation(span: Span) -> am.Activation:
    """An activation that is a module of its own, integrated by quadrature."""
    module = span.module

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = module(x.float())
        return out.double()

    return am.Activation(type(module).__name__, f)


def _clamp(op: str, rest: Any, kwargs: Any) -> am.Activation | None:
    names = ("min_val", "max_val") if op == "hardtanh" else ("min", "max")
    default = (-1.0, 1.0) if op == "hardtanh" else (None, None)
    bounds = [kwargs.get(name, rest[n] if n < len(rest) else default[n]) for n, name in enumerate(names)]
    if any(isinstance(bound, Tensor) for bound in bounds):
        return None
    low, high = bounds
    if low is not None and high is None:
        if float(low) == 0:
            return am.Activation("relu", torch.relu, am.relu_mean, am.relu_second)
        return am.Activation(
            "clamp", lambda x: x.clamp_min(low), lambda m, s: low + am.relu_mean(am.double(m) - low, s)
        )
    if low is None or high is None:
        return None
    return am.Activation(
        "hardtanh", lambda x: x.clamp(low, high), lambda m, s: am.clamp_mean(m, s, float(low), float(high))
    )
