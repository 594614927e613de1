"""Arguments of a forward by their names, as Hugging Face models use them, with sizes from the config."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    Maker = Callable[..., Any]

_PARTS = ("text_config", "decoder", "encoder", "vision_config", "audio_config", "encoder_config", "backbone_config")
_PICTURES = {"pixel_values", "hidden_states"}
_BOXES = 10  # regions of a picture


def maker_of(name: str, config: Any, length: int) -> Maker | None:
    """Return a maker for one named argument, or None when nothing is known of it."""
    if name.endswith("input_ids"):
        return token_ids(vocabulary(config), length)
    build = _KNOWN.get(name)
    return build(config, length) if build is not None else None


def companions(model: nn.Module, config: Any, length: int) -> tuple[dict[str, Maker], dict[str, Maker]]:
    """Return makers for the arguments that the forward cannot do without, and for the others of known names."""
    from nndiag.lab.forward import signature

    known = signature(model)
    required: dict[str, Maker] = {}
    named: dict[str, Maker] = {}
    patches = _patch(config) if known and _takes_patches(known.parameters) else 0
    for name, item in (known.parameters if known else {}).items():
        if name in {"pixel_values_videos", "inputs_embeds"} and item.default is not inspect.Parameter.empty:
            continue  # instead of others, not beside them
        if item.kind in {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
            continue
        maker = _patches(config, length) if patches and name in _PICTURES else maker_of(name, config, length)
        if maker:
            (required if item.default is inspect.Parameter.empty else named)[name] = maker
    return required, named


def _takes_patches(names: Any) -> bool:
    """Whether a forward takes pictures as rows of patches, with their grids beside them."""
    return any(name.endswith("grid_thw") for name in names)


def others(name: str, config: Any) -> Iterator[Maker]:
    """Yield other shapes of an argument: pictures of other sizes, spectrograms the other way round."""
    if name == "pixel_values":
        channels = _channels(config)
        yield from (_normal(channels, size, size) for size in (64, 128, 224))
        yield _normal(8, channels, 64, 64)  # a video
        yield from (_normal(count, channels, *_image_size(config)) for count in (1, 2))  # pictures of one text, a pair
        if width := _patch(config):
            yield _normal(_GRID * _GRID, width)  # patches of each picture
        return
    bins, frames = _bins(config), _frames(config)
    yield _normal(frames, bins)
    yield from (_normal(bins, count) for count in (128, 3000) if count != frames)
    yield _normal(128, bins)


def vocabulary(config: Any) -> int:
    """Return the number of ids that the model knows, 16 where it does not say."""
    return _size(config, "vocab_size", "text_vocab_size", otherwise=16)


def token_ids(vocab: int, length: int) -> Maker:
    """Return a maker of ids below `vocab`, `length` per sample."""
    import torch

    # 0, 1 and 2 are padding and sentence marks in most vocabularies: models mask them or look for the last one.
    low = 3 if vocab > 8 else 0
    return lambda rows, generator: torch.randint(low, vocab, (rows, length), generator=generator)


def _size(config: Any, *names: str, otherwise: int) -> int:
    """Return the first of these sizes that the config, or a part of it, gives as a positive integer."""
    for place in (config, *(getattr(config, part, None) for part in _PARTS)):
        for name in names:
            value = getattr(place, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return otherwise


def _normal(*shape: int) -> Maker:
    import torch

    return lambda rows, generator: torch.randn(rows, *shape, generator=generator)


def _filled(value: int, *shape: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.full((rows, *shape), value)


def _steps(_config: Any, length: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.arange(length).expand(rows, length).clone()


def _boxes(config: Any, length: int) -> Maker:
    """Boxes x0 y0 x1 y1 with x0 < x1 and y0 < y1, in the integers of page layouts."""
    import torch

    most = min(_size(config, "max_2d_position_embeddings", otherwise=1000), 1000)

    def make(rows: int, generator: Any) -> Any:
        corner = torch.randint(0, most // 2, (rows, length, 2), generator=generator)
        extent = torch.randint(1, most // 2, (rows, length, 2), generator=generator)
        return torch.cat([corner, corner + extent], -1)

    return make


def _channels(config: Any) -> int:
    return _size(config, "num_channels", "in_channels", "in_chans", otherwise=3)


def _mask_of_pictures(config: Any) -> tuple[int, ...]:
    """Return the shape of a mask of pixels, or of patches where the config counts those."""
    place = getattr(config, "vision_config", None) or config
    return (_GRID * _GRID,) if hasattr(place, "num_patches") else _image_size(config)


def _image_size(config: Any) -> tuple[int, int]:
    places = (getattr(config, part, None) for part in ("vision_config", "backbone_config"))
    for place in (*places, config):
        size = getattr(place, "image_size", None)
        if isinstance(size, int) and size > 0:
            return size, size
        if isinstance(size, list | tuple) and len(size) >= 2:
            return int(size[0]), int(size[1])
    return 64, 64


_GRID = 4  # patches along each side of an invented picture, where pictures come as rows of patches


def _patch(config: Any) -> int:
    """Return the numbers in one patch of a model that takes pictures as rows of patches; 0 for any other."""
    place = getattr(config, "vision_config", None) or config
    side = getattr(place, "patch_size", None)
    if not isinstance(side, int) or side < 1:
        return 0
    frames = getattr(place, "temporal_patch_size", 1)
    return _channels(config) * side * side * (frames if isinstance(frames, int) else 1)


def pictures_for(model: nn.Module, config: Any, length: int) -> Maker | None:
    """Return a maker of pictures as this forward takes them: as rows of patches where it takes their grids too."""
    from nndiag.lab.forward import signature

    known = signature(model)
    if known is not None and _takes_patches(known.parameters) and _patch(config):
        return _patches(config, length)
    return maker_of("pixel_values", config, length)


def square_patches(config: Any) -> Maker:
    """Return all patches of the pictures, one after another, each a small picture."""
    import torch

    side = int(getattr(getattr(config, "vision_config", None) or config, "patch_size", 1))
    return lambda rows, generator: torch.randn(rows * _GRID * _GRID, _channels(config), side, side, generator=generator)


def _patches(config: Any, _length: int) -> Maker:
    """All patches of the pictures, one after another, each a row of numbers."""
    import torch

    width = _patch(config)
    return lambda rows, generator: torch.randn(rows * _GRID * _GRID, width, generator=generator)


def _grid(_config: Any, _length: int) -> Maker:
    """Frames, height and width of each picture, in patches."""
    import torch

    return lambda rows, _generator: torch.tensor([[1, _GRID, _GRID]]).repeat(rows, 1)


def _pixels(config: Any, _length: int) -> Maker:
    place = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    frames = getattr(place, "num_frames", None)
    shape = (_channels(config), *_image_size(config))
    return _normal(int(frames), *shape) if isinstance(frames, int) and frames > 0 else _normal(*shape)


def _bins(config: Any) -> int:
    names = ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "input_dim")
    return _size(config, *names, otherwise=80)


def _frames(config: Any) -> int:
    """Frames of a mel spectrogram: Whisper's has two for each position."""
    return 2 * _size(config, "max_source_positions", otherwise=16)


def _sound(config: Any, _length: int) -> Maker:
    """A waveform of some two dozen frames, or a spectrogram of frames by bins."""
    if hasattr(config, "num_mel_bins") and not hasattr(config, "conv_stride"):
        return _normal(int(getattr(config, "max_length", 64)), int(config.num_mel_bins))
    return _normal(24 * math.prod(int(stride) for stride in getattr(config, "conv_stride", (320,))))


def _series(config: Any, _length: int) -> Maker:
    steps, channels = int(getattr(config, "context_length", 32)), getattr(config, "num_input_channels", None)
    return _normal(steps, channels) if isinstance(channels, int) else _normal(steps)


def _cumulated(length: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.arange(rows + 1, dtype=torch.int32) * length


def _places(_config: Any, _length: int) -> Maker:
    """Column and row of each patch of a picture."""
    import torch

    side = torch.arange(_GRID)
    places = torch.cartesian_prod(side, side)
    return lambda rows, _generator: places.expand(rows, -1, -1).clone()


def _hidden(config: Any, length: int) -> Maker:
    return _normal(length, _size(config, "hidden_size", "d_model", otherwise=16))


_KNOWN: dict[str, Callable[[Any, int], Maker]] = {
    "input_ids": lambda config, length: token_ids(vocabulary(config), length),
    "decoder_input_ids": lambda config, length: token_ids(vocabulary(config), length),
    "pixel_values": _pixels,
    "pixel_values_videos": lambda config, _: _normal(8, _channels(config), *_image_size(config)),
    "pixel_mask": lambda config, _: _filled(1, *_image_size(config)),
    "input_features": lambda config, _: _normal(_bins(config), _frames(config)),
    "input_features_mask": lambda config, _: _filled(1, _frames(config)),
    "input_values": _sound,
    "decoder_input_values": lambda config, length: _normal(length, _bins(config)),
    "past_values": _series,
    "past_values_padding": lambda config, _: _filled(0, int(getattr(config, "context_length", 32))),
    "freq": lambda _config, _length: _filled(0, 1),
    "inputs_embeds": _hidden,
    "grid_thw": _grid,
    "image_grid_thw": _grid,
    "attention_mask": lambda _, length: _filled(1, length),
    "decoder_attention_mask": lambda _, length: _filled(1, length),
    "image": _pixels,
    "images": _pixels,
    "image_embeds": _hidden,
    "text_embeds": _hidden,
    "encoder_hidden_states": _hidden,
    "padding_mask": lambda config, _: _filled(1, _frames(config)),
    "speech_inputs": _sound,
    "input_audio_embeds": lambda config, _: _normal(_frames(config), _bins(config)),
    "pixel_attention_mask": lambda config, _: _filled(1, *_mask_of_pictures(config)),
    "spatial_shapes": lambda _config, _length: _filled(_GRID, 2),
    "cu_seqlens": lambda _config, length: _cumulated(length),
    "pixel_position_ids": _places,
    "image_position_ids": _places,
    "text": lambda config, length: token_ids(vocabulary(config), length),
    "hidden_states": _hidden,
    "query_embeds": _hidden,
    "bbox": _boxes,
    "token_type_ids": lambda _, length: _filled(0, length),
    "mm_token_type_ids": lambda _, length: _filled(0, length),
    "position_ids": _steps,
    "timesteps": _steps,
    "visual_feats": lambda config, _: _normal(_BOXES, _size(config, "visual_feat_dim", otherwise=16)),
    "visual_pos": lambda config, _: _normal(_BOXES, _size(config, "visual_pos_dim", otherwise=4)),
    "states": lambda config, length: _normal(length, _size(config, "state_dim", otherwise=16)),
    "actions": lambda config, length: _normal(length, _size(config, "act_dim", otherwise=4)),
    "rewards": lambda _, length: _normal(length, 1),
    "returns_to_go": lambda _, length: _normal(length, 1),
    "task_inputs": lambda config, _: token_ids(
        _size(config, "text_encoder_vocab_size", "vocab_size", otherwise=99),
        _size(config, "task_seq_len", otherwise=16),
    ),
}
