"""Turn a Keras model into torch layers of the same names, and prove that they compute the same."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nndiag.core.errors import NndiagError
from nndiag.lab.blame import said
from nndiag.lab.forward import tensors_in
from nndiag.lab.keras_graph import Builder, KerasGraph, KerasModel, Ref, UnknownLayerError
from nndiag.lab.keras_layers import LAYERS
from nndiag.lab.keras_modules import Foreign, HardwiredDropout, HardwiredSpatialDropout
from nndiag.lab.keras_sequences import SEQUENCES
from nndiag.lab.keras_spatial import SPATIAL

if TYPE_CHECKING:
    from collections.abc import Iterator

_KNOWN = {**LAYERS, **SPATIAL, **SEQUENCES}
_TOLERANCE = 1e-4  # of the largest output, in inference mode
_UNKNOWN_PLACES = (16, 32, 32, 32)  # sizes for axes that the model leaves open: one axis, two, three
_ROWS = 4


def is_keras(thing: Any) -> bool:
    """Whether an object is a Keras model."""
    bases = type(thing).__mro__
    return any(base.__name__ == "Model" and base.__module__.split(".")[0] == "keras" for base in bases)


def translated(model: Any, name: str) -> tuple[KerasGraph, list[str]]:
    """Return a Keras model as torch layers, and what was left out.

    The kernels are copied and turned, batch norm's momentum is torch's, the mode is the module's own. In inference
    mode both compute the same within 1e-4 on random inputs.

    Args:
        model: Sequential or Functional, built, on the torch backend.
        name: For messages.

    Raises:
        NndiagError: It is no graph of layers, or a layer has no counterpart; the message names it.
    """
    backend = _backend()
    if backend != "torch":
        raise NndiagError(
            f"{name}: Keras was imported with the {backend} backend",
            hint="set KERAS_BACKEND=torch before it is imported",
        )
    notes: list[str] = []
    graph = _graph(_functional(model, name), notes, top=True, name=name)
    graph.train()
    _prove(graph, _functional(model, name), name)
    return graph, list(dict.fromkeys(notes))


def _backend() -> str:
    import keras

    return str(keras.backend.backend())


def _functional(model: Any, name: str) -> Any:
    """Return the graph of a model."""
    if type(model).__name__ == "Sequential" or hasattr(model, "_functional"):
        inner = model._functional  # noqa: SLF001 - Keras keeps a Sequential's graph here, and only here
        if inner is None:
            raise NndiagError(
                f"{name}: the Sequential model has no input shape yet", hint="begin it with keras.Input(shape)"
            )
        return inner
    if not hasattr(model, "_nodes_by_depth"):
        raise NndiagError(
            f"{name}: {type(model).__name__} is a subclassed Keras model, whose layers only its code connects",
            hint="build it with the functional API: keras.Model(inputs, outputs)",
        )
    return model


def _graph(model: Any, notes: list[str], *, top: bool, name: str) -> KerasGraph:
    """Translate the graph of a functional model."""
    inputs = tuple(str(item.name) for item in model.inputs)
    example = example_of(model) if top else None
    kind = KerasModel if len(inputs) == 1 else KerasGraph
    graph = kind(tuple(_input_names(model) or inputs), example)
    builder = Builder(graph, notes=notes)
    refs: dict[int, Any] = {id(tensor): Ref(index) for index, tensor in enumerate(model.inputs)}
    for node in _nodes(model):
        args, call = _replaced(node.arguments.args, refs), _replaced(node.arguments.kwargs, refs)
        layer = node.operation
        if args == () and "inputs" in call:
            args = (call.pop("inputs"),)
        try:
            made = _called(builder, layer, args, call)
        except UnknownLayerError as unknown:
            raise NndiagError(
                f"{name}: the Keras layer '{layer.name}' cannot be translated: {unknown}",
                hint="give the same model as a torch module",
            ) from unknown
        _bind(node.outputs if len(node.outputs) > 1 else node.outputs[0], made, refs, builder)
    graph.answer = _replaced(model._outputs_struct, refs)  # noqa: SLF001 - the structure of the answer is nowhere else
    return graph


def _input_names(model: Any) -> list[str]:
    """Return the names by which a user gives inputs: the keys of a dict, else the input layers' own."""
    structure = model._inputs_struct  # noqa: SLF001 - see _graph
    if isinstance(structure, dict):
        by_tensor = {id(tensor): key for key, tensor in structure.items()}
        return [by_tensor[id(tensor)] for tensor in model.inputs]
    return [str(tensor._keras_history.operation.name) for tensor in model.inputs]  # noqa: SLF001 - as Keras does


def _nodes(model: Any) -> Iterator[Any]:
    """Yield the calls in the order of the forward."""
    by_depth = model._nodes_by_depth  # noqa: SLF001 - see _graph
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.is_input:
                yield node


def _replaced(thing: Any, refs: dict[int, Any]) -> Any:
    if id(thing) in refs:
        return refs[id(thing)]
    if isinstance(thing, tuple | list):
        return type(thing)(_replaced(item, refs) for item in thing)
    if isinstance(thing, dict):
        return {key: _replaced(item, refs) for key, item in thing.items()}
    return thing


def _bind(outputs: Any, made: Ref, refs: dict[int, Any], builder: Builder) -> None:
    if not isinstance(outputs, list | tuple):
        refs[id(outputs)] = made
        return
    for index, tensor in enumerate(outputs):
        refs[id(tensor)] = builder.apply(_item, made, index)


def _item(values: Any, index: int) -> Any:
    return list(values.values())[index] if isinstance(values, dict) else values[index]


def _called(to: Builder, layer: Any, args: tuple[Any, ...], call: dict[str, Any]) -> Ref:
    """Translate one call of a layer."""
    kind = type(layer).__name__
    own = type(layer).__module__.split(".")[0] == "keras"
    if hasattr(layer, "_nodes_by_depth") or getattr(layer, "_functional", None) is not None:
        inner = _functional(layer, layer.name)
        return to.module(layer.name, lambda: _graph(inner, to.notes, top=False, name=layer.name), *args)
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise UnknownLayerError(f"{kind} with quantised or LoRA weights")
    if own and kind == "TimeDistributed":
        return _each_time(to, layer, args[0], call)
    if own and kind in _KNOWN and hasattr(layer, "weights"):
        made: Ref = _KNOWN[kind](to, layer, layer.name, args, call)
        return made
    if not hasattr(layer, "weights"):  # an operation: x + y, keras.ops.relu(x)
        return to.apply(layer.call, *args, **call)
    told = "training" in inspect.signature(layer.call).parameters
    call = {key: value for key, value in call.items() if key not in {"training", "mask"}}
    return to.module(layer.name, lambda: Foreign(layer, told=told), *args, **call)


def _each_time(to: Builder, layer: Any, x: Ref, call: dict[str, Any]) -> Ref:
    """Fold time into rows, call the inner layer, and unfold."""
    kind = type(layer.layer).__name__
    if kind == "Dense":
        made: Ref = _KNOWN[kind](to, layer.layer, layer.name, (x,), call)
        return made
    folded = to.apply(torch.flatten, x, 0, 1)
    inner = layer.layer
    if kind not in _KNOWN or kind in SEQUENCES:
        raise UnknownLayerError(f"TimeDistributed around {kind}")
    out: Ref = _KNOWN[kind](to, inner, layer.name, (folded,), call)
    return to.apply(_unfold, out, x)


def _unfold(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(*like.shape[:2], *x.shape[1:])


def example_of(model: Any) -> Any:
    """Return random inputs of the shapes that the model declares: ids for embeddings, numbers elsewhere."""
    generator = torch.Generator().manual_seed(0)
    found = [_example(model, tensor, generator) for tensor in model.inputs]
    return found[0] if len(found) == 1 else tuple(found)


def _example(model: Any, tensor: Any, generator: torch.Generator) -> Tensor:
    open_axes = [size is None for size in tensor.shape[1:]]
    spare = _UNKNOWN_PLACES[min(max(sum(open_axes) - 1, 0), 3)]
    shape = [32 if sum(open_axes) == 0 else _ROWS, *(spare if size is None else size for size in tensor.shape[1:])]
    limit = _ids_below(model, tensor)
    if limit is not None:
        return torch.randint(min(1, limit - 1), limit, shape, generator=generator)
    if "int" in str(tensor.dtype):
        return torch.randint(0, 256, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def _ids_below(model: Any, tensor: Any) -> int | None:
    """Return the smallest table that an input is looked up in, through nested models."""
    found: list[int] = []
    for node in _nodes(model):
        if not any(item is tensor for item in node.input_tensors):
            continue
        layer = node.operation
        if type(layer).__name__ == "Embedding":
            found.append(int(layer.input_dim))
        elif type(layer).__name__ in {"InputLayer", "Reshape", "Flatten", "Cast", "Identity", "GetItem"}:
            found += [size for item in node.outputs if (size := _ids_below(model, item)) is not None]
        elif hasattr(layer, "_nodes_by_depth") or getattr(layer, "_functional", None) is not None:
            inner = _functional(layer, layer.name)
            place = next(index for index, item in enumerate(node.input_tensors) if item is tensor)
            size = _ids_below(inner, inner.inputs[min(place, len(inner.inputs) - 1)])
            found += [] if size is None else [size]
    return min(found, default=None)


def _prove(graph: KerasGraph, model: Any, name: str) -> None:
    """Compare both in inference mode; name the first layer that differs.

    Raises:
        NndiagError: They differ, or one cannot run.
    """
    example = graph.example_inputs
    inputs = [item[:_ROWS] for item in (example if isinstance(example, tuple) else (example,))]
    modes = [(module, module.training) for module in graph.modules()]
    stuck = [module for module in graph.modules() if isinstance(module, HardwiredDropout | HardwiredSpatialDropout)]
    rates = [module.p for module in stuck]
    try:
        with torch.no_grad():
            graph.eval()
            for dropout in stuck:  # training=False overrules them in Keras
                dropout.p = 0.0
            mine = tensors_in(graph.run(inputs)[1])
            theirs, again = (
                tensors_in(model(inputs if len(inputs) > 1 else inputs[0], training=False)) for _ in range(2)
            )
    except NndiagError:
        raise
    except Exception as error:
        raise NndiagError(
            f"{name}: the translated Keras model does not run: {said(error)}", hint="give it as a torch module"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
        for dropout, rate in zip(stuck, rates, strict=True):
            dropout.p = rate
    if not all(torch.equal(*pair) for pair in zip(theirs, again, strict=True)):
        return  # a layer of the user's own is random in every mode: nothing can be compared
    if len(mine) == len(theirs) and all(_close(*pair) for pair in zip(mine, theirs, strict=True)):
        return
    raise NndiagError(
        f"{name}: the translated Keras model computes something else, from '{_culprit(graph, model, inputs)}' on",
        hint="give the same model as a torch module",
    )


def _close(mine: Tensor, theirs: Tensor) -> bool:
    theirs = theirs.detach().cpu().to(mine.dtype)
    if mine.shape != theirs.shape:
        return False
    if not bool(torch.isfinite(theirs).all()):  # a model that overflows does so in both
        return torch.equal(torch.isfinite(mine), torch.isfinite(theirs))
    return (
        bool((mine - theirs).abs().max() <= _TOLERANCE * max(1.0, float(theirs.abs().max()))) if mine.numel() else True
    )


def _culprit(graph: KerasGraph, model: Any, inputs: list[Tensor]) -> str:
    """Return the first layer whose output is not among the values of the translation."""
    import keras

    nodes = [node for node in _nodes(model) if len(node.outputs) == 1]
    inner = keras.Model(model.inputs, [node.outputs[0] for node in nodes])
    with torch.no_grad():
        graph.eval()
        values = [item for value in graph.run(inputs)[0].values() for item in tensors_in(value)]
        graph.train()
        theirs = tensors_in(inner(inputs if len(inputs) > 1 else inputs[0], training=False))
    for node, expected in zip(nodes, theirs, strict=True):
        if not any(_close(value.float(), expected.float()) for value in values):
            return str(node.operation.name)
    return "its inputs"
