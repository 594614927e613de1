"""Which layer reads which argument of a forward, and what happens to it before? Read from a symbolic trace."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from nndiag.lab.forward import signature, unwrapped
from nndiag.lab.watch.followed import Move, Way, followed
from nndiag.lab.watch.stand_in import StandInTracer

_PARTS = {"shape", "ndim", "device", "dtype", "T", "mT", "data", "is_cuda", "requires_grad", "real", "imag"}


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor that a forward takes: where it comes from and which layer sees it first."""

    path: tuple[str | int, ...]  # ("obs", "image"): the argument, then keys, attributes or positions
    reader: nn.Module | None = None  # None: nothing that tells a shape
    role: str = "input"  # input | state (of a recurrent layer) | offsets (of bags) | sequence | columns
    moves: tuple[Move, ...] = ()
    attributes: bool = False  # parts are attributes (data.x), not keys (data["x"])
    columns: tuple[nn.Module, ...] = ()  # what reads each column of a table of ids


def read_forward(model: nn.Module) -> list[Read]:
    """Return what the forward takes, in the order of its arguments; empty where nothing can be traced.

    The forward is run on stand-ins, without numbers, and the model should be borrowed.

    Args:
        model: Any module; wrappers of compilation and data parallelism are seen through.
    """
    inner = unwrapped(model)
    tracer = StandInTracer()
    lists = [len(item) for item in inner.modules() if isinstance(item, nn.ModuleList) and len(item) > 1]
    tracer.parts = min(max(lists, default=2), 32)
    known = signature(inner)
    optional = {
        name: item.default
        for name, item in (known.parameters if known else {}).items()
        if item.default is not item.empty
    }
    graph = _traced(tracer, inner, optional)
    if graph is None:
        return []
    modules = dict(inner.named_modules())
    order = {node: index for index, node in enumerate(graph.nodes)}
    found: list[Read] = []
    for node in graph.nodes:
        if node.op == "placeholder" and str(node.target).removesuffix("_1") not in optional:
            found += _reads(Way(inner, modules, order), node, (str(node.target),))
    return found


def _traced(tracer: StandInTracer, model: nn.Module, optional: dict[str, Any]) -> fx.Graph | None:
    """Return the graph, unfinished where the forward could not be followed to its end."""
    try:
        return tracer.trace(model, concrete_args=optional or None)
    except Exception:  # noqa: BLE001 - any forward may fail on stand-ins; what was read until then counts
        graph = getattr(tracer, "graph", None)
        return graph if isinstance(graph, fx.Graph) else None


def _reads(way: Way, node: fx.Node, path: tuple[str | int, ...]) -> list[Read]:
    """Return the tensors inside one argument: itself, or the parts that are asked of it."""
    parts: dict[str | int, list[fx.Node]] = {}
    attributes = False
    positions = [user for user in node.users if user.target is operator.getitem and isinstance(user.args[1], int)]
    for user in node.users:
        key = _part(user, node)
        if isinstance(key, str):
            parts.setdefault(key, []).append(user)
            attributes |= user.target is getattr
        elif isinstance(key, int) and (_is_star(path) or len(positions) == len(node.users) > 1):
            parts.setdefault(key, []).append(user)
    if not parts or len(path) > 3:
        return [_read(way, [node], path)]
    if alike := _of_one_kind(way, parts, path):
        return [alike]
    found = []
    for key, nodes in parts.items():
        inner = [item for one in nodes for item in _reads(way, one, (*path, key))]
        best = next((item for item in inner if item.reader is not None), inner[0])
        deeper = [item for item in inner if len(item.path) > len(path) + 1]
        found += [replace(item, attributes=attributes or item.attributes) for item in deeper or [best]]
    return found


def _is_star(path: tuple[str | int, ...]) -> bool:
    """Whether an argument is *args."""
    return str(path[0]).startswith("*") and not str(path[0]).startswith("**")


def _of_one_kind(way: Way, parts: dict[str | int, list[fx.Node]], path: tuple[str | int, ...]) -> Read | None:
    """Return one tensor whose rows are read one by one by the same layer: it was iterated over."""
    if str(path[0]).startswith("*") or not all(isinstance(key, int) for key in parts) or len(parts) < 2:
        return None
    reads = [_read(way, nodes, path) for nodes in parts.values()]
    same = reads[0].reader is not None and all(item.reader is reads[0].reader for item in reads)
    return reads[0] if same else None


def _part(user: fx.Node, node: fx.Node) -> str | int | None:
    """Return the key, attribute or position that a step asks of a value."""
    if user.target is operator.getitem and user.args[0] is node and isinstance(user.args[1], str | int):
        return user.args[1]
    if user.target is getattr and user.args[0] is node and isinstance(user.args[1], str):
        return user.args[1] if user.args[1] not in _PARTS and not hasattr(Tensor, user.args[1]) else None
    if user.op == "call_method" and user.target in {"get", "pop"} and len(user.args) > 1:
        return user.args[1] if isinstance(user.args[1], str) else None
    return None


def _read(way: Way, nodes: list[fx.Node], path: tuple[str | int, ...]) -> Read:
    """Return the first layer, in the order of the forward, that a value reaches."""
    if columns := _columns(way, nodes):
        return Read(path, columns[0], "columns", columns=columns)
    best: tuple[int, nn.Module, str, tuple[Move, ...]] | None = None
    for order, reader, role, moves in followed(way, nodes):
        if best is None or order < best[0]:
            best = (order, reader, role, moves)
    if best is None:
        return Read(path)
    return Read(path, best[1], best[2], best[3])


def _columns(way: Way, nodes: list[fx.Node]) -> tuple[nn.Module, ...]:
    """Return the tables that read the columns of a matrix of ids one by one: x[:, 0] and so on."""
    found: dict[int, nn.Module] = {}
    for user in [user for node in nodes for user in node.users if user.target is operator.getitem]:
        index = user.args[1]
        if isinstance(index, tuple) and len(index) == 2 and index[0] == slice(None) and isinstance(index[1], int):
            reader = next((reader for _, reader, _, _ in followed(way, [user])), None)
            if isinstance(reader, nn.Embedding | nn.EmbeddingBag):
                found[index[1]] = reader
    return tuple(found[key] for key in sorted(found)) if sorted(found) == list(range(len(found))) else ()
