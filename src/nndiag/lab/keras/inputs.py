"""What does a Keras model take? By the inputs it declares, or the shapes it was built or called with."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nndiag.lab.keras.outline import has_graph, read_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from nndiag.lab.keras.outline import Outline

_SPARE = (16, 32, 32, 32)  # sizes for axes that the model leaves open: one axis, two, three
ROWS = 4


@dataclass(frozen=True, slots=True)
class Request:
    """How a model's `call` is called: symbolic tensors in the structure that it takes."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: Mapping[int, str]  # of the tensors, by id


def asked(model: Any) -> Request | None:
    """Return what a model without a graph takes, by the shapes that it was built with; None when they are unknown."""
    shapes = getattr(model, "_build_shapes_dict", None)  # what `model.build` or the first call was given
    if not shapes or arguments(model) > max(len(shapes), 1):  # of several arguments Keras keeps the first one's
        return None
    try:
        given = {key.removesuffix("_shape"): shape for key, shape in shapes.items()}
        return _request(given, lambda shape: (tuple(shape)[1:], None))
    except (TypeError, ValueError):
        return None


def request_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], parameters: list[str]) -> Request:
    """Return what a model was called with, as symbols.

    Args:
        args: Tensors, or structures of tensors.
        kwargs: The same by keyword.
        parameters: The names of the call's parameters.
    """
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    return _request(given, lambda tensor: (tuple(tensor.shape)[1:], str(tensor.dtype).removeprefix("torch.")))


def arguments(model: Any) -> int:
    """Return how many arguments the model's call needs."""
    known = inspect.signature(model.call).parameters.values()
    return sum(1 for item in known if item.name not in {"training", "mask"} and item.default is item.empty)


def _request(given: Mapping[str, Any], read: Callable[[Any], tuple[tuple[int, ...], str | None]]) -> Request:
    names: dict[int, str] = {}
    made = {key: _symbols(item, key, names, read) for key, item in given.items()}
    if len(made) == 1:
        return Request((next(iter(made.values())),), {}, names)
    return Request((), made, names)


def _symbols(
    item: Any, name: str, names: dict[int, str], read: Callable[[Any], tuple[tuple[int, ...], str | None]]
) -> Any:
    import keras

    if isinstance(item, dict):
        return {key: _symbols(inner, str(key), names, read) for key, inner in item.items()}
    nested = isinstance(item, list | tuple) and any(not isinstance(inner, int | None) for inner in item)
    if nested:
        return type(item)(_symbols(inner, f"{name}_{index}", names, read) for index, inner in enumerate(item))
    shape, dtype = read(item)
    made = keras.Input(shape, dtype=dtype)
    names[id(made)] = name
    return made


def example_of(outline: Outline) -> Any:
    """Return random inputs of the shapes that an outline declares: ids for embeddings, numbers elsewhere."""
    generator = torch.Generator().manual_seed(0)
    found = [_example(outline, tensor, generator) for tensor in outline.inputs]
    return found[0] if len(found) == 1 else tuple(found)


def _example(outline: Outline, tensor: Any, generator: torch.Generator) -> Tensor:
    open_axes = [size is None for size in tensor.shape[1:]]
    spare = _SPARE[min(max(sum(open_axes) - 1, 0), 3)]
    shape = [32 if sum(open_axes) == 0 else ROWS, *(spare if size is None else size for size in tensor.shape[1:])]
    limit = _ids_below(outline, tensor)
    if limit is not None:
        return torch.randint(min(1, limit - 1), limit, shape, generator=generator)
    if "int" in str(tensor.dtype):
        return torch.randint(0, 256, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def _ids_below(outline: Outline, tensor: Any) -> int | None:
    """Return the smallest table that an input is looked up in, through nested models."""
    found: list[int] = []
    for node in outline.nodes:
        if not any(item is tensor for item in node.input_tensors):
            continue
        layer = node.operation
        kind = type(layer).__name__
        if hasattr(layer, "input_dim") and hasattr(layer, "output_dim"):  # Embedding and what is built on it
            found.append(int(layer.input_dim))
        elif kind in {"InputLayer", "Reshape", "Flatten", "Cast", "Identity", "GetItem"}:
            found += [size for item in node.outputs if (size := _ids_below(outline, item)) is not None]
        elif hasattr(layer, "weights") and has_graph(layer):
            inner = read_graph(layer)
            place = next(index for index, item in enumerate(node.input_tensors) if item is tensor)
            size = _ids_below(inner, inner.inputs[min(place, len(inner.inputs) - 1)])
            found += [] if size is None else [size]
        elif hasattr(layer, "weights") and type(layer).__module__.split(".")[0] != "keras":
            found += [int(part.input_dim) for part in layer._flatten_layers() if type(part).__name__ == "Embedding"][:1]  # noqa: SLF001 - containers of layers included
    return min(found, default=None)
