"""Why does a large trainable embedding slow training, and what would each cure give?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from nndiag.checks.embedding_cost import footprint, overview, rules
from nndiag.checks.embedding_cost.clocked import clocked
from nndiag.checks.embedding_cost.cures import cures
from nndiag.checks.embedding_cost.made import no_ids
from nndiag.checks.embedding_cost.numbers import spec_from_numbers
from nndiag.checks.embedding_cost.rows import RowJudge
from nndiag.checks.embedding_cost.rules import Limits, Rest
from nndiag.checks.embedding_cost.spec import Circumstances, TableSpec, ledger
from nndiag.checks.embedding_cost.valid import validate
from nndiag.checks.embedding_cost.words import parse_bytes
from nndiag.core.findings import Fact, Judged, Skip
from nndiag.science import roofline
from nndiag.science.zipf import kept_by_minimum
from nndiag.science.zipf_stream import RowCounts, count_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject

BATCH, LENGTH = 32, 128  # taken where nobody said
ESTIMATED = (0.5, 0.75)  # shares that are only estimated must be larger to be a warning, an error


@dataclass(frozen=True)
class EmbeddingCost:
    """The question, with what it is asked about and from where on a cost is worth a word.

    Attributes:
        vocab: Rows, when there is no model.
        dim: Columns, when there is no model.
        seq_len: Ids per row of the batch.
        dtype: Of the table, when there is no model.
        memory: Of one device, such as 40GiB.
        gpus: Devices that train in parallel.
        clip_grad_norm: Norm to which gradients are clipped.
        accumulation: Micro-batches per step.
        set_to_none: zero_grad drops the gradients; otherwise they are zeroed and added to.
        tied: The output layer shares the table.
        sparse: The table is built with sparse=True.
        measure: Read the clock; by default where there is a model.
        max_share: Share of the step from which the table is a warning; 0.2 more is an error.
        min_ms: Milliseconds per step below which nothing is said; 2.5 times as many for an error; a tenth on a GPU.
        max_never_seen: Share of rows that may never occur.
        max_rare: Share of rows that may get too few updates.
        min_updates: Updates below which a row has learned nothing.
        small_rows: Tables with fewer rows get a note at most.
    """

    name: ClassVar[str] = "embedding-cost"

    vocab: int | None = None
    dim: int | None = None
    seq_len: int | None = None
    dtype: str = "float32"
    memory: str | None = None
    gpus: int = 1
    clip_grad_norm: float | None = None
    accumulation: int = 1
    set_to_none: bool = True
    tied: bool = False
    sparse: bool = False
    measure: bool | None = None
    max_share: float = 0.3
    min_ms: float = 20.0
    max_never_seen: float = 0.5
    max_rare: float = 0.3
    min_updates: int = 5
    small_rows: int = 65_536

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Yield the ledger, the rows, the clock and the cures."""
        validate(self, subject)
        memory = parse_bytes(self.memory) if self.memory else None
        if subject.model is None:
            view, specs = None, [self._spec_from_numbers(subject)]
        else:
            from nndiag.checks.embedding_cost.model import read_model

            size = subject.training.batch_size or BATCH
            planned = self.vocab is not None and self.dim is not None
            view = read_model(subject, batch_size=size, length=self.seq_len or LENGTH, needs_table=not planned)
            specs = view.specs
            if not specs and planned:  # a table that this model does not hold
                yield from self._no_table(subject, view)
                view, specs = None, [self._spec_from_numbers(subject)]
        counts = dict(view.counts) if view else {}
        if specs and (counted := self._count_tokens(subject, max(specs, key=lambda spec: spec.bytes))) is not None:
            counts[max(specs, key=lambda spec: spec.bytes).name] = counted
        specs = [_with_counts(spec, counts.get(spec.name)) for spec in specs]
        if view:
            view.specs = specs
        yield from self._facts(subject, specs, view)
        yield from self._rows(subject, specs, counts, view)
        yield from self._structure(subject, specs, view)
        yield from self._memory(subject, specs, view, memory)
        yield from self._cost(subject, specs, view, counts)

    def _no_table(self, subject: Subject, view: ModelView) -> Iterator[Observation]:
        """Say that the numbers are asked about, and what one-hot vectors the model itself multiplies."""
        from nndiag.checks.embedding_cost.structure import one_hot

        assert subject.model is not None
        yield Fact("no_table", subject.model.name, f"{subject.model.name} has no table; --vocab is judged")
        yield from one_hot(subject, view)

    def limits(self, device: str, *, known: bool) -> Limits:
        """Return from where on a cost is worth a word on this device."""
        factor = 1.0 if device.startswith("cpu") else 0.1
        warning, error = (self.max_share, min(self.max_share + 0.2, 1.0)) if known else ESTIMATED
        return Limits(warning, error, self.min_ms * factor, 2.5 * self.min_ms * factor, self.small_rows)

    @property
    def around(self) -> Circumstances:
        """What else passes over a gradient."""
        return Circumstances(
            clip=self.clip_grad_norm is not None,
            gpus=self.gpus,
            accumulation=self.accumulation,
            set_to_none=self.set_to_none,
        )

    def _spec_from_numbers(self, subject: Subject) -> TableSpec:
        training = subject.training
        lookups = (training.batch_size or BATCH) * (self.seq_len or LENGTH)
        vocab = self.vocab
        if vocab is None:  # tokens alone: the rows that they need
            vocab = max(count_rows(subject.inputs["tokens"].chunks(), lookups).highest + 1, 1)
        assert self.dim is not None
        return spec_from_numbers(
            training,
            vocab=vocab,
            dim=self.dim,
            lookups=lookups,
            dtype=self.dtype,
            sparse=self.sparse,
            tied=self.tied,
            device=subject.run.device,
        )

    def _count_tokens(self, subject: Subject, spec: TableSpec) -> RowCounts | None:
        tokens = subject.inputs.get("tokens")
        if tokens is None:
            return None
        words = tokens.kind == "words"
        counts = count_rows(tokens.chunks(), spec.lookups, None if words else spec.rows)
        return replace(counts, rows=max(spec.rows, counts.seen)) if words else counts

    def _facts(self, subject: Subject, specs: list[TableSpec], view: ModelView | None) -> Iterator[Observation]:
        if view is not None and subject.model is not None:
            yield Fact("model", subject.model.name, "")
            yield Fact("parameters", view.inventory.parameters, f"{view.inventory.parameters:,} parameters")
        hot = f", {len(view.hot)} behind one-hot vectors" if view is not None and view.hot else ""
        yield Fact("tables", len(specs), f"{len(specs)} table{'s' * (len(specs) != 1)}{hot}")
        for site in view.sites if view is not None else ():
            if view is not None and view.idle(site):
                yield Fact(f"unused_{site.name}", site.rows, f"'{site.name}' is never used by the forward")
        if specs:
            spec = max(specs, key=lambda spec: spec.bytes)
            assumed = " (assumed)" if spec.optimizer.assumed else ""
            yield Fact("optimizer", spec.optimizer.label, f"{spec.optimizer.label}{assumed}")
            yield Fact("lookups", spec.lookups, f"{spec.lookups:,} lookups per step")
            yield Fact("unique_rows", round(spec.unique, 1), f"{spec.unique:,.0f} distinct rows {spec.unique_how}")

    def _rows(
        self, subject: Subject, specs: list[TableSpec], counts: dict[str, RowCounts], view: ModelView | None
    ) -> Iterator[Observation]:
        judge = RowJudge(
            max_never_seen=self.max_never_seen,
            max_rare=self.max_rare,
            min_updates=self.min_updates,
            small_rows=1000,
            steps=subject.training.steps,
            source=_source(subject),
        )
        judged, made = False, view.made if view is not None else {}
        tokens = subject.inputs.get("tokens")
        for spec in specs:
            if spec.name in counts:
                judged = True
                yield from judge.judge(spec, counts[spec.name], words=tokens is not None and tokens.kind == "words")
            elif spec.name in made:
                yield from judge.outside(spec, made[spec.name], f"the ids that the forward makes of {judge.source}")
        if not judged:
            reason = no_ids(subject, view)
            for code in ("EMB003", "EMB004", "EMB005", *(() if made else ("EMB011",))):
                yield Skip(code, reason)

    def _structure(self, subject: Subject, specs: list[TableSpec], view: ModelView | None) -> Iterator[Observation]:
        if view is None:
            for spec in specs:
                yield from rules.sparse_support(spec, clip=self.clip_grad_norm is not None)
                if self.tied and self.sparse:
                    yield rules.tied_sparse(spec)
            yield Judged("EMB008")
            if subject.model is None:
                yield Skip("EMB010", "needs a model")
        else:
            from nndiag.checks.embedding_cost.structure import structure

            yield from structure(subject, view, clip=self.clip_grad_norm)
        total = view.inventory.trainable_bytes if view else None
        if self.gpus < 2:
            yield Skip("EMB012", "one device; give --gpus")
        for spec in specs:
            share = spec.bytes / total if total else None
            yield from footprint.all_reduce(spec, self.gpus, share, self.limits(subject.run.device, known=True))

    def _memory(
        self, subject: Subject, specs: list[TableSpec], view: ModelView | None, memory: float | None
    ) -> Iterator[Observation]:
        limit = memory if memory is not None else footprint.device_memory(subject.run.device)
        if limit is None or not specs:
            yield Skip("EMB009", "the memory is not known: give --memory 40GiB" if specs else "there is no table")
            return
        rest = 0.0
        if view is not None:
            own = sum(spec.bytes for spec in specs if spec.trainable)
            state = max(spec.optimizer.cost.state for spec in specs)
            rest = max(view.inventory.trainable_bytes - own, 0) * (2 + state)
        yield from footprint.memory(specs, self.around, limit, rest=rest, stated=memory is not None)

    def _cost(
        self, subject: Subject, specs: list[TableSpec], view: ModelView | None, counts: dict[str, RowCounts]
    ) -> Iterator[Observation]:
        device = subject.run.device
        machine = roofline.CPU_CORE if device.startswith("cpu") else roofline.GPU
        trained, hot = [spec for spec in specs if spec.trainable], view.hot if view else []
        shown = [*specs, *hot]
        if not trained:
            yield from (Judged(code) for code in ("EMB001", "EMB002"))
            yield Skip("EMB101", "no table is trained" if specs else "there is no table")
            yield from overview.without_cost(specs, self.around, hot)
            return
        costliest = max(trained, key=lambda spec: ledger(spec, self.around).seconds(machine))
        kept = _kept(counts.get(costliest.name))
        wanted = self.measure if self.measure is not None else view is not None
        reason = "needs --measure" if not wanted else ""
        if wanted and subject.run.wants("EMB101"):
            result = yield from clocked(self, subject, view, trained, costliest, kept)
            if not isinstance(result, str):
                yield from overview.answer_clocked(shown, self.around, costliest, result)
                return
            reason = result
        yield Skip("EMB101", reason or "not selected")
        rest = {spec.name: self._rest(spec, specs, view, machine) for spec in trained}
        for spec in trained:
            limits = self.limits(device, known=False)
            yield from rules.static_cost(spec, self.around, machine, rest[spec.name], limits)
        made = [] if costliest.sparse else cures(costliest, self.around, machine, kept_rows=kept)
        yield from overview.answer_static(shown, self.around, costliest, made, machine, rest[costliest.name])

    def _rest(self, spec: TableSpec, specs: list[TableSpec], view: ModelView | None, machine: roofline.Machine) -> Rest:
        """Estimate what stands beside one table in a step."""
        if view is None:
            return rules.reference_rest(spec, machine)
        flops = view.flops(spec.lookups)
        own = sum(item.bytes for item in specs if item.trainable)
        cost = spec.optimizer.cost
        beside = max(view.inventory.trainable_bytes - own, 0)
        moved = roofline.seconds(machine, moved=(cost.passes - cost.fresh) * beside, fresh=(1 + cost.fresh) * beside)
        others = sum(ledger(item, self.around).seconds(machine) for item in specs if item is not spec)
        how = "products and optimizer of the rest of this model, counted"
        return Rest(flops / machine.flops + moved + others, how, known=True)


def _with_counts(spec: TableSpec, counts: RowCounts | None) -> TableSpec:
    if counts is None or not counts.lookups:
        return spec
    return replace(spec, unique=max(counts.unique, 1.0), unique_how="measured on the data")


def _kept(counts: RowCounts | None) -> int | None:
    return kept_by_minimum(counts.counts, 5)[0] if counts is not None and counts.lookups else None


def _source(subject: Subject) -> str:
    tokens: Any = subject.inputs.get("tokens")
    if tokens is not None:
        return str(tokens.name)
    return subject.data.name if subject.data is not None else "the data"
