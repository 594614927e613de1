"""The everyday layers of Keras as torch's own: dense, embedding, normalisers, dropouts, activations, shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.lab.keras.graph import UnknownLayerError, put, value_of
from nndiag.lab.keras.modules import (
    GaussianDropout,
    GaussianNoise,
    HardwiredDropout,
    HardwiredSpatialDropout,
    Rescale,
    Standardize,
    fixed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.lab.keras.graph import Builder, Ref

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "elu": nn.ELU, "selu": nn.SELU, "silu": nn.SiLU, "swish": nn.SiLU,
    "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "softsign": nn.Softsign,
    "mish": nn.Mish, "hard_sigmoid": nn.Hardsigmoid, "hard_silu": nn.Hardswish, "hard_swish": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2), "log_sigmoid": nn.LogSigmoid, "celu": nn.CELU, "glu": nn.GLU,
    "softmax": lambda: nn.Softmax(-1), "log_softmax": lambda: nn.LogSoftmax(-1), "tanh_shrink": nn.Tanhshrink,
    "hard_tanh": nn.Hardtanh, "hard_shrink": nn.Hardshrink, "soft_shrink": nn.Softshrink,
}  # fmt: skip


def activated(to: Builder, name: str, function: Any, x: Ref) -> Ref:
    """Call an activation, under the name of its layer and its own."""
    kind = getattr(function, "__name__", getattr(function, "name", type(function).__name__))
    if function is None or kind == "linear":
        return x
    own = getattr(function, "__module__", "") or ""
    if kind not in ACTIVATIONS or not own.startswith("keras"):
        if hasattr(function, "built"):  # a layer such as LeakyReLU() as an activation
            return translate_simple(to, function, f"{name}/{function.name}", (x,), {})
        return to.apply(function, x)
    return to.module(f"{name}/{kind}", ACTIVATIONS[kind], x)


def translate_simple(to: Builder, layer: Any, name: str, args: tuple[Any, ...], call: dict[str, Any]) -> Ref:
    """Translate one of the layers of this file.

    Raises:
        UnknownLayerError: It is none of them, or set up in a way that torch's layer cannot be.
    """
    make = LAYERS.get(type(layer).__name__)
    if make is None:
        raise UnknownLayerError(f"{type(layer).__name__} is not known")
    made: Ref = make(to, layer, name, args, call)
    return made


def rank_of(to: Builder) -> int:
    """Return the number of axes of what the layer reads."""
    return len(to.shape)


def _size(to: Builder, axis: int) -> int:
    size = to.shape[axis]
    if size is None:
        raise UnknownLayerError(f"a normaliser over axis {axis}, whose size is open")
    return size


def axis_of(layer: Any, rank: int) -> int:
    """Return the channel axis of a normaliser."""
    axis = layer.axis if isinstance(layer.axis, int) else next(iter(layer.axis))
    return axis % rank


def channels_second(to: Builder, x: Ref, rank: int, axis: int) -> tuple[Ref, Callable[[Ref], Ref]]:
    """Bring the channels to axis 1, and return the way back."""
    if rank <= 2 or axis == 1:
        return x, lambda y: y
    return to.apply(torch.movedim, x, axis, 1), lambda y: to.apply(torch.movedim, y, 1, axis)


def _dense(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    def make() -> nn.Module:
        inputs, units = layer.kernel.shape
        made = nn.Linear(inputs, units, bias=layer.use_bias)
        put(made.weight, layer.kernel, torch.t)
        if layer.use_bias:
            put(made.bias, layer.bias)
        return made

    return activated(to, name, layer.activation, to.module(name, make, args[0]))


def _as_ids(x: Tensor) -> Tensor:
    return x if x.dtype in {torch.int64, torch.int32} else x.long()


def _embedding(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    def make() -> nn.Module:
        made = nn.Embedding(layer.input_dim, layer.output_dim)
        put(made.weight, layer.embeddings)
        return made

    if layer.mask_zero:
        to.notes.append(f"the mask of {name} is not applied")
    return to.module(name, make, to.apply(_as_ids, args[0]))


def _scaled(made: Any, layer: Any, change: Callable[[Tensor], Tensor] | None = None) -> None:
    """Fill weight and bias; one that Keras has not stays what it is."""
    scale, center = getattr(layer, "gamma", getattr(layer, "scale", None)), getattr(layer, "beta", None)
    for parameter, variable in ((made.weight, scale), (getattr(made, "bias", None), center)):
        if parameter is not None and hasattr(variable, "value"):
            put(parameter, variable, change)
        elif parameter is not None:
            parameter.requires_grad_(requires_grad=False)


def _batch_norm(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    rank = rank_of(to)
    classes = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if rank not in classes:
        raise UnknownLayerError(f"BatchNormalization over {rank} axes")

    def make() -> nn.Module:
        # Keras keeps `momentum` of the old average at each step, torch takes `momentum` of the new value.
        size = layer.moving_mean.shape[0]
        made = classes[rank](size, eps=layer.epsilon, momentum=1 - layer.momentum, affine=layer.scale or layer.center)
        if made.affine:
            _scaled(made, layer)
        put(made.running_mean, layer.moving_mean)
        put(made.running_var, layer.moving_variance)
        return made if layer.trainable else fixed(made, mode=False)  # a frozen one runs in inference mode

    x, back = channels_second(to, args[0], rank, axis_of(layer, rank))
    return back(to.module(name, make, x))


def _layer_norm(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    rank = rank_of(to)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    places = sorted(axis % rank for axis in axes)
    if places != list(range(rank - len(places), rank)) or getattr(layer, "rms_scaling", False):
        raise UnknownLayerError(f"{type(layer).__name__} over axes {places} of {rank}")
    shape = [_size(to, axis) for axis in places]

    def make() -> nn.Module:
        if type(layer).__name__ == "RMSNormalization":
            made: Any = nn.RMSNorm(shape, eps=layer.epsilon)
        else:
            made = nn.LayerNorm(shape, eps=layer.epsilon, elementwise_affine=layer.scale or layer.center)
        if made.weight is not None:
            _scaled(made, layer, lambda value: value.reshape(shape))
        module: nn.Module = made
        return module

    return to.module(name, make, args[0])


def _group_norm(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    rank = rank_of(to)
    axis = axis_of(layer, rank)
    size = _size(to, axis)

    def make() -> nn.Module:
        groups = size if layer.groups == -1 else layer.groups
        made = nn.GroupNorm(groups, size, eps=layer.epsilon, affine=layer.scale or layer.center)
        if made.affine:
            _scaled(made, layer)
        return made

    x, back = channels_second(to, args[0], rank, axis)
    return back(to.module(name, make, x))


def _dropout(to: Builder, layer: Any, name: str, args: tuple[Any, ...], call: dict[str, Any]) -> Ref:
    # Keras records a False that nobody wrote, and lets the caller's mode win over it.
    stuck = call.get("training") is True
    if stuck:
        but = ", which only predict() and training=False overrule" if to.overruled else ""
        to.notes.append(f"{name} was called with training=True{but}")
    shape = getattr(layer, "noise_shape", None)
    spatial = type(layer).__name__.startswith("Spatial")
    channel = getattr(layer, "data_format", "channels_last")
    if shape is not None:  # (None, 1, …, channels): whole channels
        if any(size != 1 for size in shape[1:-1]) or shape[-1] == 1 or shape[0] == 1 or len(shape) < 3:
            raise UnknownLayerError(f"{type(layer).__name__} with noise_shape={tuple(shape)}")
        spatial, channel = True, "channels_last"
    if not spatial:
        make = HardwiredDropout if stuck else nn.Dropout
        return to.module(name, lambda: make(layer.rate), args[0])
    rank = rank_of(to)
    kind = HardwiredSpatialDropout if stuck else {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}[rank]
    x, back = channels_second(to, args[0], rank, rank - 1 if channel == "channels_last" else 1)
    return back(to.module(name, lambda: kind(layer.rate), x))


def _plain(make: Callable[[Any], nn.Module]) -> Any:
    def emit(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
        return to.module(name, lambda: make(layer), args[0])

    return emit


def _relu(layer: Any) -> nn.Module:
    slope, top, threshold = float(layer.negative_slope or 0), layer.max_value, float(layer.threshold or 0)
    if threshold or (top is not None and (slope or top != 6)):
        raise UnknownLayerError("ReLU with a threshold or another maximum than 6")
    return nn.ReLU6() if top is not None else nn.LeakyReLU(slope) if slope else nn.ReLU()


def _prelu(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    rank, alpha = rank_of(to), layer.alpha
    if rank > 2 and any(size != 1 for size in alpha.shape[:-1]):
        raise UnknownLayerError("PReLU with a slope per place: share its axes")

    def make() -> nn.Module:
        made = nn.PReLU(alpha.shape[-1])
        put(made.weight, alpha, torch.flatten)
        return made

    x, back = channels_second(to, args[0], rank, rank - 1)
    return back(to.module(name, make, x))


def _activation(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    kind = getattr(layer.activation, "__name__", "")
    if kind == "linear":
        return to.module(name, nn.Identity, args[0])
    if kind in ACTIVATIONS and layer.activation.__module__.startswith("keras"):
        return to.module(name, ACTIVATIONS[kind], args[0])
    return to.apply(layer.activation, args[0])


def _softmax(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    if not isinstance(layer.axis, int) or len(args) > 1:
        raise UnknownLayerError("Softmax over several axes or with a mask")
    return to.module(name, lambda: nn.Softmax(layer.axis), args[0])


def _standardize(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    def make() -> nn.Module:
        mean, variance = (
            torch.as_tensor(value_of(item) if hasattr(item, "value") else item).detach().cpu().float()
            for item in (layer.mean, layer.variance)
        )
        return Standardize(mean, variance.sqrt().clamp_min(1e-7), invert=layer.invert)

    return to.module(name, make, args[0])


LAYERS: dict[str, Any] = {
    "Dense": _dense, "Embedding": _embedding, "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm, "RMSNormalization": _layer_norm, "GroupNormalization": _group_norm,
    "Dropout": _dropout, "SpatialDropout1D": _dropout, "SpatialDropout2D": _dropout,
    "SpatialDropout3D": _dropout, "AlphaDropout": _plain(lambda layer: nn.AlphaDropout(layer.rate)),
    "GaussianDropout": _plain(lambda layer: GaussianDropout(layer.rate)),
    "GaussianNoise": _plain(lambda layer: GaussianNoise(layer.stddev)), "Activation": _activation,
    "ReLU": _plain(_relu), "LeakyReLU": _plain(lambda layer: nn.LeakyReLU(layer.negative_slope)),
    "ELU": _plain(lambda layer: nn.ELU(layer.alpha)), "PReLU": _prelu, "Softmax": _softmax,
    "Normalization": _standardize, "Rescaling": _plain(lambda layer: Rescale(layer.scale, layer.offset)),
}  # fmt: skip
