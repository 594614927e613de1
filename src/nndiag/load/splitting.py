"""Which part of an item is input and which is target? As training code would have it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.core.subject import Batch

if TYPE_CHECKING:
    from torch import nn

TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a forward takes: names by keyword, how many positional arguments it needs and allows."""

    names: frozenset[str] = frozenset()
    needed: int = 1
    allowed: int = 1
    anything: bool = False  # **kwargs


def shape_of(model: nn.Module | None) -> Shape:
    """Return the arguments of a model's forward."""
    if model is None:
        return Shape()
    from nndiag.lab.forward import signature

    known = signature(model)
    if known is None:
        return Shape(anything=True)
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    plain = [item for item in known.parameters.values() if item.kind in positional]
    kinds = {item.kind for item in known.parameters.values()}
    several = inspect.Parameter.VAR_POSITIONAL in kinds
    named = {
        item.name for item in known.parameters.values() if item.kind not in {item.VAR_POSITIONAL, item.VAR_KEYWORD}
    }
    needed = sum(item.default is inspect.Parameter.empty for item in plain)
    return Shape(frozenset(named), needed, 99 if several else len(plain), inspect.Parameter.VAR_KEYWORD in kinds)


def split(item: Any, shape: Shape) -> Batch:  # noqa: PLR0911 - one return for each kind of item
    """Return inputs and targets of one item of a loader or dataset.

    A pair is (inputs, targets), unless the forward needs two arguments. Of longer tuples the last part is the target,
    unless the forward needs them all. In a mapping `labels`, `targets` or `y` is the target; what is left is passed
    by keyword where the forward knows a key, as a single argument where only one key is left.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Mapping):
        return _split_mapping(item, shape)
    if isinstance(item, tuple | list) and not hasattr(item, "data"):  # a PackedSequence is one input
        parts = list(item)
        if len(parts) == 1:
            return split(parts[0], shape) if isinstance(parts[0], Mapping | tuple | list) else Batch(parts[0])
        if len(parts) == 2 and shape.needed < 2:
            return _with_mapping(parts[0], parts[1], shape)
        if len(parts) == 2 and isinstance(parts[0], Mapping) and set(map(str, parts[0])) <= shape.names:
            return _with_mapping(parts[0], parts[1], shape)  # ({"a": a, "b": b}, y) for a forward of a and b
        if len(parts) == 2 and isinstance(parts[0], tuple | list) and len(parts[0]) == shape.needed:
            return _with_mapping(parts[0], parts[1], shape)  # ((a, b), y) for a forward of a and b
        if len(parts) >= 2:
            if shape.needed == len(parts) and shape.needed > 1:
                return Batch(tuple(parts))
            head = parts[:-1]
            return _with_mapping(head[0], parts[-1], shape) if len(head) == 1 else Batch(tuple(head), parts[-1])
    return Batch(item, getattr(item, "y", None) if hasattr(item, "edge_index") else None)


def _with_mapping(inputs: Any, targets: Any, shape: Shape) -> Batch:
    """Keep (dict, y) and ((a, b), y) as they are; a list of tensors is several arguments."""
    if isinstance(inputs, Mapping):
        return Batch(_narrowed(inputs, shape), targets)
    return Batch(tuple(inputs) if isinstance(inputs, list) else inputs, targets)


def _split_mapping(item: Mapping[str, Any], shape: Shape) -> Batch:
    key = next((name for name in TARGET_KEYS if name in item), None)
    if key in shape.names and key not in {"labels", "label", "targets", "target"}:
        key = None  # a forward with an argument called y: it is an input
    targets = item[key] if key is not None else None
    rest: Any = {name: value for name, value in item.items() if name != key}
    if type(item) is not dict and key is None:
        rest = item
    return Batch(_narrowed(rest, shape), targets)


def _narrowed(inputs: Mapping[str, Any], shape: Shape) -> Any:
    """Return the single value of a mapping whose key the forward does not know."""
    if len(inputs) == 1 and not shape.anything and not shape.names & set(map(str, inputs)):
        return next(iter(inputs.values()))
    return inputs
