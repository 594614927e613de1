"""Every layer's units, and the matrices of which nobody can say where they are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import call, take
from nndiag.lab.units.layers import UnitView, unit_views
from nndiag.lab.units.use import Uses, uses_of

if TYPE_CHECKING:
    from torch import Tensor

    from nndiag.core.subject import Batch
    from nndiag.lab.bench import Bench

WIDE = 4  # entries of a row


@dataclass(frozen=True, slots=True)
class Looked:
    """What a model's parameters are."""

    views: tuple[UnitView, ...]
    unseen: tuple[str, ...]  # trained matrices that no followed operation took: their units are not known
    tables: tuple[UnitView, ...] = ()  # the rows of what is no layer's weight: learned queries, latents, slots


def views_of(bench: Bench) -> Looked:
    """Return the units of every layer, bare parameters turned as one forward uses them."""
    bench.restore()
    uses = Uses()
    with contextlib.suppress(NndiagError, RuntimeError), bench.set_up(dropout=False):
        uses = uses_of(bench.model, lambda: call(bench.model, few_rows(bench.batches[0]).inputs))
    bench.restore()
    views = tuple(unit_views(bench.model, uses))
    bench.goes_with = {use.bias: name for name, use in uses.seen.items() if use.bias and use.bias in bench.parameters}
    known = uses.other.union(*(view.weights for view in views))
    owners = {name: module for name, module in bench.model.named_modules() if _holds_units(module)}
    unseen = tuple(
        name
        for name, item in bench.parameters.items()
        if name not in known
        and sum(size > 1 for size in item.shape) > 1
        and name.rpartition(".")[0] not in owners
        and uses.get(name) is None
    )
    layers = {name for view in views for name in view.weights} - uses.other
    loose = [name for name, item in bench.parameters.items() if name not in layers and _has_rows(item)]
    tables = [_table(name, bench.parameters[name]) for name in loose if name in uses.other or name in unseen]
    return Looked(views, unseen, tuple(tables))


def _has_rows(item: Tensor) -> bool:
    """Whether a tensor is several rows, each wide enough not to move like another one by chance."""
    wide = [size for size in item.shape if size > 1]
    return len(wide) >= 2 and wide[-1] >= WIDE


def _table(name: str, item: Tensor) -> UnitView:
    """The rows of a tensor along its last axis."""
    width = [size for size in item.shape if size > 1][-1]
    return UnitView(
        module=name.removesuffix(".weight"),
        cls="",
        part="",
        kind="table",
        weights=(name,),
        biases=(),
        units=item.numel() // width,
        read=lambda tensors: tensors[name].reshape(-1, width),
    )


def few_rows(batch: Batch) -> Batch:
    """Two rows of a batch; all of it where it has no rows."""
    with contextlib.suppress(NndiagError):
        batch = take(batch, 2)
    return batch


def _holds_units(module: nn.Module) -> bool:
    """Whether a module's parameters are known by its kind: a torch layer, with one unit or many."""
    return type(module).__module__.startswith("torch.nn.modules.") and not isinstance(
        module, nn.ParameterList | nn.ParameterDict
    )
