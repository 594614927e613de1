"""How often does one optimizer step read or write something as large as the table?

A pass is one full read or one full write of a tensor as large as the watched one. Counting them at the dispatcher works
for every optimizer, the user's own included, and needs only a table of a few rows: the count does not depend on
the size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves

from nndiag.lab.uncompiled import PlainMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# These overwrite their first argument without reading it.
BLIND = frozenset({"zero_", "fill_", "copy_", "_foreach_zero_", "_foreach_copy_", "uniform_", "normal_"})
MAKERS = frozenset({"zeros_like", "ones_like", "full_like", "rand_like", "randn_like"})  # only the shape counts
PROBE_ROWS, PROBE_DIM = 32, 8


@dataclass(frozen=True, slots=True)
class TableOp:
    """One operation on table-sized tensors: how many it read, wrote in place and wrote afresh."""

    name: str
    reads: int
    writes: int
    fresh: int  # outputs in new memory: the first touch of every page is a page fault on a CPU

    @property
    def passes(self) -> int:
        """Reads plus writes, in units of the table."""
        return self.reads + self.writes + self.fresh


@dataclass
class TrafficCounter(PlainMode):
    """Records every operation that touches at least `numel` elements of one tensor.

    Args:
        numel: Size of the watched tensors in elements; smaller ones (step counters, scalars) are ignored.
    """

    numel: int
    ops: list[TableOp] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start the mode itself."""
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it read and wrote."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        op = self._judge(func, args, kwargs, result)
        if op.passes:
            self.ops.append(op)
        return result

    def _large(self, value: Any) -> dict[int, torch.Tensor]:
        leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        return {_memory(leaf): leaf for leaf in leaves if leaf.layout == torch.strided and leaf.numel() >= self.numel}

    def _judge(self, func: Any, args: Any, kwargs: Any, result: Any) -> TableOp:
        schema = func._schema  # noqa: SLF001 - the only place where torch says what it mutates
        name = schema.name.split("::")[-1]
        read: set[int] = set()
        written: set[int] = set()
        for argument, value in _bind(schema.arguments, args, kwargs):
            memories = set(self._large(value))
            mutated = argument.alias_info is not None and argument.is_write
            # fused kernels declare the gradient mutable, but write it only to unscale it
            if mutated and not (argument.name == "grads" and kwargs.get("grad_scale") is None):
                written |= memories
            blind = argument.name == "self" and (name in BLIND or name in MAKERS)
            if not blind and not argument.is_out:
                read |= memories
        outputs = set(self._large(result))
        views = any(item.alias_info is not None and not item.alias_info.is_write for item in schema.returns)
        if views or name in {"empty_like", "empty", "detach", "empty_strided", "alias"}:
            return TableOp(name, 0, 0, 0)
        return TableOp(name, len(read), len(written), len(outputs - read - written))


def _bind(declared: Sequence[Any], args: Any, kwargs: Any) -> list[tuple[Any, Any]]:
    """Pair each declared argument with what was passed for it."""
    pairs = list(zip(declared, args, strict=False))
    return pairs + [(item, kwargs[item.name]) for item in declared[len(args) :] if item.name in kwargs]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one optimizer step does with a table."""

    ops: tuple[TableOp, ...]
    state: int  # table-sized tensors that the optimizer keeps
    temporaries: int  # most table-sized temporaries alive at once, at least

    @property
    def passes(self) -> int:
        """Full reads and writes of the table per step."""
        return sum(op.passes for op in self.ops)

    @property
    def fresh(self) -> int:
        """Table-sized outputs written to new memory per step."""
        return sum(op.fresh for op in self.ops)


def count_step(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], *, device: str = "cpu") -> Traffic:
    """Count the passes of the second step of an optimizer over a small dense table.

    The second step, because the first also creates state.

    Args:
        make: Builds the optimizer from a list of parameters.
        device: Where: the implementation that torch chooses depends on it.

    Returns:
        The operations of that step, and the table-sized state that is kept.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(PROBE_ROWS, PROBE_DIM, generator=generator)
    table = torch.nn.Parameter(start.to(device))
    optimizer = make([table])
    for _ in range(2):
        table.grad = torch.randn(PROBE_ROWS, PROBE_DIM, generator=generator).to(device)
        counter = TrafficCounter(table.numel())
        with counter, torch.no_grad():
            optimizer.step()
    kept = [leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, torch.Tensor)]
    return Traffic(
        ops=tuple(counter.ops),
        state=sum(leaf.numel() for leaf in kept) // table.numel(),
        temporaries=sum(op.fresh for op in counter.ops),
    )
