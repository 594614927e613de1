"""Keras's convolutions and pools as torch's: channels come to axis 1, kernels from (…, in, out) to (out, in, …)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nndiag.lab.keras.graph import Ref, UnknownLayerError, put
from nndiag.lab.keras.layers import activated, channels_second, rank_of

if TYPE_CHECKING:
    from nndiag.lab.keras.graph import Builder

_CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BACK: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_GLOBAL_MAX: dict[int, Any] = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
_GLOBAL_MEAN: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def _first(to: Builder, layer: Any, x: Ref) -> tuple[Ref, Any]:
    rank = rank_of(to)
    return channels_second(to, x, rank, 1 if layer.data_format == "channels_first" else rank - 1)


def _places(to: Builder, layer: Any) -> list[int | None]:
    """Return the sizes of the axes that a window moves along."""
    shape = list(to.shape)
    return shape[2:] if layer.data_format == "channels_first" else shape[1:-1]


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def same_pad(x: Tensor, window: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad with zeros as TensorFlow's "same" does: half before, the larger half behind."""
    pads: list[int] = []
    for size, width, step in zip(x.shape[2:], window, stride, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return functional.pad(x, pads)


def _padding(to: Builder, layer: Any, window: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return "same" as torch's symmetric padding, or None where it is lopsided or the size is unknown."""
    found = []
    for size, width, step in zip(_places(to, layer), window, stride, strict=True):
        if size is None and step > 1:
            return None
        total = width - 1 if size is None else max((-(-size // step) - 1) * step + width - size, 0)
        if total % 2:
            return None
        found.append(total // 2)
    return tuple(found)


def _padded(to: Builder, layer: Any, x: Ref, window: tuple[int, ...], stride: tuple[int, ...]) -> tuple[Ref, Any]:
    """Return the input, padded where torch's layer cannot, and the padding of torch's layer."""
    if layer.padding == "valid":
        return x, 0
    if layer.padding == "causal":
        return to.apply(functional.pad, x, (window[0] - 1, 0)), 0
    even = _padding(to, layer, window, stride)
    if even is not None:
        return x, even
    return to.apply(same_pad, x, window, stride), 0


def conv(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate Conv1D to Conv3D and the depthwise ones."""
    count = layer.rank
    depthwise = type(layer).__name__.startswith("Depthwise")
    stride, dilation = _tuple(layer.strides, count), _tuple(layer.dilation_rate, count)
    kernel = _tuple(layer.kernel_size, count)
    window = tuple((size - 1) * apart + 1 for size, apart in zip(kernel, dilation, strict=True))
    x, back = _first(to, layer, args[0])
    x, pad = _padded(to, layer, x, window, stride)

    def make() -> nn.Module:
        weight = layer.kernel
        inputs = weight.shape[-2] if depthwise else weight.shape[-2] * layer.groups
        outputs = inputs * layer.depth_multiplier if depthwise else layer.filters
        groups = inputs if depthwise else layer.groups
        made = _CONVS[count](inputs, outputs, kernel, stride, pad, dilation, groups, bias=layer.use_bias)
        put(made.weight, weight, lambda value: _turned(value, depthwise=depthwise))
        if layer.use_bias:
            put(made.bias, layer.bias)
        return made  # type: ignore[no-any-return]

    return back(activated_first(to, layer, name, to.module(name, make, x)))  # type: ignore[no-any-return]


def activated_first(to: Builder, layer: Any, name: str, x: Ref) -> Ref:
    """Call an activation while the channels are at axis 1; a softmax over channels would be over the last axis."""
    if getattr(layer.activation, "__name__", "") in {"softmax", "log_softmax", "glu"}:
        x = to.apply(torch.movedim, x, 1, -1)
        return to.apply(torch.movedim, activated(to, name, layer.activation, x), -1, 1)
    return activated(to, name, layer.activation, x)


def _turned(value: Tensor, *, depthwise: bool) -> Tensor:
    """Return a kernel (…, in, out) as (out, in, …); a depthwise one (…, in, multiplier) as (in·multiplier, 1, …)."""
    if not depthwise:
        return value.movedim((-1, -2), (0, 1))
    return value.movedim((-2, -1), (0, 1)).flatten(0, 1).unsqueeze(1)


def separable(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate SeparableConv1D and 2D into their two halves."""
    count = layer.rank
    stride, dilation = _tuple(layer.strides, count), _tuple(layer.dilation_rate, count)
    kernel = _tuple(layer.kernel_size, count)
    window = tuple((size - 1) * apart + 1 for size, apart in zip(kernel, dilation, strict=True))
    x, back = _first(to, layer, args[0])
    x, pad = _padded(to, layer, x, window, stride)

    def depth() -> nn.Module:
        inputs = layer.depthwise_kernel.shape[-2]
        outputs = inputs * layer.depth_multiplier
        made = _CONVS[count](inputs, outputs, kernel, stride, pad, dilation, inputs, bias=False)
        put(made.weight, layer.depthwise_kernel, lambda value: _turned(value, depthwise=True))
        return made  # type: ignore[no-any-return]

    def point() -> nn.Module:
        made = _CONVS[count](layer.pointwise_kernel.shape[-2], layer.filters, 1, bias=layer.use_bias)
        put(made.weight, layer.pointwise_kernel, lambda value: _turned(value, depthwise=False))
        if layer.use_bias:
            put(made.bias, layer.bias)
        return made  # type: ignore[no-any-return]

    x = to.module(f"{name}/pointwise", point, to.module(f"{name}/depthwise", depth, x))
    return back(activated_first(to, layer, name, x))  # type: ignore[no-any-return]


def transposed(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate Conv1DTranspose to Conv3DTranspose; "same" is cut out of "valid"."""
    count = layer.rank
    kernel, stride = _tuple(layer.kernel_size, count), _tuple(layer.strides, count)
    spare = [size - step for size, step in zip(kernel, stride, strict=True)]
    if layer.output_padding is not None or any(apart != 1 for apart in _tuple(layer.dilation_rate, count)):
        raise UnknownLayerError(f"{type(layer).__name__} with output_padding or dilation")
    if min(spare) < 0:
        raise UnknownLayerError(f"{type(layer).__name__} with strides beyond its kernel")
    same = layer.padding == "same"
    even = same and not any(size % 2 for size in spare)
    x, back = _first(to, layer, args[0])

    def make() -> nn.Module:
        outputs, inputs = layer.kernel.shape[-2:]
        pad = tuple(size // 2 for size in spare) if even else 0
        made = _BACK[count](inputs, outputs, kernel, stride, pad, bias=layer.use_bias)
        put(made.weight, layer.kernel, lambda value: value.movedim((-1, -2), (0, 1)))
        if layer.use_bias:
            put(made.bias, layer.bias)
        return made  # type: ignore[no-any-return]

    x = to.module(name, make, x)
    if same and not even:
        x = to.apply(functional.pad, x, [side for size in reversed(spare) for side in (-(size // 2), size // 2 - size)])
    return back(activated_first(to, layer, name, x))  # type: ignore[no-any-return]


def pool(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate MaxPooling and AveragePooling; the padding of "same" counts for neither."""
    window = tuple(layer.pool_size)
    stride = tuple(layer.strides)
    largest = type(layer).__name__.startswith("Max")
    more: dict[str, Any] = {}
    if layer.padding == "same":
        even = _padding(to, layer, window, stride)
        more = {"padding": even} if even is not None else {"ceil_mode": True}
        if even is None:
            sides = [
                max((-(-size // step) - 1) * step + width - size, 0) // 2 if size is not None else 0
                for size, width, step in zip(_places(to, layer), window, stride, strict=True)
            ]
            more["padding"] = tuple(sides)
        if not largest:
            more["count_include_pad"] = False
    x, back = _first(to, layer, args[0])
    kinds = _MAX if largest else _MEAN
    return back(to.module(name, lambda: kinds[len(window)](window, stride, **more), x))  # type: ignore[no-any-return]


def global_pool(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate GlobalMaxPooling and GlobalAveragePooling."""
    x, back = _first(to, layer, args[0])
    rank = rank_of(to) - 2
    kinds = _GLOBAL_MAX if "Max" in type(layer).__name__ else _GLOBAL_MEAN
    x = to.module(name, lambda: kinds[rank](1), x)
    return back(x) if layer.keepdims else to.apply(torch.flatten, x, 1)


def padding(to: Builder, layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate ZeroPadding and Cropping."""
    crop = "Cropping" in type(layer).__name__
    sides = layer.cropping if crop else layer.padding
    pairs = [sides] if isinstance(sides[0], int) else list(sides)
    sign = -1 if crop else 1
    x, back = (args[0], None) if not hasattr(layer, "data_format") else _first(to, layer, args[0])
    if back is None:
        x, back = channels_second(to, args[0], 3, 2)
    flat = [sign * side for pair in reversed(pairs) for side in pair]
    return back(to.apply(functional.pad, x, flat))


def upsampling(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    """Translate UpSampling1D and 2D, nearest or bilinear."""
    way = getattr(layer, "interpolation", "nearest")
    if way not in {"nearest", "bilinear"}:
        raise UnknownLayerError(f"UpSampling with {way}")
    rank = rank_of(to)
    size = tuple(float(item) for item in _tuple(layer.size, rank - 2))
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    x, back = channels_second(to, args[0], rank, 1 if first else rank - 1)
    return back(to.module(name, lambda: nn.Upsample(scale_factor=size, mode=way), x))


SPATIAL: dict[str, Any] = {
    **{f"Conv{n}D": conv for n in (1, 2, 3)}, **{f"DepthwiseConv{n}D": conv for n in (1, 2)},
    **{f"SeparableConv{n}D": separable for n in (1, 2)}, **{f"Conv{n}DTranspose": transposed for n in (1, 2, 3)},
    **{f"{kind}Pooling{n}D": pool for n in (1, 2, 3) for kind in ("Max", "Average")},
    **{f"Global{kind}Pooling{n}D": global_pool for n in (1, 2, 3) for kind in ("Max", "Average")},
    **{f"{kind}{n}D": padding for n in (1, 2, 3) for kind in ("ZeroPadding", "Cropping")},
    **{f"UpSampling{n}D": upsampling for n in (1, 2, 3)},
}  # fmt: skip
