"""A Keras model whose layers do not exist yet: the first batch gives them their shapes, as it does in Keras."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.keras.copy import keras_copy
from nndiag.lab.keras.inputs import arguments, asked, request_of
from nndiag.lab.keras.outline import has_graph, replaced
from nndiag.lab.keras.translate import translated
from nndiag.lab.watch.blame import said


class Unbuilt(nn.Module):
    """Becomes the translated model at its first call. Until then it is lazy, as torch's lazy layers are."""

    def __init__(self, model: Any, name: str) -> None:
        """Take the user's model, which is copied and never built."""
        super().__init__()
        self.awaited = nn.UninitializedParameter()
        self._held = _Waiting(model)
        self._typed = name
        self.waits_for_data = f"{name}: the Keras model has no input shape yet"

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Build a copy of the model on these inputs, become its translation, and answer."""
        model = self._held.model
        args, kwargs = _as_keras_calls(model, inputs, named)
        try:
            with torch.no_grad():
                model(*args, **kwargs)
        except Exception as error:
            raise NndiagError(
                f"{self._typed}: the Keras model has no input shape, and does not take these inputs: {said(error)}",
                hint="begin it with keras.Input(shape), call model.build((None, …)), or give DATA that fits",
            ) from error
        request = None if has_graph(model) else request_of(args, kwargs, list(inspect.signature(model.call).parameters))
        graph, _notes = translated(model, self._typed, request)
        graph.train(self.training)
        self.__class__ = type(graph)  # type: ignore[assignment]
        self.__dict__ = graph.__dict__
        return self(*inputs, **named)


def _as_keras_calls(
    model: Any, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a batch is to a Keras model: arguments, or one list or dict."""
    if named:
        known = inspect.signature(model.call).parameters
        return ((), named) if any(name in known for name in named) else ((named,), {})
    return (inputs, {}) if len(inputs) == 1 or arguments(model) > 1 else ((list(inputs),), {})


def completed(model: Any) -> Any:
    """Return the model when all its layers exist, else a copy in which they do; None when zeros do not build them.

    `Model.build` of a subclassed model only notes the shape: its layers come into being at the first call.
    """
    request = None if has_graph(model) else asked(model)
    if request is None or all(layer.built for layer in model._flatten_layers()):  # noqa: SLF001 - in lists and dicts too
        return model
    made = keras_copy(model)
    args, kwargs = (replaced(part, _zeros) for part in (request.args, dict(request.kwargs)))
    try:
        with torch.no_grad():
            made(*args, **kwargs)
    except Exception:  # noqa: BLE001 - whatever the user's code raises on zeros
        return None
    return made


def _zeros(symbol: Any) -> Tensor:
    return torch.zeros([2, *(16 if size is None else size for size in symbol.shape[1:])])


class _Waiting:
    """Hides the Keras model from torch, and copies it with the module that holds it."""

    def __init__(self, model: Any) -> None:
        self.model = keras_copy(model)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Waiting:
        return _Waiting(self.model)
