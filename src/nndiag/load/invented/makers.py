"""How arguments are made that Hugging Face models name, with sizes from the config."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nndiag.load.invented.sizes import (
    bins_of,
    channels_of,
    frames_of,
    image_size,
    patch_width,
    placeholders,
    size_of,
    vocabulary,
)

Maker = Callable[..., Any]

_BOXES = 10  # regions of a picture


@dataclass(frozen=True, slots=True)
class Normal:
    """Makes normal numbers of one shape per sample."""

    shape: tuple[int, ...]

    def __call__(self, rows: int, generator: Any) -> Any:
        """Make them for so many samples."""
        import torch

        return torch.randn(rows, *self.shape, generator=generator)


@dataclass(frozen=True, slots=True)
class Words:
    """Makes ids below `vocab`, `length` per sample, behind as many of each mark as are asked for."""

    vocab: int
    length: int
    marks: tuple[tuple[int, int], ...] = ()  # (id, how many)
    avoided: frozenset[int] = frozenset()  # ids that stand for pictures or sounds

    def __call__(self, rows: int, generator: Any) -> Any:
        """Make them for so many samples."""
        import torch

        # 0, 1 and 2 are padding and sentence marks in most vocabularies: models mask them or look for the last one.
        low = 3 if self.vocab > 8 else 0
        words = torch.randint(low, self.vocab, (rows, self.length), generator=generator)
        plain = next((word for word in range(low, self.vocab) if word not in self.avoided), low)
        for mark in self.avoided:
            words[words == mark] = plain
        return torch.cat([*(torch.full((rows, count), mark) for mark, count in self.marks), words], 1)


def token_ids(config: Any, length: int) -> Words:
    """Return a maker of ids that the model knows, without those that stand for pictures or sounds."""
    return Words(vocabulary(config), length, avoided=frozenset(placeholders(config).values()))


def maker_of(name: str, config: Any, length: int, *, wanted: bool = False) -> Maker | None:
    """Return a maker for one named argument, or None when nothing is known of it.

    Args:
        name: Of the argument.
        config: With the sizes.
        length: Of sequences.
        wanted: Whether the forward cannot do without it: then the end of its name will do.
    """
    if name.endswith("input_ids"):
        return token_ids(config, length)
    build = _KNOWN.get(name)
    if build is None and wanted:
        build = next((make for pattern, make in _ENDINGS if pattern.fullmatch(name)), None)
    return build(config, length) if build is not None else None


def normal_of(*shape: int) -> Maker:
    """Return a maker of normal numbers of a shape per sample."""
    return Normal(shape)


def _filled(value: int, *shape: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.full((rows, *shape), value)


def _falses(*shape: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.zeros(rows, *shape, dtype=torch.bool)


def _sides(config: Any, _length: int) -> Maker:
    """Height and width of each picture in patches."""
    import torch

    patch = size_of(config, "patch_size", otherwise=16)
    sides = [max(side // patch, 1) for side in image_size(config)]
    return lambda rows, _generator: torch.tensor(sides).repeat(rows, 1)


def _steps(_config: Any, length: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.arange(length).expand(rows, length).clone()


def _boxes(config: Any, length: int) -> Maker:
    """Boxes x0 y0 x1 y1 with x0 < x1 and y0 < y1, in the integers of page layouts."""
    import torch

    most = min(size_of(config, "max_2d_position_embeddings", otherwise=1000), 1000)

    def make(rows: int, generator: Any) -> Any:
        corner = torch.randint(0, most // 2, (rows, length, 2), generator=generator)
        extent = torch.randint(1, most // 2, (rows, length, 2), generator=generator)
        return torch.cat([corner, corner + extent], -1)

    return make


def _mask_of_pictures(config: Any) -> tuple[int, ...]:
    """Return the shape of a mask of pixels, or of patches where the config counts those."""
    place = getattr(config, "vision_config", None) or config
    return (GRID * GRID,) if hasattr(place, "num_patches") else image_size(config)


GRID = 4  # patches along each side of an invented picture, where pictures come as rows of patches


def patches(config: Any, _length: int) -> Maker:
    """Return a maker of all patches of the pictures, one after another, each a row of numbers."""
    import torch

    width = patch_width(config)
    return lambda rows, generator: torch.randn(rows * GRID * GRID, width, generator=generator)


def _grid(_config: Any, _length: int) -> Maker:
    """Frames, height and width of each picture, in patches."""
    import torch

    return lambda rows, _generator: torch.tensor([[1, GRID, GRID]]).repeat(rows, 1)


def _pixels(config: Any, _length: int) -> Maker:
    place = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    frames = getattr(place, "num_frames", None)
    shape = (channels_of(config), *image_size(config))
    return normal_of(int(frames), *shape) if isinstance(frames, int) and frames > 0 else normal_of(*shape)


def _sound(config: Any, _length: int) -> Maker:
    """A waveform of some two dozen frames, or a spectrogram of frames by bins."""
    if hasattr(config, "num_mel_bins") and not hasattr(config, "conv_stride"):
        return normal_of(int(getattr(config, "max_length", 64)), int(config.num_mel_bins))
    return normal_of(24 * math.prod(int(stride) for stride in getattr(config, "conv_stride", (320,))))


def _series(config: Any, _length: int) -> Maker:
    steps, channels = int(getattr(config, "context_length", 32)), getattr(config, "num_input_channels", None)
    return normal_of(steps, channels) if isinstance(channels, int) else normal_of(steps)


def _cumulated(length: int) -> Maker:
    import torch

    return lambda rows, _generator: torch.arange(rows + 1, dtype=torch.int32) * length


def _places(_config: Any, _length: int) -> Maker:
    """Column and row of each patch of a picture."""
    import torch

    side = torch.arange(GRID)
    places = torch.cartesian_prod(side, side)
    return lambda rows, _generator: places.expand(rows, -1, -1).clone()


def _hidden(config: Any, length: int) -> Maker:
    return normal_of(length, size_of(config, "hidden_size", "d_model", otherwise=16))


_KNOWN: dict[str, Callable[[Any, int], Maker]] = {
    "input_ids": token_ids,
    "decoder_input_ids": token_ids,
    "pixel_values": _pixels,
    "pixel_values_videos": lambda config, _: normal_of(
        size_of(config, "num_frames", otherwise=8), channels_of(config), *image_size(config)
    ),
    "pixel_mask": lambda config, _: _filled(1, *image_size(config)),
    "input_features": lambda config, _: normal_of(bins_of(config), frames_of(config)),
    "input_features_mask": lambda config, _: _filled(1, frames_of(config)),
    "input_values": _sound,
    "decoder_input_values": lambda config, length: normal_of(length, bins_of(config)),
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
    "padding_mask": lambda config, _: _filled(1, frames_of(config)),
    "speech_inputs": _sound,
    "input_audio_embeds": lambda config, _: normal_of(frames_of(config), bins_of(config)),
    "pixel_attention_mask": lambda config, _: _filled(1, *_mask_of_pictures(config)),
    "spatial_shapes": lambda _config, _length: _filled(GRID, 2),
    "cu_seqlens": lambda _config, length: _cumulated(length),
    "pixel_position_ids": _places,
    "image_position_ids": _places,
    "text": token_ids,
    "hidden_states": _hidden,
    "query_embeds": _hidden,
    "bbox": _boxes,
    "token_type_ids": lambda _, length: _filled(0, length),
    "mm_token_type_ids": lambda _, length: _filled(0, length),
    "position_ids": _steps,
    "timesteps": _steps,
    "visual_feats": lambda config, _: normal_of(_BOXES, size_of(config, "visual_feat_dim", otherwise=16)),
    "visual_pos": lambda config, _: normal_of(_BOXES, size_of(config, "visual_pos_dim", otherwise=4)),
    "states": lambda config, length: normal_of(length, size_of(config, "state_dim", otherwise=16)),
    "actions": lambda config, length: normal_of(length, size_of(config, "act_dim", otherwise=4)),
    "rewards": lambda _, length: normal_of(length, 1),
    "returns_to_go": lambda _, length: normal_of(length, 1),
    "task_inputs": lambda config, _: Words(
        size_of(config, "text_encoder_vocab_size", "vocab_size", otherwise=99),
        size_of(config, "task_seq_len", otherwise=16),
    ),
    "lang_ids": lambda _config, _length: _filled(0),
    "merge_sizes": lambda _config, _length: _filled(1),
    "images_per_sample": lambda _config, _length: _filled(1),
    "target_sizes": _sides,
    "image_attention_mask": lambda _config, length: _filled(1, length, 1),
    "audio_mel": lambda config, _: normal_of(frames_of(config), bins_of(config)),
    "audio_mel_mask": lambda config, _: _falses(frames_of(config)),
}

# Ends of names, for arguments that a forward cannot do without.
_ENDINGS: tuple[tuple[re.Pattern[str], Callable[[Any, int], Maker]], ...] = (
    (re.compile(r".*(pixel_values|images?|pixel_masks?|prompt_masks?)"), _pixels),
    (re.compile(r".*(embeds|embeddings|hidden_states|hidden)"), _hidden),
    (
        re.compile(r".*(input_features|mel|spectrogram)s?"),
        lambda config, _: normal_of(bins_of(config), frames_of(config)),
    ),
    (re.compile(r".*attention_mask|.*padding_mask"), lambda _, length: _filled(1, length)),
)
