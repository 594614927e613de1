"""A value on its way through a traced forward: which layers does it reach, and how is its shape moved before?"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

# What leaves shapes as they are: the reader of an argument is looked for behind it.
_SAME = {
    "float", "long", "int", "to", "type", "type_as", "half", "double", "bfloat16", "bool", "contiguous",
    "clone", "detach", "relu", "gelu", "tanh", "sigmoid", "silu", "leaky_relu", "elu", "softplus", "sin", "cos",
    "exp", "log", "log1p", "sqrt", "abs", "neg", "clamp", "dropout", "normalize", "layer_norm", "add", "sub",
    "mul", "truediv", "div", "pow", "iadd", "requires_grad_", "pin_memory", "cuda", "cpu", "square",
    "nan_to_num", "where", "rsub", "softmax", "log_softmax", "masked_fill", "batch_norm", "instance_norm",
}  # fmt: skip
_MOVES = {"permute", "transpose", "unsqueeze", "squeeze", "flatten", "view", "reshape", "movedim", "t", "swapaxes"}
_JOINS = {"cat", "concat", "concatenate", "hstack"}
_FUNCTIONAL = {
    "linear", "conv1d", "conv2d", "conv3d", "embedding", "embedding_bag", "one_hot", "matmul", "mm", "bilinear",
}  # fmt: skip
_SIZED = (
    "in_features", "in_channels", "num_embeddings", "input_size", "num_features", "d_model", "embed_dim",
    "normalized_shape",
)  # fmt: skip
_MOST = 4000  # nodes followed


@dataclass(frozen=True, slots=True)
class Move:
    """One change of shape between an argument and the layer that reads it."""

    kind: str  # permute, transpose, unsqueeze, squeeze, flatten, view
    numbers: tuple[int | None, ...] = ()  # None for a size that is only known when it runs


@dataclass(frozen=True, slots=True)
class Way:
    """What is needed to follow a value through a graph."""

    model: nn.Module
    modules: dict[str, nn.Module]
    order: dict[fx.Node, int]


def followed(way: Way, nodes: list[fx.Node]) -> Iterator[tuple[int, nn.Module, str, tuple[Move, ...]]]:
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
            joined = _beside(way, user, node) if word_of(user) in _JOINS and beside == _Beside() else beside
            queue.append((user, moves if step.kind == "same" else (*moves, step), joined))


def word_of(user: fx.Node) -> str:
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
    way: Way, user: fx.Node, node: fx.Node, beside: _Beside
) -> tuple[nn.Module, str] | None:
    """Return the layer that a step is, if its shapes say what it takes."""
    if user.op == "call_module":
        module = way.modules.get(str(user.target))
        return _of_module(module, user, node, beside) if module is not None else None
    word = word_of(user)
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
    if any(hasattr(module, name) for name in _SIZED):
        return module, "input"
    if type(module).__module__.startswith("torch.nn") or place != 0:
        return None
    inside = (item for item in module.modules() if any(hasattr(item, name) for name in _SIZED))
    first = next(inside, None)
    return (first, "input") if first is not None else None


def _step(way: Way, user: fx.Node, node: fx.Node) -> Move | None:  # noqa: PLR0911 - one return for each kind
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
    word = word_of(user)
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


def _beside(way: Way, user: fx.Node, node: fx.Node) -> _Beside:
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


def _width(way: Way, node: fx.Node) -> int:
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


def _constant(way: Way, node: fx.Node) -> Tensor | None:
    """Return the parameter or buffer that a step fetches, through transposition."""
    if node.op == "get_attr":
        thing: Any = way.model
        for part in str(node.target).split("."):
            thing = getattr(thing, part, None)
        return thing if isinstance(thing, Tensor) else None
    if word_of(node) in {"t", "transpose"} or (
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
