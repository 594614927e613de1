"""What does one forward pass ask of the tables? Lookups, ids, one-hot products, weights used twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nndiag.lab.borrow import seeded
from nndiag.lab.embedding.onehot import KEEPS, SMALLEST_ONE_HOT, HotTensors, looks_one_hot
from nndiag.lab.embedding.tables import is_bare
from nndiag.lab.forward import as_tensors, call, mapped, tensors_in
from nndiag.lab.uncompiled import uncompiled

_PRODUCTS = frozenset(
    {"linear", "matmul", "mm", "bmm", "__matmul__", "addmm", "einsum", "lstm", "gru", "rnn_tanh", "rnn_relu"}
)
SMALLEST_BARE = 1024  # rows from which an indexed parameter is a table: position biases are indexed, too


@dataclass
class Use:
    """Lookups of one table in one forward pass."""

    name: str
    rows: int
    lookups: int = 0
    calls: int = 0
    learns: bool = False  # some lookup was made with gradients switched on
    sparse: bool = False  # F.embedding was told so
    padding: int | None = None
    pooled: int = 0  # vectors that are at once averaged or summed into one: what an EmbeddingBag does without them
    as_matrix: bool = False  # also multiplied: its gradient is dense whatever `sparse` says
    below: int = 0  # ids under 0
    above: int = 0  # ids at or above V
    offenders: tuple[int, ...] = ()
    ids: list[Tensor] = field(default_factory=list)  # flattened, where they are real numbers
    asked: list[Tensor] = field(default_factory=list)  # the same with those outside the table
    sources: list[int] = field(default_factory=list)  # identities of the id tensors


@dataclass(frozen=True, slots=True)
class OneHot:
    """A one-hot matrix that was multiplied."""

    weight: str  # parameter that it selects rows or columns of
    classes: int
    outputs: int
    lookups: int


class LookupWatch(TorchFunctionMode):
    """Watches lookups and products while a model runs; ids outside their table are counted and folded back inside.

    Args:
        model: Whose parameters are named.
        rows: Rows that the tables have in truth, by name, where the model at hand is a shrunk copy.
        real: The numbers behind meta inputs, by identity.
    """

    def __init__(
        self, model: nn.Module, rows: dict[str, int] | None = None, real: dict[int, Tensor] | None = None
    ) -> None:
        super().__init__()
        self._real = real or {}
        self._kept: list[Tensor] = []  # alive as long as the watch, so that identities stay true
        self._names = {id(value): name for name, value in model.named_parameters()}
        self._rows = rows or {}
        self._hot = HotTensors(model)
        self._vectors: dict[int, tuple[Tensor, str]] = {}  # fresh from a lookup
        self._tables: dict[int, tuple[Tensor, str]] = {}
        self.uses: dict[str, Use] = {}
        self.one_hot: list[OneHot] = []
        self.flops = 0  # of the forward pass
        self.touched: set[str] = set()  # parameters that any function was given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, having looked at it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = {self._names[id(item)] for item in _leaves(args, kwargs) if id(item) in self._names}
        if func in (functional.embedding, functional.embedding_bag):
            args = self._lookup(args, kwargs)
        elif (picked := self._picked(name, args)) is not None:
            self._note(*picked)
        elif name in _PRODUCTS:
            self._product(args)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor | tuple | list):  # anything else only asked for its device or dtype
            self.touched |= given
        if func is functional.embedding:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self._vectors[id(result)] = (result, self._names.get(id(weight), ""))
        elif name in {"mean", "sum"} and args and id(args[0]) in self._vectors:
            self._pool(*self._vectors[id(args[0])], args[1] if len(args) > 1 else kwargs.get("dim"))
        self._follow(func, name, args, result)
        return result

    def _pool(self, vectors: Tensor, name: str, axis: Any) -> None:
        axis = axis[0] if isinstance(axis, tuple | list) and len(axis) == 1 else axis
        if name in self.uses and vectors.dim() == 3 and axis in {1, -2}:
            self.uses[name].pooled = vectors.shape[1]

    def mark_one_hot(self, tensor: Tensor) -> None:
        """Take this input as one-hot vectors."""
        self._hot.mark(tensor)

    def _picked(self, name: str, args: Any) -> tuple[str, Tensor, Tensor] | None:
        """Return name, weight and ids of `weight[ids]` and of `index_select`; None for anything else."""
        if len(args) < 2 or not isinstance(args[0], Tensor) or args[0].dim() != 2:
            return None
        known = self._names.get(id(args[0]))
        index = args[1] if name == "__getitem__" else args[2] if name == "index_select" and args[1:2] == (0,) else None
        if known is None or not isinstance(index, Tensor) or args[0].shape[0] < SMALLEST_BARE:
            return None
        return None if index.dtype == torch.bool or index.is_floating_point() else (known, args[0], index)

    def _lookup(self, args: Any, kwargs: Any) -> Any:
        ids, weight, *rest = args if len(args) > 1 else (args[0], kwargs["weight"])
        name = self._names.get(id(weight))
        if name is None or not isinstance(ids, Tensor):
            return args
        outside = self._note(name, weight, ids)
        use = self.uses[name]
        use.sparse |= bool(kwargs.get("sparse", rest[3] if len(rest) > 3 else False))
        use.padding = kwargs.get("padding_idx", rest[0] if rest else None)
        if not outside:
            return args
        inside = ids.remainder(weight.shape[0])
        return (inside, weight, *rest) if len(args) > 1 else (inside,)

    def _note(self, name: str, weight: Tensor, ids: Tensor) -> bool:
        """Count a lookup and say whether real ids may have to be folded."""
        true_rows = self._rows.get(name, weight.shape[0])
        use = self.uses.setdefault(name, Use(name, true_rows))
        self._tables[id(weight)] = (weight, name)
        use.calls += 1
        use.learns |= torch.is_grad_enabled()
        use.lookups += ids.numel()
        known = self._real.get(id(ids)) if ids.is_meta else ids
        use.sources.append(id(ids if known is None else known))
        if known is None or ids.numel() == 0:
            return False
        flat = known.detach().reshape(-1)
        outside = (flat < 0) | (flat >= true_rows)
        if bool(outside.any()):
            use.below += int((flat < 0).sum())
            use.above += int((flat >= true_rows).sum())
            use.offenders = (*use.offenders, *flat[outside][:5].tolist())[:5]
        use.asked.append(flat.to("cpu", torch.int64))
        use.ids.append(use.asked[-1][~outside.cpu()])
        return not ids.is_meta

    def _product(self, args: Any) -> None:
        tensors = [item for item in args if isinstance(item, Tensor)]
        for item in args:
            if isinstance(item, tuple | list):
                tensors += [leaf for leaf in item if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if id(tensor) in self._tables:
                self.uses[self._tables[id(tensor)][1]].as_matrix = True
        hot = next((item for item in tensors if item in self._hot), None)
        if hot is None or hot.shape[-1] < SMALLEST_ONE_HOT:
            return
        classes = hot.shape[-1]
        for tensor in tensors:
            name = self._names.get(id(tensor))
            if name is not None and tensor.dim() == 2 and classes in tensor.shape:
                outputs = tensor.numel() // classes
                self.one_hot.append(OneHot(name, classes, outputs, hot.numel() // classes))
                return

    def _follow(self, func: Any, name: str, args: Any, result: Any) -> None:
        self._hot.follow(func, name, args, result)
        if not isinstance(result, Tensor) or name not in KEEPS or not args or not isinstance(args[0], Tensor):
            return
        behind = self._real.get(id(args[0]))
        if behind is not None and result.numel() == behind.numel() and not result.is_floating_point():
            self._real[id(result)] = behind  # the same numbers in another shape or integer type
            self._kept.append(result)
        source = self._tables.get(id(args[0]))
        own = self._names.get(id(args[0]))
        if source is not None:
            self._tables[id(result)] = (result, source[1])
        elif own is not None and args[0].dim() == 2 and name in {"t", "T", "transpose", "permute", "__get__"}:
            self._names[id(result)] = own
            self._kept.append(result)


def _leaves(args: Any, kwargs: Any) -> list[Any]:
    """Arguments, and what lies in lists among them."""
    found: list[Any] = []
    for item in (*args, *kwargs.values()):
        found += item if isinstance(item, tuple | list) else [item]
    return found


def watch_forward(model: nn.Module, inputs: Any, rows: dict[str, int] | None = None) -> LookupWatch:
    """Run one forward pass and return what was asked of the tables.

    Args:
        model: Real, shrunk or on the meta device.
        inputs: Real numbers, as `lab.forward.call` takes them; a meta model gets their shapes.
        rows: True rows by parameter name, for a shrunk model.

    Raises:
        NndiagError: When the forward fails.
    """
    inputs = as_tensors(inputs)
    real: dict[int, Tensor] = {}
    if is_bare(model):
        kept: list[Tensor] = []

        def bare(tensor: Tensor) -> Tensor:
            shadow = tensor.to("meta")
            kept.append(shadow)  # identities last as long as the tensors
            if not tensor.is_floating_point():
                real[id(shadow)] = tensor
            if looks_one_hot(tensor):
                hot.append(shadow)
            return shadow

        hot: list[Tensor] = []
        inputs = mapped(inputs, bare)
    else:
        hot = [tensor for tensor in tensors_in(inputs) if looks_one_hot(tensor)]
    watch = LookupWatch(model, rows, real)
    for tensor in hot:
        watch.mark_one_hot(tensor)
    graphs = is_bare(model)  # a graph without numbers costs nothing, and shows what the model itself keeps out of it
    with seeded(0), torch.set_grad_enabled(graphs), uncompiled(), watch:
        call(model, inputs)
    if not graphs:
        for use in watch.uses.values():
            use.learns = True  # not known otherwise
    return watch


def folded(inputs: Any, watch: LookupWatch, rows: dict[str, int]) -> Any:
    """Return the inputs with every id that a table looked up directly folded into that table's rows.

    Args:
        inputs: The very tensors that were watched.
        watch: What was seen.
        rows: Rows of each table by parameter name, in the model that will run.
    """
    bound: dict[int, int] = {}
    for use in watch.uses.values():
        for source in use.sources:
            bound[source] = min(bound.get(source, 2**62), rows.get(use.name, use.rows))

    def fold(tensor: Tensor) -> Tensor:
        limit = bound.get(id(tensor))
        if limit is None and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            alike = [rows.get(use.name, use.rows) for use in watch.uses.values() if tensor.numel() == use.lookups]
            limit = max(alike, default=None)
        return tensor if limit is None else tensor.remainder(limit)

    return mapped(inputs, fold)
