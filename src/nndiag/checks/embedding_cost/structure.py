"""What the user's own model and optimizer do with sparse gradients and one-hot vectors: tried, not looked up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost import rules
from nndiag.core.findings import Evidence, Finding, Judged, Skip, Where
from nndiag.core.rules import found
from nndiag.science import roofline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject


def structure(subject: Subject, view: ModelView, *, clip: float | None) -> Iterator[Observation]:
    """Yield EMB006, EMB007, EMB008 and EMB010 for the tables of a model."""
    for code in ("EMB006", "EMB007", "EMB008"):
        yield Judged(code)
    for index, (spec, site) in enumerate(zip(view.specs, view.sites, strict=True)):
        if site.sparse and site.trainable and spec.tied:
            yield rules.tied_sparse(spec)
        elif site.sparse and site.trainable:
            yield from _sparse(view, index, clip)
    yield from _refuses_dense(view)
    yield from one_hot(subject, view)


def one_hot(subject: Subject, view: ModelView) -> Iterator[Observation]:
    """EMB010 for the products with one-hot vectors that the forward was seen to make."""
    if view.watch is None:
        yield Skip("EMB010", f"the forward could not be watched: {view.trouble}")
        return
    yield Judged("EMB010")
    machine = roofline.CPU_CORE if subject.run.device.startswith("cpu") else roofline.GPU
    seen: set[str] = set()
    for hot in view.watch.one_hot:
        if hot.weight not in seen:
            seen.add(hot.weight)
            for item in rules.one_hot(hot.weight, hot.classes, hot.outputs, hot.lookups, machine):
                yield _placed(item, subject)


def _sparse(view: ModelView, index: int, clip: float | None) -> Iterator[Observation]:
    """Try the user's optimizer on a sparse table with his options."""
    from nndiag.lab.embedding.optim import maker, try_sparse

    spec, site = view.specs[index], view.sites[index]
    routed = view.routing.of(site.key) if view.routing else None
    if routed is None:
        return
    trial = try_sparse(maker(*routed), clip=clip)
    if trial.refused:
        yield rules.refused_sparse(spec, f"{type(routed[0]).__name__} says: {trial.refused}")
    if trial.clip_refused:
        yield rules.refused_sparse(spec, f"clip_grad_norm_ says: {trial.clip_refused}")
    if trial.growing:
        yield rules.growing_momentum(spec, trial.growing)


def _refuses_dense(view: ModelView) -> Iterator[Observation]:
    """SparseAdam over parameters whose gradients are dense raises at its first step."""
    from nndiag.lab.embedding.optim import maker, try_dense

    if view.routing is None:
        return
    sparse = {site.key for site, spec in zip(view.sites, view.specs, strict=True) if site.sparse and not spec.tied}
    names = {site.key: site.name for site in view.sites}
    for optimizer in view.routing.optimizers:
        for group in optimizer.param_groups:
            dense = [parameter for parameter in group["params"] if id(parameter) not in sparse]
            if not dense or not type(optimizer).__name__.lower().startswith("sparse"):
                continue
            said = try_dense(maker(optimizer, group))
            if not said:
                continue
            first = view.names.get(id(dense[0]), names.get(id(dense[0]), "a parameter"))
            yield found(
                "EMB006",
                f"{type(optimizer).__name__} is given {len(dense)} parameters with dense gradients, "
                f"'{first}' first: {said}",
                where=Where(module=first.rpartition(".")[0] or first),
                evidence=Evidence(value=float(len(dense)), unit="parameters", detail=said),
                means="the first step raises",
                fix="give SparseAdam only the tables with sparse=True, and the rest an optimizer of its own",
            )


def _placed(item: Observation, subject: Subject) -> Observation:
    source = subject.model
    if isinstance(item, Finding) and source is not None:
        return replace(item, where=replace(item.where, file=source.where.file, line=source.where.line))
    return item
