"""Every layer's units, and the matrices of which nobody can say where they are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import call, take
from nndiag.lab.units.layers import unit_views
from nndiag.lab.units.use import Uses, uses_of

if TYPE_CHECKING:
    from nndiag.core.subject import Batch
    from nndiag.lab.bench import Bench
    from nndiag.lab.units.layers import UnitView


@dataclass(frozen=True, slots=True)
class Looked:
    """What a model's parameters are."""

    views: tuple[UnitView, ...]
    unseen: tuple[str, ...]  # trained matrices that no followed operation took: their units are not known


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
    return Looked(views, unseen)


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
