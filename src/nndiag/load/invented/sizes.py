"""Sizes out of a Hugging Face config: vocabularies, pictures, patches, spectrograms, placeholders."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = ("text_config", "decoder", "encoder", "vision_config", "audio_config", "encoder_config", "backbone_config")
_PLACEHOLDER = re.compile(r"(image|video|audio|speech|vision|media)\w*_token_(id|index)")


def parts_of(config: Any) -> Iterator[Any]:
    """Yield a config and those inside it, the best known first, each once."""
    inner = [getattr(config, name, None) for name in _PARTS]
    inner += [value for value in vars(config).values() if hasattr(value, "to_dict")]
    inner += [deep for value in inner if value is not None for deep in vars(value).values() if hasattr(deep, "to_dict")]
    seen: set[int] = set()
    for place in (config, *inner):
        if place is not None and id(place) not in seen:
            seen.add(id(place))
            yield place


def placeholders(config: Any) -> dict[str, int]:
    """Return the ids that stand for features of pictures or sounds among the words: {"image": 151655, …}."""
    found: dict[str, int] = {}
    for place in parts_of(config):
        for name, value in vars(place).items():
            kind = _PLACEHOLDER.fullmatch(name)
            if kind and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary(config):
                found.setdefault(kind[1], value)
    return found


def vocabulary(config: Any) -> int:
    """Return the number of ids that the model knows, 16 where it does not say."""
    return size_of(config, "vocab_size", "text_vocab_size", otherwise=16)


def size_of(config: Any, *names: str, otherwise: int) -> int:
    """Return the first of these sizes that the config, or a part of it, gives as a positive integer."""
    for place in parts_of(config):
        for name in names:
            value = getattr(place, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return otherwise


def channels_of(config: Any) -> int:
    """Return the channels of its pictures."""
    return size_of(config, "num_channels", "in_channels", "in_chans", otherwise=3)


def image_size(config: Any) -> tuple[int, int]:
    """Return height and width of its pictures."""
    places = (getattr(config, part, None) for part in ("vision_config", "backbone_config"))
    for place in (*places, config):
        size = getattr(place, "image_size", None)
        if isinstance(size, int) and size > 0:
            return size, size
        if isinstance(size, list | tuple) and len(size) >= 2:
            return int(size[0]), int(size[1])
    return 64, 64


def patch_width(config: Any) -> int:
    """Return the numbers in one patch of a model that takes pictures as rows of patches; 0 for any other."""
    place = getattr(config, "vision_config", None) or config
    side = getattr(place, "patch_size", None)
    if not isinstance(side, int) or side < 1:
        return 0
    frames = getattr(place, "temporal_patch_size", 1)
    return channels_of(config) * side * side * (frames if isinstance(frames, int) else 1)


def bins_of(config: Any) -> int:
    """Return the bins of its spectrograms."""
    names = ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "input_feat_size", "input_dim")
    return size_of(config, *names, otherwise=80)


def frames_of(config: Any) -> int:
    """Frames of a mel spectrogram: Whisper's has two for each position."""
    return 2 * size_of(config, "max_source_positions", otherwise=16)
