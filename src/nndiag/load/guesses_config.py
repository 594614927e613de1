"""What a Hugging Face model takes, by its config and the names of its forward's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.load.guesses import Guess
from nndiag.load.guesses_named import companions, maker_of, others, token_ids, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from nndiag.load.guesses_named import Maker


def from_config(model: nn.Module) -> Iterator[Guess]:
    """Yield inputs for a model with a Hugging Face config; nothing for any other."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return
    main = str(getattr(model, "main_input_name", "input_ids"))
    tried: set[str] = set()
    for length, makers in _plans(model, config, main):
        if not makers:
            continue

        def make(rows: int, generator: Any, makers: dict[str, Maker] = makers) -> Any:
            return {name: maker(rows, generator) for name, maker in makers.items()}

        text = _described(make)
        if text not in tried:
            tried.add(text)
            yield Guess(text, make, labels=_labels(model, config, length))


def _plans(model: nn.Module, config: Any, main: str) -> Iterator[tuple[int, dict[str, Maker]]]:
    """Yield sets of arguments: the few that most models need, then more of those the forward names, then fewer."""
    from nndiag.lab.forward import takes

    lengths = _lengths(config)
    length = lengths[0]
    least = _makers(model, config, main, length)
    yield length, least
    required, named = companions(model, config, length)
    if required:
        yield length, {**least, **required}
    if named:
        yield length, {**least, **required, **named}
    for other in lengths[1:]:
        yield other, _makers(model, config, main, other)
    if takes(model, "input_ids") and (set(least) - {"input_ids"}):  # a model of pictures and words, given words
        words = {"input_ids": token_ids(vocabulary(config), length)}
        yield length, words
        yield length, {**words, **named}
    for name in ("pixel_values", "input_features"):
        if name in least or (takes(model, name) and not takes(model, "input_ids")):
            for maker in others(name, config):
                yield length, {**least, **required, name: maker}


def _described(make: Callable[[int, Any], Any]) -> str:
    """Say names and shapes of one sample."""
    import torch

    made = make(1, torch.Generator().manual_seed(0))
    return ", ".join(f"{name} {'x'.join(map(str, value.shape[1:])) or '1'}" for name, value in made.items())


def _lengths(config: Any) -> list[int]:
    """Return sequence lengths worth trying."""
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 16
    if not isinstance(most, int) or most < 1:  # -1: no limit
        most = 32
    return sorted({min(16, int(most)), min(32, int(most)), min(8, int(most))}, key=lambda n: abs(n - 16))


def _makers(model: nn.Module, config: Any, main: str, length: int) -> dict[str, Maker]:
    """Return a maker for each argument that the forward cannot do without."""
    from nndiag.lab.forward import takes

    makers: dict[str, Maker] = {}
    if maker := maker_of(main, config, length):
        makers[main] = maker
    for name in ("pixel_values", "input_ids"):
        both = hasattr(config, "vision_config") and hasattr(config, "text_config")
        if both and name not in makers and takes(model, name) and (maker := maker_of(name, config, length)):
            makers[name] = maker
    if getattr(config, "is_encoder_decoder", False) and takes(model, "decoder_input_ids"):
        makers["decoder_input_ids"] = token_ids(vocabulary(config), length)
    return makers


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
            return torch.randint(0, vocabulary(config), (len(first), length), generator=generator)

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
