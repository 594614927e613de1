"""Which layer of a Keras model is called with what: read from its graph, or found by following its `call`."""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Outline:
    """A graph of calls."""

    inputs: tuple[Any, ...]  # symbolic
    input_names: tuple[str, ...]
    nodes: tuple[Any, ...]  # in the order of the forward
    answer: Any  # symbolic, in the structure in which it is returned
    modes: Mapping[int, bool] = field(default_factory=dict)  # by id of node: called in this mode whatever the model's
    names: Mapping[int, str] = field(default_factory=dict)  # by id of layer, where its own name says nothing
    overruled: bool = False  # whether training= of the outermost call wins over a layer's own

    def name_of(self, layer: Any) -> str:
        """Return the name under which a layer is reported."""
        return self.names.get(id(layer), str(layer.name))


def has_graph(model: Any) -> bool:
    """Whether Keras keeps a graph of this model: Functional, or Sequential with a shape."""
    return hasattr(model, "_nodes_by_depth") or getattr(model, "_functional", None) is not None


def read_graph(model: Any) -> Outline:
    """Return the outline of a model that has a graph."""
    model = model if hasattr(model, "_nodes_by_depth") else model._functional  # noqa: SLF001 - a Sequential's graph
    nodes = tuple(_ordered(model))
    stuck = {id(node): True for node in nodes if node.arguments.kwargs.get("training") is True}
    names = _input_names(model)
    return Outline(tuple(model.inputs), names, nodes, model._outputs_struct, stuck, overruled=True)  # noqa: SLF001 - only there


def _ordered(graph: Any) -> Iterator[Any]:
    by_depth = graph._nodes_by_depth  # noqa: SLF001 - the order of the forward is nowhere else
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def _input_names(model: Any) -> tuple[str, ...]:
    """Return the names by which a user gives inputs: the keys of a dict, else the input layers' own."""
    structure = model._inputs_struct  # noqa: SLF001 - see read_graph
    if isinstance(structure, dict):
        by_tensor = {id(tensor): key for key, tensor in structure.items()}
        return tuple(by_tensor[id(tensor)] for tensor in model.inputs)
    return tuple(str(tensor._keras_history.operation.name) for tensor in model.inputs)  # noqa: SLF001 - as Keras does


def follow(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Mapping[int, str]) -> Outline | None:
    """Follow the `call` of a user's own layer or model with symbolic inputs, once in each mode.

    Args:
        layer: Built.
        args: What it is called with; symbolic tensors anywhere inside.
        kwargs: By keyword, without `training`.
        names: Of the inputs, by id.

    Returns:
        None where its code cannot be followed: it branches on values or on the mode, or computes outside Keras.
    """
    tensors = tuple(symbolic_in((args, dict(kwargs))))
    before = [(variable, variable.value.detach().clone()) for variable in layer.non_trainable_variables]
    try:
        runs = {mode: _nodes_in(layer, args, kwargs, tensors, mode=mode) for mode in (False, True)}
    except Exception:  # noqa: BLE001 - whatever the user's code or Keras raises on symbols
        runs = {}
    unchanged = True
    for variable, value in before:
        if not torch.equal(variable.value, value):
            variable.assign(value)
            unchanged = False
    if not runs or not unchanged:
        return None
    (nodes, answer), (trained, _) = runs[False], runs[True]
    if [_shape_of(node) for node in nodes] != [_shape_of(node) for node in trained]:
        return None
    if any(_is_made(leaf) for node in nodes for leaf in _leaves((node.arguments.args, node.arguments.kwargs))):
        return None
    modes = {}
    for node, twin in zip(nodes, trained, strict=True):
        quiet, loud = node.arguments.kwargs.get("training"), twin.arguments.kwargs.get("training")
        if quiet is True and loud is True:
            modes[id(node)] = True
        elif loud is False:
            modes[id(node)] = False
    given = tuple(names.get(id(tensor), str(tensor.name)) for tensor in tensors)
    return Outline(tensors, given, tuple(nodes), answer, modes, attribute_names(layer))


def _nodes_in(
    layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: tuple[Any, ...], *, mode: bool
) -> tuple[list[Any], Any]:
    """Return the calls made in one mode, and the answer."""
    import keras

    told = {"training": mode} if "training" in inspect.signature(layer.call).parameters else {}
    answers: list[Any] = []

    class Surroundings(keras.Layer):  # type: ignore[misc]
        """Gives inner layers the mode that they inherit from the layer around them."""

        def call(self, x: Any, training: bool | None = None) -> Any:  # noqa: ARG002 - as Keras calls it
            answers.append(layer.call(*args, **kwargs, **told))
            return x

    Surroundings()(keras.ops.zeros((1,)), training=mode)
    answer = answers[0]
    graph = keras.Function(list(tensors), list(symbolic_in(answer)))
    return list(_ordered(graph)), answer


def symbolic_in(thing: Any) -> Iterator[Any]:
    """Yield the symbolic tensors in a structure."""
    return (leaf for leaf in _leaves(thing) if type(leaf).__name__ == "KerasTensor")


def replaced(thing: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with every leaf changed."""
    if isinstance(thing, tuple | list):
        return type(thing)(replaced(item, change) for item in thing)
    if isinstance(thing, dict):
        return {key: replaced(item, change) for key, item in thing.items()}
    return change(thing)


def _shape_of(node: Any) -> Any:
    """Return what must be the same in both modes for the forward to be one graph."""
    layer = node.operation
    who = id(layer) if hasattr(layer, "weights") else type(layer).__name__
    said = {key: value for key, value in node.arguments.kwargs.items() if key not in {"training", "mask"}}
    return who, repr([_plain(leaf) for leaf in _leaves((node.arguments.args, said))])


def _plain(leaf: Any) -> Any:
    """Return what can be compared of a value that code wrote: numbers drawn anew differ from trace to trace."""
    if isinstance(leaf, torch.Tensor):
        return tuple(leaf.shape), leaf.detach().cpu().numpy().tobytes()
    return repr(leaf) if isinstance(leaf, int | float | str | None) else None


def _is_made(leaf: Any) -> bool:
    """Whether a constant was computed from weights: as a constant it would never be trained."""
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad and not leaf.is_leaf


def _leaves(thing: Any) -> Iterator[Any]:
    if isinstance(thing, tuple | list):
        for item in thing:
            yield from _leaves(item)
    elif isinstance(thing, dict):
        for item in thing.values():
            yield from _leaves(item)
    else:
        yield thing


def attribute_names(layer: Any) -> dict[int, str]:
    """Name inner layers after the attributes that hold them, where Keras made up a name such as dense_3."""
    found: dict[int, str] = {}
    for key, value in {**vars(layer), **layer._modules}.items():  # noqa: SLF001 - torch moves layers there
        if not key.startswith("_"):
            _collect(key, value, found)
    return found


def _collect(path: str, value: Any, found: dict[int, str]) -> None:
    if hasattr(value, "weights") and hasattr(value, "call"):
        made_up = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(value).__name__).lower()
        if re.fullmatch(rf"{re.escape(made_up)}(_\d+)?", str(value.name).lower()):
            found.setdefault(id(value), path)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _collect(f"{path}/{index}", item, found)
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(f"{path}/{key}", item, found)


@contextmanager
def leaving_no_trace(model: Any) -> Iterator[None]:
    """Take back the calls that following a model records in its layers."""
    layers = list(model._flatten_layers())  # noqa: SLF001 - lists and dicts of layers included, unlike model.layers
    kept = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]  # noqa: SLF001 - as above
    try:
        yield
    finally:
        for layer, inbound, outbound in kept:
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]  # noqa: SLF001 - as above
