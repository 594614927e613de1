"""What a Hugging Face model takes, by its config and the names of its forward's arguments."""

from __future__ import annotations

import itertools
import math
import re
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nndiag.load.invented.agree import agreeing
from nndiag.load.invented.guesses import Guess
from nndiag.load.invented.makers import Normal, Words, maker_of, token_ids
from nndiag.load.invented.named import companions, others, pictures_for, square_patches
from nndiag.load.invented.repairs import other_shapes, unequal
from nndiag.load.invented.sizes import placeholders, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from nndiag.core.errors import NndiagError
    from nndiag.load.invented.makers import Maker

_FEATURES = re.compile(r"tokens: (\d+),? features:? (\d+)")
_MOST_PLACEHOLDERS = 4096
_NUMBERS = 1 << 19  # in one sample of one argument: what is larger takes the time of all other guesses
_SHAPES = 5  # of one argument, by one error


def from_config(model: nn.Module) -> Iterator[Guess]:
    """Yield inputs for a model with a Hugging Face config; nothing for any other."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return
    main = str(getattr(model, "main_input_name", "input_ids"))
    tried: set[str] = set()
    for length, makers in _plans(model, config, main):
        if makers and (guess := _guess(model, config, length, makers)).text not in tried:
            tried.add(guess.text)
            yield guess


def _guess(model: nn.Module, config: Any, length: int, makers: dict[str, Maker]) -> Guess:
    """Return a guess of named arguments, which learns from its error which others are wanted."""

    def make(rows: int, generator: Any) -> Any:
        return agreeing({name: maker(rows, generator) for name, maker in makers.items()}, config)

    def instead(error: NndiagError) -> Iterator[Guess]:
        for other in _asked_for(model, config, length, makers, error):
            yield _guess(model, config, length, other)

    whole = any(name.endswith("grid_thw") for name in makers)
    return Guess(_described(make), make, labels=_labels(model, config, length), whole=whole, repair=instead)


def _asked_for(
    model: nn.Module, config: Any, length: int, makers: dict[str, Maker], error: NndiagError
) -> Iterator[dict[str, Maker]]:
    """Yield the arguments with those added that the error, or the line it came from, names."""
    text = _told(error)
    mentioned = _mentioned(model, config, length, makers, text)
    yield from _as_long(makers, error.message)
    if mentioned:
        yield {**makers, **mentioned}
    if len(mentioned) > 1:  # "either pixel_values or image_embeds"
        yield from ({**makers, name: maker} for name, maker in mentioned.items())
    if "get_seq_length" in text or "past_key_value" in text or "cache_utils" in text:
        yield {**makers, "use_cache": lambda _rows, _generator: False}
    if found := _FEATURES.search(text):
        yield from _with_placeholders(config, makers, text, int(found[2]))
    if "pixel_values" in makers and any(name.endswith("grid_thw") for name in {*makers, *mentioned}):
        yield {**makers, **mentioned, "pixel_values": square_patches(config)}
    elif "pixel_values" in makers:
        for maker in others("pixel_values", config):
            yield {**makers, **mentioned, "pixel_values": maker}
    yield from _of_other_shapes({**makers, **mentioned}, error.message)


def _mentioned(model: nn.Module, config: Any, length: int, makers: dict[str, Maker], text: str) -> dict[str, Maker]:
    """Return makers of the arguments that a text names and that are not given yet."""
    from nndiag.lab.forward import signature

    known = signature(model)
    found: dict[str, Maker] = {}
    for name in known.parameters if known else ():
        if name not in makers and re.search(rf"\b{name}\b", text):
            maker = maker_of(name, config, length, wanted=True)
            if maker:
                found[name] = maker
    return found


def _told(error: NndiagError) -> str:
    """Return what an error says, with the lines of code that it came from."""
    cause = error.__cause__
    frames = traceback.extract_tb(cause.__traceback__)[-3:] if cause is not None else []
    return "\n".join([str(cause or error.message), *(f"{item.filename} {item.line}" for item in frames)])


def _with_placeholders(config: Any, makers: dict[str, Maker], said: str, features: int) -> Iterator[dict[str, Maker]]:
    """Yield ids that hold as many placeholders as there are features of pictures or sounds, of a trial's four rows."""
    words, count = makers.get("input_ids"), features // 4
    if not isinstance(words, Words) or not 0 < count <= _MOST_PLACEHOLDERS:
        return
    kinds = placeholders(config)
    for kind in sorted(kinds, key=lambda kind: kind not in said.lower()):
        marks = tuple(item for item in words.marks if item[0] != kinds[kind])
        yield {**makers, "input_ids": replace(words, marks=(*marks, (kinds[kind], count)))}


def _as_long(makers: dict[str, Maker], said: str) -> Iterator[dict[str, Maker]]:
    """Yield ids as long as what an error says they are added to: a sound's frames, say."""
    for name, maker in makers.items():
        if isinstance(maker, Words) and not maker.marks:
            for got, wanted in unequal(said):
                if got == maker.length and 1 < wanted <= _MOST_PLACEHOLDERS:
                    yield {**makers, name: replace(maker, length=wanted)}


def _of_other_shapes(makers: dict[str, Maker], said: str) -> Iterator[dict[str, Maker]]:
    """Yield the arguments with one of them in a shape that the error asks for."""
    for name, maker in makers.items():
        if isinstance(maker, Normal):
            small = (shape for shape in other_shapes(maker.shape, said) if math.prod(shape) <= _NUMBERS)
            for shape in itertools.islice(small, _SHAPES):
                yield {**makers, name: Normal(shape)}


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
        words: dict[str, Maker] = {"input_ids": token_ids(config, length)}
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
    parts = {name: value.shape[1:] if isinstance(value, torch.Tensor) else (value,) for name, value in made.items()}
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or '1'}" for name, shape in parts.items())


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
    if _accepts(model, main) and (maker := _maker(model, config, main, length)):
        makers[main] = maker
    for name in ("pixel_values", "input_ids"):
        both = hasattr(config, "vision_config") and hasattr(config, "text_config")
        if both and name not in makers and takes(model, name) and (maker := _maker(model, config, name, length)):
            makers[name] = maker
    if getattr(config, "is_encoder_decoder", False) and takes(model, "decoder_input_ids"):
        makers["decoder_input_ids"] = token_ids(config, length)
    return makers


def _maker(model: nn.Module, config: Any, name: str, length: int) -> Maker | None:
    return pictures_for(model, config, length) if name == "pixel_values" else maker_of(name, config, length)


def _accepts(model: nn.Module, name: str) -> bool:
    """Whether a forward takes an argument by name, or any."""
    from nndiag.load.splitting import shape_of

    shape = shape_of(model)
    return name in shape.names or (shape.anything and len(shape.names) < 2)


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
