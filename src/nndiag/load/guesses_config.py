"""What a Hugging Face model takes, by its config and the names of its forward's arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.load.guesses import Guess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

_ID_NAMES = ("input_ids", "decoder_input_ids")


def from_config(model: nn.Module) -> Iterator[Guess]:
    """Yield inputs for a model with a Hugging Face config; nothing for any other."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return
    main = str(getattr(model, "main_input_name", "input_ids"))
    for length in _lengths(config):
        makers = _makers(model, config, main, length)
        if not makers:
            continue

        def make(rows: int, generator: Any, makers: dict[str, Callable[..., Any]] = makers) -> Any:
            return {name: maker(rows, generator) for name, maker in makers.items()}

        yield Guess(_described(make), make, labels=_labels(model, config, length))


def _described(make: Callable[[int, Any], Any]) -> str:
    """Say names and shapes of one sample."""
    import torch

    made = make(1, torch.Generator().manual_seed(0))
    return ", ".join(f"{name} {'x'.join(map(str, value.shape[1:])) or '1'}" for name, value in made.items())


def _lengths(config: Any) -> list[int]:
    """Return sequence lengths worth trying."""
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 16
    return sorted({min(16, int(most)), min(32, int(most)), min(8, int(most))}, key=lambda n: abs(n - 16))


def _makers(model: nn.Module, config: Any, main: str, length: int) -> dict[str, Callable[..., Any]]:
    """Return a maker for each argument that the forward cannot do without."""
    from nndiag.lab.forward import takes

    makers: dict[str, Callable[..., Any]] = {}
    if maker := _maker(main, config, length):
        makers[main] = maker
    for name in ("pixel_values", "input_ids"):
        both = hasattr(config, "vision_config") and hasattr(config, "text_config")
        if both and name not in makers and takes(model, name) and (maker := _maker(name, config, length)):
            makers[name] = maker
    if (
        getattr(config, "is_encoder_decoder", False)
        and takes(model, "decoder_input_ids")
        and not takes(model, "labels")
    ) or (getattr(config, "is_encoder_decoder", False) and takes(model, "decoder_input_ids")):
        makers["decoder_input_ids"] = _ids(_vocab(config), length)
    return makers


def _maker(name: str, config: Any, length: int) -> Callable[..., Any] | None:
    """Return a maker for one named argument, or None when nothing is known of it."""
    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        **dict.fromkeys(_ID_NAMES, lambda: _ids(_vocab(config), length)),
        "pixel_values": lambda: _pixels(config),
        "input_features": lambda: _spectrum(config),
        "input_values": lambda: _sound(config),
        "past_values": lambda: _normal(
            int(getattr(config, "context_length", 32)), int(getattr(config, "num_input_channels", 1))
        ),
        **dict.fromkeys(("inputs_embeds", "hidden_states"), lambda: _normal(length, int(config.hidden_size))),
    }
    return makers[name]() if name in makers else None


def _spectrum(config: Any) -> Callable[..., Any]:
    """Whisper's mel spectrogram: bins by frames, two frames for each position."""
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", None) or 80
    return _normal(int(bins), 2 * int(getattr(config, "max_source_positions", None) or 16))


def _sound(config: Any) -> Callable[..., Any]:
    """A waveform of some two dozen frames, or a spectrogram of frames by bins."""
    if hasattr(config, "num_mel_bins"):
        return _normal(int(getattr(config, "max_length", 64)), int(config.num_mel_bins))
    return _normal(24 * math.prod(int(stride) for stride in getattr(config, "conv_stride", (320,))))


def _text(config: Any) -> Any:
    return getattr(config, "text_config", None) or getattr(config, "decoder", None) or config


def _vocab(config: Any) -> int:
    for place in (config, _text(config), getattr(config, "encoder", None)):
        size = getattr(place, "vocab_size", None)
        if isinstance(size, int) and size > 0:
            return size
    return 16


def _ids(vocab: int, length: int) -> Callable[..., Any]:
    import torch

    # 0, 1 and 2 are padding and sentence marks in most vocabularies: models mask them or look for the last one.
    low = 3 if vocab > 8 else 0
    return lambda rows, generator: torch.randint(low, vocab, (rows, length), generator=generator)


def _normal(*shape: int) -> Callable[..., Any]:
    import torch

    return lambda rows, generator: torch.randn(rows, *shape, generator=generator)


def _pixels(config: Any) -> Callable[..., Any]:
    place = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    size = getattr(place, "image_size", None) or getattr(config, "image_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    channels = int(getattr(place, "num_channels", 3) or 3)
    frames = getattr(place, "num_frames", None)
    return _normal(int(frames), channels, height, width) if frames else _normal(channels, height, width)


def _labels(model: nn.Module, config: Any, length: int) -> Callable[[Any, Any], Any] | None:
    """Return labels as the class of the model wants them."""
    import torch

    name = type(model).__name__
    classes = int(getattr(config, "num_labels", 2) or 2)
    if name.endswith(("CausalLM", "LMHeadModel", "MaskedLM", "ConditionalGeneration", "ForPreTraining", "Seq2SeqLM")):
        source = "decoder_input_ids" if getattr(config, "is_encoder_decoder", False) else "input_ids"

        def words(inputs: Any, generator: Any) -> Any:
            first = next(iter(inputs.values()))
            if source in inputs:
                return inputs[source].clone()
            return torch.randint(0, _vocab(config), (len(first), length), generator=generator)

        return words
    if name.endswith("TokenClassification"):
        return lambda inputs, generator: torch.randint(0, classes, inputs["input_ids"].shape, generator=generator)
    if name.endswith(("SequenceClassification", "ImageClassification", "AudioClassification")):

        def marks(inputs: Any, generator: Any) -> Any:
            rows = len(next(iter(inputs.values())))
            if classes == 1:
                return torch.randn(rows, generator=generator)
            return torch.randint(0, classes, (rows,), generator=generator)

        return marks
    return None
