"""Keras layers without weights that move, join or leave out values: reshapes, merges, crops in time, augmentation."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nndiag.lab.keras.layers import rank_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.lab.keras.graph import Builder, Ref


def _reshape(to: Builder, layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    shape = [-1 if size is None else size for size in layer.target_shape]
    return to.apply(_reshaped, args[0], shape)


def _reshaped(x: Tensor, shape: list[int]) -> Tensor:
    return x.reshape(x.shape[0], *shape)


def _flatten(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    rank = rank_of(to)
    x = args[0]
    if layer.data_format == "channels_first" and rank > 2:
        x = to.apply(torch.movedim, x, 1, -1)
    return to.module(name, nn.Flatten, x) if rank > 1 else to.apply(torch.unsqueeze, x, 1)


def _permute(to: Builder, layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    return to.apply(torch.permute, args[0], (0, *layer.dims))


def _repeat(to: Builder, layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    return to.apply(_repeated, args[0], layer.n)


def _repeated(x: Tensor, count: int) -> Tensor:
    return x.unsqueeze(1).expand(-1, count, -1)


def _unit(to: Builder, layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    return to.apply(functional.normalize, args[0], dim=layer.axis if isinstance(layer.axis, int) else layer.axis[0])


def _summed(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _mean(parts: list[Tensor]) -> Tensor:
    return _summed(parts) / len(parts)


def _product(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total * part
    return total


def _difference(parts: list[Tensor]) -> Tensor:
    return parts[0] - parts[1]


def _largest(parts: list[Tensor]) -> Tensor:
    return functools.reduce(torch.maximum, parts)


def _smallest(parts: list[Tensor]) -> Tensor:
    return functools.reduce(torch.minimum, parts)


def _merge(function: Callable[..., Any]) -> Any:
    def emit(to: Builder, _layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
        return to.apply(function, list(args[0]))

    return emit


def _concatenate(to: Builder, layer: Any, _name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    return to.apply(torch.cat, list(args[0]), layer.axis)


def _same(to: Builder, layer: Any, name: str, args: tuple[Any, ...], _call: Any) -> Ref:
    if type(layer).__name__.startswith("Random") or type(layer).__name__ in {
        "MixUp",
        "CutMix",
        "AugMix",
        "RandAugment",
    }:
        to.notes.append(f"augmentation by {name} is left out")
    return args[0]  # type: ignore[no-any-return]


_AUGMENTATION = (
    "Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness", "Shear", "Erasing", "Hue", "Saturation",
    "Grayscale", "ColorJitter", "Sharpness", "Posterization", "Invert", "Perspective", "GaussianBlur",
    "ElasticTransform", "ColorDegeneration",
)  # fmt: skip
SHAPES: dict[str, Any] = {
    "Reshape": _reshape, "Permute": _permute, "RepeatVector": _repeat, "Flatten": _flatten,
    "UnitNormalization": _unit, "Concatenate": _concatenate, "Add": _merge(_summed), "Average": _merge(_mean),
    "Multiply": _merge(_product), "Subtract": _merge(_difference), "Maximum": _merge(_largest),
    "Minimum": _merge(_smallest),
    **dict.fromkeys(("Identity", "ActivityRegularization", "Masking", "InputLayer"), _same),
    **dict.fromkeys((*(f"Random{kind}" for kind in _AUGMENTATION), "MixUp", "CutMix", "AugMix", "RandAugment"), _same),
}  # fmt: skip
