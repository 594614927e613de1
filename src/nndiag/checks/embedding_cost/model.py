"""The tables of a model, their use and their optimizers, found without allocating one where that is possible."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.embedding_cost.made import made_ids
from nndiag.checks.embedding_cost.numbers import optimizer_from_name
from nndiag.checks.embedding_cost.spec import LABELS, Optimizer, TableSpec
from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.core.findings import Where
from nndiag.science import tables, tables_layers
from nndiag.science.zipf import zipf_unique
from nndiag.science.zipf_stream import RowCounter

if TYPE_CHECKING:
    from torch import nn

    from nndiag.core.subject import Batch, Subject
    from nndiag.lab.embedding.optim import Routing
    from nndiag.lab.embedding.tables import Inventory, TableSite
    from nndiag.lab.embedding.uses import LookupWatch
    from nndiag.science.zipf_stream import RowCounts

SMALL_MODEL = 256 * 2**20  # bytes up to which a model is simply built when its shapes alone do not run


@dataclass
class ModelView:
    """What was learned about the model before any clock was started."""

    specs: list[TableSpec]
    sites: list[TableSite]
    inventory: Inventory
    routing: Routing | None
    watch: LookupWatch | None
    batch: Batch | None  # what it was watched with
    invented: bool  # whether that batch was
    counts: dict[str, RowCounts] = field(default_factory=dict)  # by table, from real data
    made: dict[str, RowCounts] = field(default_factory=dict)  # by table, of ids that the forward makes of the data
    names: dict[int, str] = field(default_factory=dict)  # parameters by identity
    trouble: str = ""  # why no forward could be watched
    hot: list[TableSpec] = field(default_factory=list)  # what one-hot vectors are multiplied with

    def idle(self, site: TableSite) -> bool:
        """Whether the forward was seen to leave this table alone: it then has no gradient and is not stepped."""
        if self.watch is None or not self.watch.touched or site.tied or site.shared:
            return False
        return site.parameter in self.names.values() and site.parameter not in self.watch.touched

    @property
    def bare(self) -> list[str]:
        """Parameters that are tables without a module of their own."""
        return [site.parameter for site in self.sites if not site.held]

    def flops(self, lookups: int) -> float:
        """Operations of one step: three times the forward pass as counted, or six per weight and lookup."""
        counted = 3.0 * self.watch.flops if self.watch else 0.0
        return counted or tables_layers.dense_step_flops(self.inventory.matrix, lookups)


def read_model(subject: Subject, *, batch_size: int, length: int, needs_table: bool = True) -> ModelView:
    """Look at the subject's model.

    Args:
        subject: With a model.
        batch_size: B of invented inputs.
        length: T of invented inputs.
        needs_table: A model without one is not worth looking at.

    Raises:
        NothingApplicableError: The model holds no table and multiplies no one-hot vectors.
    """
    from nndiag.lab.embedding import tables as lab

    source = subject.model
    assert source is not None
    model = lab.skeleton(source, subject.run.seed)
    if model is None:
        model = source.make()
    inventory = lab.take_inventory(model)
    watch, batch, invented, trouble = _watch(subject, model, inventory, batch_size, length)
    if watch is not None:
        inventory = lab.take_inventory(model, watch.uses)  # with what only the forward shows to be a table
    routing = _routing(subject, model)
    one_hot = bool(watch and watch.one_hot)
    if needs_table and not inventory.tables and not one_hot:
        raise NothingApplicableError(
            "the model has no embedding table", hint="give --vocab and --dim to ask about one that is planned"
        )
    view = ModelView([], list(inventory.tables), inventory, routing, watch, batch, invented, trouble=trouble)
    view.names = {id(parameter): name for name, parameter in model.named_parameters()}
    _count(subject, view)
    if inventory.parameters * inventory.itemsize <= SMALL_MODEL:
        view.made = made_ids(subject, view)
    view.specs = [_spec(subject, view, site, batch_size * length) for site in view.sites]
    view.hot = _hot(subject, view, model)
    return view


def _hot(subject: Subject, view: ModelView, model: nn.Module) -> list[TableSpec]:
    """Weights that one-hot vectors select rows of: tables in all but name."""
    made: dict[str, TableSpec] = {}
    for hot in view.watch.one_hot if view.watch else ():
        weight = next((value for name, value in model.named_parameters() if name == hot.weight), None)
        if weight is None or hot.weight in made or id(weight) in {site.key for site in view.sites}:
            continue
        made[hot.weight] = TableSpec(
            name=hot.weight,
            rows=hot.classes,
            dim=hot.outputs,
            optimizer=_optimizer(subject, view, id(weight)),
            lookups=hot.lookups,
            unique=zipf_unique(hot.classes, hot.lookups),
            unique_how="under Zipf's law with exponent 1, an assumption",
            itemsize=weight.element_size(),
            dtype=str(weight.dtype).removeprefix("torch."),
            trainable=weight.requires_grad,
            hot=True,
        )
    return list(made.values())


def _watch(
    subject: Subject, model: nn.Module, inventory: Inventory, batch_size: int, length: int
) -> tuple[LookupWatch | None, Batch | None, bool, str]:
    """Run one forward on shapes alone; on a small real model where shapes alone do not run."""
    from nndiag.lab.embedding import tables as lab

    tries: list[Any] = [model]
    small = inventory.parameters * inventory.itemsize <= SMALL_MODEL
    if small and subject.model is not None:
        tries.append(None)
    trouble = ""
    for attempt in tries:
        runner = attempt if attempt is not None else subject.model.make()  # type: ignore[union-attr]
        if attempt is not None and not lab.is_bare(runner):
            continue  # an instance of the user's: a private copy comes next
        for batch, invented in _batches(subject, runner, inventory, batch_size, length):
            from nndiag.lab.embedding.uses import watch_forward

            try:
                return watch_forward(runner, batch.inputs), batch, invented, ""
            except NndiagError as error:
                trouble = trouble or error.message
            except Exception as error:  # noqa: BLE001 - a guess at the inputs that did not fit
                trouble = trouble or f"{type(error).__name__}: {error}"
    return None, None, True, trouble or "it is too large to be run here only to be looked at"


def _batches(
    subject: Subject, model: nn.Module, inventory: Inventory, batch_size: int, length: int
) -> list[tuple[Batch, bool]]:
    """The user's first batch, or guesses."""
    from nndiag.core.subject import Batch
    from nndiag.lab.embedding.inputs import candidates

    found: list[tuple[Batch, bool]] = []
    if subject.data is not None and not subject.data.synthetic:
        first = next(iter(subject.data.batches(subject.training.batch_size)), None)
        if first is not None:
            found.append((first, False))
            return found
    rows = max((site.rows for site in inventory.tables), default=1000)
    guesses = candidates(model, rows, batch_size, length, seed=subject.run.seed)
    found += [(Batch(guess), True) for guess in guesses]
    if subject.data is not None:
        found += [(batch, True) for batch in _first(subject.data.batches(batch_size))]
    return found


def _first(batches: Any) -> list[Any]:
    try:
        return [next(iter(batches))]
    except Exception:  # noqa: BLE001 - invented inputs that cannot be invented here
        return []


def _routing(subject: Subject, model: nn.Module) -> Routing | None:
    from nndiag.lab.embedding.optim import route

    if not any(parameter.requires_grad for parameter in model.parameters()):
        return None
    return route(subject.training, model)


def _count(subject: Subject, view: ModelView) -> None:
    """Count the ids of the user's data per table, following the inputs that were looked up directly."""
    from nndiag.lab.embedding.batches import watched_ids

    if view.watch is None or view.batch is None or view.invented or subject.data is None:
        return
    readers = watched_ids(view.batch.inputs, view.watch)
    counters = {
        site.name: RowCounter(site.rows, 1) for site in view.sites if site.parameter in readers and site.rows > 0
    }
    if not counters:
        return
    begun = subject.run.seconds_left
    for batch in subject.data.batches(subject.training.batch_size):
        for site in view.sites:
            if site.name not in counters:
                continue
            for ids in readers[site.parameter](batch.inputs):
                counters[site.name].feed_batch(ids)
        if begun - subject.run.seconds_left > 0.3 * begun:
            break
    view.counts = {name: counter.result() for name, counter in counters.items()}


def _spec(subject: Subject, view: ModelView, site: TableSite, assumed: int) -> TableSpec:
    """Put together what is known about one table."""
    use = view.watch.uses.get(site.parameter) if view.watch else None
    lookups = use.lookups if use and use.lookups else assumed
    tied = site.tied or (("a product with the same weight",) if use and use.as_matrix else ())
    counts = view.counts.get(site.name)
    if counts is not None and counts.lookups:
        unique, how = counts.unique, "measured on the data"
    else:
        unique, how = zipf_unique(site.rows, lookups), "under Zipf's law with exponent 1, an assumption"
    where = replace(_place(subject), module=site.name, cls=site.cls)
    return TableSpec(
        name=site.name,
        rows=site.rows,
        dim=site.dim,
        optimizer=_optimizer(subject, view, site.key),
        lookups=max(lookups, 1),
        unique=max(min(unique, site.rows), 1.0),
        unique_how=how,
        itemsize=site.dtype.itemsize,
        dtype=str(site.dtype).removeprefix("torch."),
        cls=site.cls,
        sparse=site.sparse and not tied,
        trainable=site.trainable and (use is None or use.learns or bool(tied)) and not view.idle(site),
        tied=tied,
        bag=site.bag,
        padding=site.padding,
        pooled=use.pooled if use and use.calls == 1 else 0,
        where=where,
    )


def _place(subject: Subject) -> Where:
    source = subject.model
    return Where(file=source.where.file, line=source.where.line) if source is not None else Where()


def _optimizer(subject: Subject, view: ModelView, key: int) -> Optimizer:
    """Return the optimizer that steps this table, by its own operations where the catalogue does not know it."""
    found = view.routing.of(key) if view.routing else None
    if found is None:
        return Optimizer(None, "no optimizer", tables.OptimizerCost(0, 0, 0, 0, 0))
    from nndiag.lab.embedding import optim as lab

    optimizer, group = found
    kind = type(optimizer)
    name = tables.canonical(kind.__name__) if kind.__module__.startswith("torch.optim") else None
    implementation = lab.implementation(group, subject.run.device)
    assumed = subject.training.optimizer is None
    decay = float(group.get("weight_decay", 0.0) or 0.0)
    rate = float(group.get("lr", 1e-3) or 0.0)
    if name is None or (implementation == tables.FUSED and not tables.has_fused(name)):
        traffic = lab.traffic_of(lab.maker(optimizer, group))
        cost = tables.OptimizerCost(0, 0, 0, 0, 0)
        if traffic is not None:
            reads, writes, fresh = (
                sum(getattr(op, word) for op in traffic.ops) for word in ("reads", "writes", "fresh")
            )
            cost = tables.OptimizerCost(reads, writes, fresh, min(traffic.temporaries, 3), traffic.state)
        return Optimizer(None, kind.__name__, cost, rate, decay, assumed)
    if name == "sparse_adam":
        options = tables.OptimizerOptions(name)
        return Optimizer(options, LABELS[name], tables.OptimizerCost(0, 0, 0, 0, 2), rate, 0.0, assumed)
    given = {
        word: group[word]
        for word in ("momentum", "nesterov", "amsgrad", "centered", "fused", "foreach")
        if word in group
    }
    plain = replace(subject.training, optimizer=name, lr=rate, optimizer_args=given | {"weight_decay": decay})
    return replace(optimizer_from_name(plain, device=subject.run.device), assumed=assumed)
