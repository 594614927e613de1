"""Turn a Keras model into torch layers of the same names, and prove that they compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.keras.foreign import Foreign, foreign_inside, on_torch_layers
from nndiag.lab.keras.graph import Builder, KerasGraph, KerasModel, Ref, UnknownLayerError
from nndiag.lab.keras.inputs import ROWS, Request, asked, example_of
from nndiag.lab.keras.layers import LAYERS
from nndiag.lab.keras.modules import fixed
from nndiag.lab.keras.outline import (
    Outline,
    follow,
    has_graph,
    leaving_no_trace,
    read_graph,
    replaced,
    symbolic_in,
)
from nndiag.lab.keras.proof import prove
from nndiag.lab.keras.sequences import SEQUENCES
from nndiag.lab.keras.shapes import SHAPES
from nndiag.lab.keras.spatial import SPATIAL
from nndiag.lab.watch.built import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KNOWN = {**LAYERS, **SHAPES, **SPATIAL, **SEQUENCES}


def is_keras(thing: Any) -> bool:
    """Whether an object is a Keras model."""
    bases = type(thing).__mro__
    return any(base.__name__ == "Model" and base.__module__.split(".")[0] == "keras" for base in bases)


def has_shape(model: Any) -> bool:
    """Whether a model's layers exist: it has a graph, or was built, or was called once."""
    return has_graph(model) or (type(model).__name__ != "Sequential" and model.built and asked(model) is not None)


def translated(model: Any, name: str, request: Request | None = None) -> tuple[KerasGraph, list[str]]:
    """Return a Keras model as torch layers, and what was left out.

    The kernels are copied and turned, batch norm's momentum is torch's, the mode is the module's own. In inference
    mode both compute the same within 1e-4 on random inputs. A model or layer of the user's own is followed through
    its `call`; where its code cannot be followed it is run as it is.

    Args:
        model: On the torch backend, with a shape (see `has_shape`).
        name: For messages.
        request: How the model is called, where it was called already; else what it was built with.

    Raises:
        NndiagError: It has no input shape yet, or the translation computes something else.
    """
    check_backend(name)
    request = request or asked(model)
    if not has_graph(model) and (request is None or not model.built):
        raise NndiagError(
            f"{name}: the Keras model has no input shape yet",
            hint="begin it with keras.Input(shape), call model.build((None, …)), or give DATA",
        )
    notes: list[str] = []
    with leaving_no_trace(model):
        graph = _of_model(model, request, notes)
        graph.train()
        _look_inside(graph, notes)
        prove(graph, model, name, request)
    return graph, list(dict.fromkeys(notes))


def _look_inside(graph: KerasGraph, notes: list[str]) -> None:
    """Put torch's layers inside the layers that are run as they are, on what the example brings to them."""
    for place, foreign, args, kwargs in foreign_inside(graph):
        made, torch_layers = on_torch_layers(foreign, foreign.layer, _built_in, args, kwargs)
        if torch_layers:
            parent, _, last = place.rpartition(".")
            setattr(graph.get_submodule(parent), last, made)
            said = f"'{place.rpartition('.')[2]}' is run by Keras"
            notes[:] = [f"{note}, its layers on torch's" if note.startswith(said) else note for note in notes]


def check_backend(name: str) -> None:
    """Refuse another backend than torch."""
    import keras

    backend = keras.backend.backend()
    if backend != "torch":
        raise NndiagError(
            f"{name}: Keras was imported with the {backend} backend",
            hint="set KERAS_BACKEND=torch before it is imported",
        )


def _of_model(model: Any, request: Request | None, notes: list[str]) -> KerasGraph:
    if has_graph(model) or request is None:
        return _graph(read_graph(model), notes, top=True)
    outline = follow(model, request.args, request.kwargs, request.names)
    return _graph(outline, notes, top=True) if outline is not None else _as_it_is(model, request, notes)


def _as_it_is(model: Any, request: Request, notes: list[str]) -> KerasGraph:
    """Return a graph of one step: the whole model, run by Keras."""
    tensors = tuple(symbolic_in((request.args, dict(request.kwargs))))
    outline = Outline(tensors, tuple(request.names[id(item)] for item in tensors), (), None)
    graph, builder, refs = _begun(outline, notes, top=True)
    args, call = (replaced(part, lambda leaf: refs.get(id(leaf), leaf)) for part in (request.args, request.kwargs))
    module, torch_layers = _foreign(model, request, tensors, graph.example_inputs)
    inside = "on torch's layers" if torch_layers else "and not seen layer by layer"
    notes.append(f"the code of {type(model).__name__} is run by Keras {inside}")
    graph.answer = builder.module(str(model.name), lambda: module, *args, **call)
    return graph


def _foreign(model: Any, request: Request, tensors: tuple[Any, ...], example: Any) -> tuple[Foreign, bool]:
    """Return the model as it is, on torch's layers where it computes the same with them."""
    values = example if isinstance(example, tuple) else (example,)
    given = {id(tensor): value[:ROWS] for tensor, value in zip(tensors, values, strict=True)}
    args, kwargs = (
        replaced(part, lambda leaf: given.get(id(leaf), leaf)) for part in (request.args, dict(request.kwargs))
    )
    return on_torch_layers(Foreign(model), model, _built_in, args, kwargs)


def _begun(outline: Outline, notes: list[str], *, top: bool) -> tuple[KerasGraph, Builder, dict[int, Any]]:
    kind = KerasModel if len(outline.inputs) == 1 else KerasGraph
    graph = kind(outline.input_names, example_of(outline) if top else None)
    refs: dict[int, Any] = {id(tensor): Ref(index) for index, tensor in enumerate(outline.inputs)}
    return graph, Builder(graph, notes=notes), refs


def _graph(outline: Outline, notes: list[str], *, top: bool = False) -> KerasGraph:
    """Translate every call of an outline."""
    graph, to, refs = _begun(outline, notes, top=top)

    def change(leaf: Any) -> Any:
        if id(leaf) in refs:
            return refs[id(leaf)]
        if isinstance(leaf, Tensor):  # computed while the model was built, and a constant ever since
            return leaf.detach().clone()
        return to.variable(leaf) if hasattr(leaf, "assign") and hasattr(leaf, "trainable") else leaf

    for node in outline.nodes:
        args, call = replaced(node.arguments.args, change), replaced(node.arguments.kwargs, change)
        if args == () and "inputs" in call:
            args = (call.pop("inputs"),)
        call["training"] = outline.modes.get(id(node))
        made = _called(to, outline, node, args, call)
        _bind(node.outputs if len(node.outputs) > 1 else node.outputs[0], made, refs, to)
    graph.answer = replaced(outline.answer, change)
    return graph


def _bind(outputs: Any, made: Ref, refs: dict[int, Any], to: Builder) -> None:
    if not isinstance(outputs, list | tuple):
        refs[id(outputs)] = made
        return
    for index, tensor in enumerate(outputs):
        refs[id(tensor)] = to.apply(_item, made, index)


def _item(values: Any, index: int) -> Any:
    return list(values.values())[index] if isinstance(values, dict) else values[index]


def _called(to: Builder, outline: Outline, node: Any, args: tuple[Any, ...], call: dict[str, Any]) -> Ref:
    """Translate one call of a layer."""
    layer = node.operation
    mode = call["training"]
    to.place = getattr(layer, MARK, None)
    name = outline.name_of(layer)
    if not hasattr(layer, "weights"):  # an operation: x + y, keras.ops.relu(x)
        return to.apply(_Operation(layer), *args, **{key: item for key, item in call.items() if key != "training"})
    if has_graph(layer):
        inner = read_graph(layer)
        return to.module(name, lambda: _held(_graph(inner, to.notes), mode), *args)
    tensors = tuple(symbolic_in((node.arguments.args, node.arguments.kwargs)))
    to.shape = tuple(tensors[0].shape) if tensors else ()
    try:
        with to.undone_on_failure():
            before = set(to.children())
            to.overruled = outline.overruled
            made = _built_in(to, layer, name, args, call)
            for child in set(to.children()) - before:
                _held(to.children()[child], mode)
            return made
    except UnknownLayerError as unknown:
        inner_call = _follow_layer(layer, node)
        if inner_call is not None:
            places = [refs_of(args), refs_of({key: item for key, item in call.items() if key != "training"})]
            return to.module(name, lambda: _held(_graph(inner_call, to.notes), mode), *places[0], *places[1])
        to.notes.append(f"'{name}' is run by Keras ({unknown})")
    more = {key: item for key, item in call.items() if key not in {"training", "mask"}}
    return to.module(name, lambda: Foreign(layer, mode=mode), *args, **more)


def refs_of(thing: Any) -> list[Ref]:
    """Return the values inside a structure, in order."""
    if isinstance(thing, tuple | list):
        return [ref for item in thing for ref in refs_of(item)]
    if isinstance(thing, dict):
        return [ref for item in thing.values() for ref in refs_of(item)]
    return [thing] if isinstance(thing, Ref) else []


def _follow_layer(layer: Any, node: Any) -> Outline | None:
    """Follow a layer of the user's own with fresh inputs of the shapes of this call."""
    import keras

    if type(layer).__module__.split(".")[0] == "keras":
        return None
    fresh = {
        id(item): keras.Input(batch_shape=item.shape, dtype=item.dtype)
        for item in symbolic_in((node.arguments.args, node.arguments.kwargs))
    }
    args, kwargs = (
        replaced(part, lambda leaf: fresh.get(id(leaf), leaf)) for part in (node.arguments.args, node.arguments.kwargs)
    )
    kwargs = {key: item for key, item in kwargs.items() if key not in {"training", "mask"}}
    return follow(layer, args, kwargs, {})


def _held(module: nn.Module, mode: bool | None) -> nn.Module:
    """Hold a module in the mode that it is always called in."""
    return module if mode is None or type(module).__name__.startswith("Hardwired") else fixed(module, mode=mode)


def _built_in(to: Builder, layer: Any, name: str, args: tuple[Any, ...], call: Mapping[str, Any]) -> Ref:
    """Translate a layer of Keras's own.

    Raises:
        UnknownLayerError: It is none, or set up as torch's layer cannot be.
    """
    kind = type(layer).__name__
    if type(layer).__module__.split(".")[0] != "keras":
        raise UnknownLayerError(f"{kind} is a class of its own")
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise UnknownLayerError(f"{kind} with quantised or LoRA weights")
    if kind == "TimeDistributed":
        return _each_time(to, layer, name, args[0], call)
    if kind not in _KNOWN:
        raise UnknownLayerError(f"{kind} has no counterpart in torch")
    made: Ref = _KNOWN[kind](to, layer, name, args, call)
    return made


def _each_time(to: Builder, layer: Any, name: str, x: Ref, call: Mapping[str, Any]) -> Ref:
    """Fold time into rows, call the inner layer, and unfold."""
    inner = layer.layer
    kind = type(inner).__name__
    if kind == "Dense":
        made: Ref = _KNOWN[kind](to, inner, name, (x,), call)
        return made
    if kind not in _KNOWN or kind in SEQUENCES:
        raise UnknownLayerError(f"TimeDistributed around {kind}")
    to.shape = (None, *to.shape[2:])
    folded = to.apply(torch.flatten, x, 0, 1)
    out: Ref = _KNOWN[kind](to, inner, name, (folded,), call)
    return to.apply(_unfold, out, x)


def _unfold(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(*like.shape[:2], *x.shape[1:])


class _Operation:
    """An operation of Keras, which has no state: a copy of a model shares it."""

    def __init__(self, operation: Any) -> None:
        self.run: Callable[..., Any] = operation.call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Operation:
        return self
