"""Which named arguments a Hugging Face forward is given, and in which other shapes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from nndiag.load.invented.makers import GRID, maker_of, normal_of, patches
from nndiag.load.invented.sizes import bins_of, channels_of, frames_of, image_size, patch_width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from nndiag.load.invented.makers import Maker

_PICTURES = {"pixel_values", "hidden_states"}


def companions(model: nn.Module, config: Any, length: int) -> tuple[dict[str, Maker], dict[str, Maker]]:
    """Return makers for the arguments that the forward cannot do without, and for the others of known names."""
    from nndiag.lab.forward import signature

    known = signature(model)
    required: dict[str, Maker] = {}
    named: dict[str, Maker] = {}
    in_patches = patch_width(config) if known and _takes_patches(known.parameters) else 0
    for name, item in (known.parameters if known else {}).items():
        if name in {"pixel_values_videos", "inputs_embeds"} and item.default is not inspect.Parameter.empty:
            continue  # instead of others, not beside them
        if item.kind in {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
            continue
        wanted = item.default is inspect.Parameter.empty
        maker = (
            patches(config, length)
            if in_patches and name in _PICTURES
            else maker_of(name, config, length, wanted=wanted)
        )
        if maker:
            (required if wanted else named)[name] = maker
    return required, named


def _takes_patches(names: Any) -> bool:
    """Whether a forward takes pictures as rows of patches, with their grids beside them."""
    return any(name.endswith("grid_thw") for name in names)


def others(name: str, config: Any) -> Iterator[Maker]:
    """Yield other shapes of an argument: pictures of other sizes, spectrograms the other way round."""
    if name == "pixel_values":
        channels, width = channels_of(config), patch_width(config)
        if width and hasattr(getattr(config, "vision_config", None) or config, "num_patches"):
            yield normal_of(GRID * GRID, width)  # patches of each picture
        yield from (normal_of(channels, size, size) for size in (64, 128, 224))
        yield normal_of(8, channels, 64, 64)  # a video
        yield from (normal_of(count, channels, *image_size(config)) for count in (1, 2))  # pictures of one text, a pair
        if width:
            yield normal_of(GRID * GRID, width)
        return
    bins, frames = bins_of(config), frames_of(config)
    yield normal_of(frames, bins)
    yield from (normal_of(bins, count) for count in (128, 3000) if count != frames)
    yield normal_of(128, bins)


def pictures_for(model: nn.Module, config: Any, length: int) -> Maker | None:
    """Return a maker of pictures as this forward takes them: as rows of patches where it takes their grids too."""
    from nndiag.lab.forward import signature

    known = signature(model)
    if known is not None and _takes_patches(known.parameters) and patch_width(config):
        return patches(config, length)
    return maker_of("pixel_values", config, length)


def square_patches(config: Any) -> Maker:
    """Return all patches of the pictures, one after another, each a small picture."""
    import torch

    side = int(getattr(getattr(config, "vision_config", None) or config, "patch_size", 1))
    return lambda rows, generator: torch.randn(rows * GRID * GRID, channels_of(config), side, side, generator=generator)
