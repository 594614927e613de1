"""Which shape did the layer want that a forward failed in, and which was it given?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPACE = {1: "T", 2: "H, W", 3: "D, H, W"}


def wanted(model: nn.Module, error: BaseException) -> str:
    """Return what the innermost layer that raised wants beside what it was given, and what mends it; empty if unknown.

    Read from the frames of the error: nothing is run again.
    """
    for layer, given in reversed(list(_layers(error))):
        if told := _told(layer, given):
            name = next((name for name, item in model.named_modules() if item is layer), "")
            return f"{f'{name!r} ' if name else ''}({type(layer).__name__}) {told}".lstrip()
    return ""


def _layers(error: BaseException) -> Iterator[tuple[nn.Module, Tensor]]:
    """The torch layers whose forward stands in the traceback, with their first tensor, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        code, held = trace.tb_frame.f_code, trace.tb_frame.f_locals
        layer = held.get("self")
        if code.co_name == "forward" and isinstance(layer, nn.Module) and code.co_argcount > 1:
            given = held.get(code.co_varnames[1])
            if isinstance(given, Tensor):
                yield layer, given
        trace = trace.tb_next


def _told(layer: nn.Module, given: Tensor) -> str:  # noqa: PLR0911 - one line for each kind of layer
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return _ids(layer, given)
    if isinstance(layer, _ConvNd):
        return _channels(layer.in_channels, len(layer.kernel_size), given)
    if isinstance(layer, nn.Linear):
        return _features(layer.in_features, given)
    if isinstance(layer, nn.RNNBase):
        return _features(layer.input_size, given, "N, T, ")
    if isinstance(layer, nn.MultiheadAttention):
        return _features(layer.embed_dim, given, "N, T, ")
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        ends = tuple(layer.normalized_shape)
        fits = tuple(given.shape[-len(ends) :]) == ends
        return "" if fits else _beside(f"(…, {', '.join(map(str, ends))})", given)
    if isinstance(layer, _BatchNorm | _InstanceNorm):
        return _normed(layer, given)
    return ""


def _beside(want: str, given: Tensor, cure: str = "") -> str:
    return f"wants {want}, the data give it {tuple(given.shape)}" + (f": {cure}" if cure else "")


def _ids(layer: Any, given: Tensor) -> str:
    kind = str(given.dtype).removeprefix("torch.")
    if given.is_floating_point() or given.is_complex():
        want = f"whole-number ids below {layer.num_embeddings}, the data give it {kind} {tuple(given.shape)}"
        return f"wants {want}: give ids as int64"
    if not given.numel() or (int(given.min()) >= 0 and int(given.max()) < layer.num_embeddings):
        return ""
    return f"wants ids from 0 to {layer.num_embeddings - 1}, the data give it {int(given.min())} to {int(given.max())}"


def _features(size: int, given: Tensor, before: str = "N, …, ") -> str:
    if given.dim() and given.shape[-1] == size:
        return _whole(f"({before}{size})", given)
    cure = ""
    if given.dim() > 2 and math.prod(given.shape[1:]) == size:
        cure = f"flatten the rows to (N, {size}), with nn.Flatten() before it"
    elif given.dim() > 2 and given.shape[1] == size:
        cure = "its features stand on axis 1: x.movedim(1, -1)"
    return _beside(f"({before}{size})", given, cure)


def _channels(size: int, axes: int, given: Tensor) -> str:
    want = f"(N, {size}, {_SPACE.get(axes, '…')})"
    if given.dim() == axes + 2 and given.shape[1] == size:
        return _whole(want, given)
    cure = ""
    if given.dim() == axes + 2 and given.shape[-1] == size:
        cure = "its channels stand last: x.movedim(-1, 1)"
    elif given.dim() == axes + 2:
        cure = f"axis 1 counts {given.shape[1]}, the layer reads {size} channel{'s' * (size != 1)}"
    elif given.dim() == axes + 1 and size == 1:
        cure = "the channel axis is missing: x.unsqueeze(1)"
    elif given.dim() == 2 and given.shape[1] % size == 0:
        cure = f"the rows are flat: x.reshape(N, {size}, {_SPACE.get(axes, '…')})"
    return _beside(want, given, cure)


def _normed(layer: Any, given: Tensor) -> str:
    axes = next((n for n in (1, 2, 3) if type(layer).__name__.endswith(f"{n}d")), 0)
    ends = ", ".join(part for part in (str(layer.num_features), _SPACE.get(axes, "") if axes > 1 else "") if part)
    fits = given.dim() > 1 and given.shape[1] == layer.num_features
    return "" if fits and (axes < 2 or given.dim() == axes + 2) else _beside(f"(N, {ends})", given)


def _whole(want: str, given: Tensor) -> str:
    """A shape that fits; the type may not."""
    if given.is_floating_point() or given.is_complex():
        return ""
    kind = str(given.dtype).removeprefix("torch.")
    return f"wants floating-point {want}, the data give it {kind} {tuple(given.shape)}: x.float()"
