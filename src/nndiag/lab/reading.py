"""Which layer reads which argument of a forward, and what happens to it before? Read from a symbolic trace."""

from __future__ import annotations

import inspect
import linecache
import operator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from nndiag.lab.forward import signature, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

# What leaves shapes as they are: the reader of an argument is looked for behind it.
_SAME = {
    "float", "long", "int", "to", "type", "type_as", "half", "double", "bfloat16", "bool", "contiguous", "clone", "detach",
    "relu", "gelu", "tanh", "sigmoid", "silu", "leaky_relu", "elu", "softplus", "sin", "cos", "exp", "log", "log1p", "sqrt",
    "abs", "neg", "clamp", "dropout", "normalize", "layer_norm", "add", "sub", "mul", "truediv", "div", "pow", "iadd",
    "requires_grad_", "pin_memory", "cuda", "cpu", "square", "nan_to_num", "where", "rsub", "add_", "mul_", "sub_", "div_",
    "softmax", "log_softmax", "embedding_renorm", "masked_fill", "stack_keep", "batch_norm", "instance_norm",
}  # fmt: skip
_MOVES = {"permute", "transpose", "unsqueeze", "squeeze", "flatten", "view", "reshape", "movedim", "t", "swapaxes"}
_PARTS = {"shape", "ndim", "device", "dtype", "T", "mT", "data", "is_cuda", "requires_grad", "real", "imag"}
_JOINS = {"cat", "concat", "concatenate", "hstack"}
_FUNCTIONAL = {
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "embedding",
    "one_hot",
    "matmul",
    "bilinear",
    "mm",
    "embedding_bag",
}
_MOST = 4000  # nodes followed
_FX = str(Path(fx.__file__).parent)


@dataclass(frozen=True, slots=True)
class Move:
    """One change of shape between an argument and the layer that reads it."""

    kind: str  # permute, transpose, unsqueeze, squeeze, flatten, view
    numbers: tuple[int | None, ...] = ()  # None for a size that is only known when it runs


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor that a forward takes: where it comes from and which layer sees it first."""

    path: tuple[str | int, ...]  # ("obs", "image"): the argument, then keys, attributes or positions
    reader: nn.Module | None = None  # None: nothing that tells a shape
    role: str = "input"  # input | state (of a recurrent layer) | offsets (of bags) | sequence | columns
    moves: tuple[Move, ...] = ()
    attributes: bool = False  # parts are attributes (data.x), not keys (data["x"])
    columns: tuple[nn.Module, ...] = ()  # what reads each column of a table of ids


class _Stand(fx.Proxy):
    """A stand-in for a tensor whose sizes are one where a whole number is needed: loops over them run once."""

    def __index__(self) -> int:
        """Be one."""
        return 1

    def __int__(self) -> int:
        """Be one."""
        return 1

    def __float__(self) -> float:
        """Be one."""
        return 1.0

    def __len__(self) -> int:
        """Be one."""
        return 1


class _Tracer(fx.Tracer):
    """Traces as far as it goes: branches on values are not taken, parts that cannot be traced are one layer."""

    parts = 2  # how many items a list among the arguments has

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a stand-in."""
        return _Stand(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Take what is iterated over for a list."""
        return iter([obj[index] for index in range(self.parts)])  # type: ignore[index] - made by a metaprogram

    def to_bool(self, obj: fx.Proxy) -> bool:  # noqa: ARG002 - torch's own signature
        """Hold assertions true; take no branch that depends on the inputs."""
        frame = inspect.currentframe()
        while frame is not None and (frame.f_code.co_filename == __file__ or _FX in frame.f_code.co_filename):
            frame = frame.f_back
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""
        return line.strip().startswith("assert")

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module's inside; where that fails it is a single step."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # noqa: BLE001 - loops over values and the like in other people's forwards
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def read_forward(model: nn.Module) -> list[Read]:
    """Return what the forward takes, in the order of its arguments; empty where nothing can be traced.

    The forward is run on stand-ins, without numbers, and the model should be borrowed.

    Args:
        model: Any module; wrappers of compilation and data parallelism are seen through.
    """
    inner = unwrapped(model)
    tracer = _Tracer()
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
            found += _reads(_Way(inner, modules, order), node, (str(node.target),))
    return found


def _traced(tracer: _Tracer, model: nn.Module, optional: dict[str, Any]) -> fx.Graph | None:
    """Return the graph, unfinished where the forward could not be followed to its end."""
    try:
        return tracer.trace(model, concrete_args=optional or None)
    except Exception:  # noqa: BLE001 - any forward may fail on stand-ins; what was read until then counts
        graph = getattr(tracer, "graph", None)
        return graph if isinstance(graph, fx.Graph) else None


@dataclass(frozen=True, slots=True)
class _Way:
    """What is needed to follow a value through a graph."""

    model: nn.Module
    modules: dict[str, nn.Module]
    order: dict[fx.Node, int]


def _reads(way: _Way, node: fx.Node, path: tuple[str | int, ...]) -> list[Read]:
    """Return the tensors inside one argument: itself, or the parts that are asked of it."""
    parts: dict[str | int, list[fx.Node]] = {}
    attributes = False
    positions = [user for user in node.users if user.target is operator.getitem and isinstance(user.args[1], int)]
    for user in node.users:
        key = _part(user, node)
        if isinstance(key, str):
            parts.setdefault(key, []).append(user)
            attributes |= user.target is getattr
        elif (str(path[0]).startswith("*") and not str(path[0]).startswith("**")) or (
            len(positions) == len(node.users) and len(positions) > 1
        ):
            if isinstance(key, int):
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
        for item in deeper or [best]:
            found.append(replace(item, attributes=attributes or item.attributes))
    return found


def _of_one_kind(way: _Way, parts: dict[str | int, list[fx.Node]], path: tuple[str | int, ...]) -> Read | None:
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


def _read(way: _Way, nodes: list[fx.Node], path: tuple[str | int, ...]) -> Read:
    """Return the first layer, in the order of the forward, that a value reaches."""
    if columns := _columns(way, nodes):
        return Read(path, columns[0], "columns", columns=columns)
    best: tuple[int, nn.Module, str, tuple[Move, ...]] | None = None
    for order, reader, role, moves in _followed(way, nodes):
        if best is None or order < best[0]:
            best = (order, reader, role, moves)
    if best is None:
        return Read(path)
    return Read(path, best[1], best[2], best[3])


def _columns(way: _Way, nodes: list[fx.Node]) -> tuple[nn.Module, ...]:
    """Return the tables that read the columns of a matrix of ids one by one: x[:, 0] and so on."""
    found: dict[int, nn.Module] = {}
    for user in [user for node in nodes for user in node.users if user.target is operator.getitem]:
        index = user.args[1]
        if isinstance(index, tuple) and len(index) == 2 and index[0] == slice(None) and isinstance(index[1], int):
            reader = next((reader for _, reader, _, _ in _followed(way, [user])), None)
            if isinstance(reader, nn.Embedding | nn.EmbeddingBag):
                found[index[1]] = reader
    return tuple(found[key] for key in sorted(found)) if sorted(found) == list(range(len(found))) else ()


def _followed(way: _Way, nodes: list[fx.Node]) -> Iterator[tuple[int, nn.Module, str, tuple[Move, ...]]]:
    """Yield the layers that a value reaches, with the moves on the way."""
    queue: list[tuple[fx.Node, tuple[Move, ...], _Beside]] = [(node, (), _Beside()) for node in nodes]
    seen: set[fx.Node] = set(nodes)
    while queue and len(seen) < _MOST:
        node, moves, beside = queue.pop(0)
        for user in node.users:
            layer = _layer(way, user, node, beside)
            if layer is not None:
                yield way.order.get(user, 0), layer[0], layer[1], moves
                continue
            step = _step(way, user, node)
            if step is None or user in seen:
                continue
            seen.add(user)
            joined = _beside(way, user, node) if _word(user) in _JOINS and beside == _Beside() else beside
            queue.append((user, moves if step.kind == "same" else (*moves, step), joined))


def _word(user: fx.Node) -> str:
    """Return the plain name of a called function or method."""
    name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
    return name.strip("_") if user.op in {"call_function", "call_method"} else ""


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a concatenation puts beside a value: columns that layers fill, and other values of unknown width."""

    taken: int = 0
    others: int = 0
    place: int = 0  # of the value among those of unknown width

    def share(self, width: int) -> int:
        """Return the columns that are this value's own; colour images take three of their channels."""
        rest = max(width - self.taken, 1)
        if self.others == 1 and rest == 4:
            return 1 if self.place else 3
        each, left = divmod(rest, self.others + 1)
        return max(each + (self.place < left), 1)


def _layer(  # noqa: PLR0911 - one return for each kind of step
    way: _Way, user: fx.Node, node: fx.Node, beside: _Beside
) -> tuple[nn.Module, str] | None:
    """Return the layer that a step is, if its shapes say what it takes."""
    if user.op == "call_module":
        module = way.modules.get(str(user.target))
        return _of_module(module, user, node, beside) if module is not None else None
    word = _word(user)
    if word not in _FUNCTIONAL or not user.args:
        return None
    if word == "one_hot":
        count = user.args[1] if len(user.args) > 1 else user.kwargs.get("num_classes")
        return (_ids(count), "input") if isinstance(count, int) and count > 0 else None
    tensors = [item for item in (*user.args, *user.kwargs.values()) if isinstance(item, fx.Node)]
    weight = next((value for item in tensors if (value := _constant(way, item)) is not None and item is not node), None)
    if weight is None or weight.dim() < 2:
        return None
    if word in {"matmul", "mm"}:
        return _linear(beside.share(weight.shape[-2])), "input"
    if word in {"embedding", "embedding_bag"}:
        return _ids(weight.shape[0]), "input"
    if word == "linear":
        return _linear(beside.share(weight.shape[1])), "input"
    return _conv(weight.dim() - 2, beside.share(weight.shape[1] * int(_option(user, "groups", 6, 1)))), "input"


def _of_module(  # noqa: PLR0911 - one return for each kind of layer
    module: nn.Module, user: fx.Node, node: fx.Node, beside: _Beside
) -> tuple[nn.Module, str] | None:
    """Return the layer as it looks to this one of its arguments."""
    place = next((index for index, item in enumerate(user.args) if item is node), None)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and place != 0:
        return module, "state"
    if isinstance(module, nn.EmbeddingBag) and place != 0:
        return module, "offsets"
    if isinstance(module, nn.Bilinear):
        return _linear(module.in2_features if place else module.in1_features), "input"
    if isinstance(module, nn.MultiheadAttention):
        width = {0: module.embed_dim, 1: module.kdim, 2: module.vdim}.get(place if place is not None else 0)
        return (_linear(int(width)), "input") if width else None
    if isinstance(module, nn.Transformer | nn.TransformerDecoder | nn.TransformerEncoder | nn.TransformerDecoderLayer):
        inner = next((item for item in module.modules() if isinstance(item, nn.MultiheadAttention)), None)
        return (_linear(inner.embed_dim), "sequence") if inner is not None and place in {0, 1} else None
    if isinstance(module, nn.Linear) and beside != _Beside():
        return _linear(beside.share(module.in_features)), "input"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and beside != _Beside():
        return _conv(len(module.kernel_size), beside.share(module.in_channels)), "input"
    names = (
        "in_features",
        "in_channels",
        "num_embeddings",
        "input_size",
        "num_features",
        "d_model",
        "embed_dim",
        "normalized_shape",
    )
    if any(hasattr(module, name) for name in names):
        return module, "input"
    if type(module).__module__.startswith("torch.nn") or place != 0:
        return None
    inside = (item for item in module.modules() if any(hasattr(item, name) for name in names))
    first = next(inside, None)
    return (first, "input") if first is not None else None


def _step(way: _Way, user: fx.Node, node: fx.Node) -> Move | None:  # noqa: PLR0911 - one return for each kind
    """Return how a step changes the shape; None where it cannot be followed."""
    if user.op == "call_module":
        module = way.modules.get(str(user.target))
        if isinstance(module, nn.Flatten):
            return Move("flatten", (module.start_dim,))
        if isinstance(module, nn.Unflatten):
            sizes = module.unflattened_size
            return Move("view", (None, *(int(size) for size in sizes if isinstance(size, int))))
        plain = module is not None and not any(True for _ in module.parameters())
        return (
            Move("same")
            if plain and type(module).__module__.startswith("torch.nn.modules") and "ool" not in type(module).__name__
            else None
        )
    word = _word(user)
    if word in _SAME or word in _JOINS:
        return Move("same")
    if word in _MOVES and user.args and user.args[0] is node:
        return _move(word, user)
    if user.target is operator.getitem and isinstance(user.args[1], tuple):
        new = [index for index, item in enumerate(user.args[1]) if item is None]
        whole = all(item is None or item is Ellipsis or isinstance(item, slice) for item in user.args[1])
        if not whole or len(new) > 1:
            return None
        return Move("unsqueeze", (new[0],)) if new else Move("same")
    if user.target is operator.getitem and user.args[1] is None:
        return Move("unsqueeze", (0,))
    return None


def _move(word: str, user: fx.Node) -> Move:
    rest = user.args[1:] or tuple(user.kwargs.values())
    if len(rest) == 1 and isinstance(rest[0], tuple | list):
        rest = tuple(rest[0])
    numbers = tuple(item if isinstance(item, int) else None for item in rest)
    if word in {"t", "swapaxes", "transpose"}:
        return Move("transpose", numbers or (0, 1))
    if word == "movedim":
        return Move("movedim", numbers)
    if word in {"view", "reshape"}:
        return Move("view", tuple(None if item == -1 else item for item in numbers))
    if word == "flatten":
        return Move("flatten", numbers or (0,))
    return Move(word, numbers)


def _beside(way: _Way, user: fx.Node, node: fx.Node) -> _Beside:
    """Return what else a concatenation joins, as far as layers tell."""
    parts = user.args[0] if user.args else user.kwargs.get("tensors")
    if not isinstance(parts, tuple | list):
        return _Beside()
    taken = others = place = 0
    for item in parts:
        if item is node or not isinstance(item, fx.Node):
            place = others
            continue
        width = _width(way, item)
        taken += width
        others += not width and _is_argument(item)
    return _Beside(taken, others, place)


def _is_argument(node: fx.Node) -> bool:
    """Whether a value is an argument, or part of one, with nothing but its shape changed."""
    for _ in range(10):
        if node.op == "placeholder":
            return True
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or not (
            node.op == "call_method" or node.target in {operator.getitem, getattr}
        ):
            return False
        node = before
    return False


def _width(way: _Way, node: fx.Node) -> int:
    """Return the last size (channels of a convolution) of a value, 0 where nothing tells."""
    for _ in range(30):
        if node.op == "call_module":
            module = way.modules.get(str(node.target))
            for name in ("out_features", "embedding_dim", "out_channels", "hidden_size"):
                size = getattr(module, name, None)
                if isinstance(size, int):
                    return size * (2 if getattr(module, "bidirectional", False) is True else 1)
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node):
            return 0
        node = before
    return 0


def _constant(way: _Way, node: fx.Node) -> Tensor | None:
    """Return the parameter or buffer that a step fetches, through transposition."""
    if node.op == "get_attr":
        thing: Any = way.model
        for part in str(node.target).split("."):
            thing = getattr(thing, part, None)
        return thing if isinstance(thing, Tensor) else None
    if _word(node) in {"t", "transpose"} or (
        node.target is getattr and len(node.args) > 1 and node.args[1] in {"T", "mT"}
    ):
        inner = _constant(way, node.args[0]) if isinstance(node.args[0], fx.Node) else None
        return inner.detach().transpose(-1, -2) if inner is not None and inner.dim() > 1 else None
    return None


def _option(user: fx.Node, name: str, place: int, otherwise: Any) -> Any:
    value = user.kwargs.get(name, user.args[place] if len(user.args) > place else otherwise)
    return value if isinstance(value, int) else otherwise


def _linear(width: int) -> nn.Module:
    return nn.Linear(max(width, 1), 1, device="meta")


def _ids(count: int) -> nn.Module:
    return nn.Embedding(max(int(count), 1), 1, device="meta")


def _conv(axes: int, channels: int) -> nn.Module:
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    return kinds[axes](max(channels, 1), 1, 1, device="meta")
