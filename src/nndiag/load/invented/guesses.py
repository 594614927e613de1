"""What a forward could take, likeliest first: by its own examples, by its config, by its first layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, nn

    from nndiag.core.errors import NndiagError

    Maker = Callable[[int, Generator], Any]

_IMAGE_SIZES = (32, 28, 64, 224, 16, 8, 96, 128, 227, 299, 12, 20, 24, 48, 256)
_LENGTHS = (16, 32, 64, 128, 8, 50, 100, 256, 28, 10, 20)


@dataclass(frozen=True)
class Guess:
    """One way to make inputs."""

    text: str  # "normal 3x32x32", "ids 16 below 99"
    inputs: Callable[[int, Any], Any]
    labels: Callable[[Any, Any], Any] | None = None  # for models that compute their own loss
    sample: tuple[int, ...] | None = None  # the shape of one sample of a single input
    ids: tuple[int, int] | None = None  # (4, length) for a single input of ids, as the trial runs it
    whole: bool = False  # the rows of a batch belong together: nodes of a graph
    repair: Callable[[NndiagError], Iterator[Guess]] | None = None  # what to try instead, by the error of this one


def guesses(model: nn.Module) -> Iterator[Guess]:
    """Yield guesses, likeliest first."""
    from nndiag.load.invented.config import from_config
    from nndiag.load.invented.read import from_reading

    yield from _examples(model)
    by_name = False
    for guess in from_config(model):
        by_name = True
        yield guess
    if not by_name:
        yield from from_reading(model)
        yield from _layers(model)


def normal(*shape: int) -> Guess:
    """Guess normal numbers of this shape per sample."""
    import torch

    from nndiag.load.invented.repairs import other_shapes

    def instead(error: NndiagError) -> Iterator[Guess]:
        return (normal(*other) for other in other_shapes(shape, error.message))

    text = "x".join(map(str, shape)) or "scalars"
    return Guess(
        f"normal {text}",
        lambda rows, generator: torch.randn(rows, *shape, generator=generator),
        sample=shape,
        repair=instead,
    )


def ids(length: int | None, vocab: int) -> Guess:
    """Guess integer ids below `vocab`, `length` per sample, or one when None."""
    import torch

    from nndiag.load.invented.repairs import other_shapes

    shape = () if length is None else (length,)

    def make(rows: int, generator: Any) -> Any:
        return torch.randint(0, vocab, (rows, *shape), generator=generator)

    def instead(error: NndiagError) -> Iterator[Guess]:
        return (ids(other[1], vocab) for other in other_shapes((1, length or 1), error.message) if length)

    words = f"{length} ids" if length else "one id"
    return Guess(f"{words} below {vocab}", make, ids=(4, length) if length else None, repair=instead)


def _examples(model: nn.Module) -> Iterator[Guess]:
    """Use what the model itself offers as an example: Lightning's example_input_array and the like."""
    import torch

    from nndiag.lab.forward import mapped

    for name in ("example_input_array", "example_inputs", "example_input", "dummy_inputs", "dummy_input"):
        try:
            example = getattr(model, name, None)
            if callable(example) and not isinstance(example, torch.Tensor):
                example = example()
        except Exception:  # noqa: BLE001, S112 - properties of other people's classes; there are more guesses
            continue
        if example is None or isinstance(example, str) or hasattr(model, "config"):
            continue

        def make(rows: int, generator: Any, example: Any = example) -> Any:
            return mapped(example, lambda item: _like(item, rows, generator))

        sample = tuple(example.shape[1:]) if isinstance(example, torch.Tensor) else None
        yield Guess(f"like the model's {name}", make, sample=sample)


def _like(item: Any, rows: int, generator: Any) -> Any:
    """Return random numbers, or the example's own ids in another order, for `rows` samples."""
    import torch

    if item.dim() == 0:
        return item
    if item.is_floating_point():
        return torch.randn((rows, *item.shape[1:]), generator=generator).to(item.dtype)
    return item.detach()[torch.randint(0, len(item), (rows,), generator=generator)]


def _layers(model: nn.Module) -> Iterator[Guess]:
    """Guess from the layers, in the order in which they were defined."""
    from nndiag.load.splitting import shape_of

    layers = [(name, _scripted(module)) for name, module in model.named_modules()]
    first = [(name, module) for name, module in layers if _has_shape(module)]
    needed = shape_of(model).needed
    if needed > 1:
        yield from _several(model, [module for _, module in first], needed)
    tried: set[str] = set()
    sizes = declared_sizes(model)
    for _, module in first[:6]:
        for guess in for_layer(module, sizes):
            if guess.text not in tried:
                tried.add(guess.text)
                yield guess
    for guess in (normal(16), normal(3, 32, 32), normal(1, 28, 28), normal(16, 16), ids(16, 16)):
        if guess.text not in tried:
            yield guess


def _scripted(module: nn.Module) -> nn.Module:
    """Return a stand-in for a layer inside TorchScript, which keeps its weight but not its sizes."""
    from torch import nn

    weight = getattr(module, "weight", None) if hasattr(module, "original_name") else None
    if weight is None:
        return module
    kind, shape = str(module.original_name), tuple(weight.shape)
    if kind == "Linear":
        return nn.Linear(shape[1], 1, device="meta")
    if kind == "Embedding":
        return nn.Embedding(shape[0], 1, device="meta")
    if kind in {"Conv1d", "Conv2d", "Conv3d"}:
        conv: nn.Module = getattr(nn, kind)(shape[1], 1, 1, device="meta")  # groups are not kept: one is taken
        return conv
    return module


def _has_shape(module: nn.Module) -> bool:
    names = ("in_features", "in_channels", "num_embeddings", "input_size", "num_features", "d_model", "embed_dim",
             "normalized_shape", "in1_features", "n_vocab")  # fmt: skip
    return any(hasattr(module, name) for name in names)


def declared_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Return the image sizes that a model or a part of it says it was made for."""
    found: list[tuple[int, int]] = []
    for module in model.modules():
        for name in ("img_size", "image_size", "input_size", "input_resolution", "resolution"):
            size = getattr(module, name, None)
            pair = (size, size) if isinstance(size, int) and name != "input_size" else size  # recurrent layers have one
            if isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(side, int) for side in pair):
                found.append((int(pair[0]), int(pair[1])))
    plausible = (pair for pair in found if all(8 <= side <= 1024 for side in pair))
    return list(dict.fromkeys(plausible))[:2]


def for_layer(module: nn.Module, sizes: Sequence[tuple[int, int]] = ()) -> Iterator[Guess]:
    """Yield inputs that a layer could take as the first of a network; images of `sizes` first."""
    from torch import nn

    kind = type(module).__name__
    if isinstance(module, nn.EmbeddingBag | nn.Embedding):
        for length in (16, 8, None, 32, 4, 2, 1, 64, 128):
            yield ids(length, module.num_embeddings)
    elif "2d" in kind and _channels(module):
        channels = _channels(module)
        sides = (1, 4, 7, *_IMAGE_SIZES) if "Transpose" in kind and channels > 8 else _IMAGE_SIZES
        yield from (normal(channels, *size) for size in (*sizes, *((side, side) for side in sides)))
    elif "1d" in kind and (channels := _channels(module)):
        if hasattr(module, "num_features"):
            yield normal(channels)
        yield from (normal(channels, length) for length in _LENGTHS)
    elif "3d" in kind and (channels := _channels(module)):
        yield from (normal(channels, *size) for size in ((16, 16, 16), (8, 32, 32), (32, 32, 32), (16, 64, 64)))
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        yield from (normal(*middle, module.input_size) for middle in ((16,), (28,), (), (8,), (32,)))
    elif isinstance(module, nn.Linear):
        width = module.in_features or 16
        yield normal(width)
        yield normal(16, width)
        yield from (normal(*shape) for shape in _unflattened(width))
    else:
        known = (getattr(module, name, None) for name in ("d_model", "embed_dim", "num_features"))
        hidden = next((value for value in known if isinstance(value, int)), None)
        width = hidden if hidden is not None else tuple(getattr(module, "normalized_shape", (16,)))[-1]
        yield normal(width)
        yield normal(16, width)


def _channels(module: nn.Module) -> int:
    """Return the channels a layer reads; three for a lazy layer that does not know yet."""
    if "Lazy" in type(module).__name__:
        return 3
    value = getattr(module, "in_channels", getattr(module, "num_features", 0))
    return int(value) if isinstance(value, int) else 0


def _unflattened(width: int) -> Iterator[tuple[int, ...]]:
    """Yield image shapes that flatten to `width`."""
    for channels in (1, 3, 2, 4):
        side = round((width / channels) ** 0.5) if width % channels == 0 else 0
        if side > 1 and side * side * channels == width:
            yield (channels, side, side)
            if channels == 1:
                yield (side, side)


def _several(model: nn.Module, layers: list[nn.Module], needed: int) -> Iterator[Guess]:
    """Guess several arguments: the layers in order, or the first layer's input for each."""
    from torch import nn

    if isinstance(model, nn.Transformer):
        yield _tuple([normal(16, model.d_model)] * needed)
        return
    bilinear = next((item for item in layers if isinstance(item, nn.Bilinear)), None)
    if bilinear is not None and needed == 2:
        yield _tuple([normal(bilinear.in1_features), normal(bilinear.in2_features)])
    if len(layers) >= needed and all(isinstance(item, nn.Embedding) for item in layers[:needed]):
        yield _tuple(
            [ids(None, int(getattr(item, "num_embeddings", 1))) for item in layers[:needed]]
        )  # a recommender's pair
    options = [
        list(itertools.islice(for_layer(item), 3)) for item in layers[: needed + 2] if not isinstance(item, nn.Bilinear)
    ]
    if len(options) >= needed:
        for index in range(3):
            yield _tuple([choice[min(index, len(choice) - 1)] for choice in options[:needed]])
    if options:
        for choice in options[0]:
            yield _tuple([choice] * needed)
            if choice.sample is not None and needed == 2:
                yield _with_time(choice)


def _tuple(parts: list[Guess]) -> Guess:
    def make(rows: int, generator: Any) -> Any:
        return tuple(part.inputs(rows, generator) for part in parts)

    return Guess(" and ".join(part.text for part in parts), make)


def _with_time(part: Guess) -> Guess:
    """Guess a diffusion model's inputs: a sample and one time step."""
    import torch

    def make(rows: int, generator: Any) -> Any:
        return part.inputs(rows, generator), torch.randint(0, 10, (rows,), generator=generator)

    return Guess(f"{part.text} and one time step", make)
