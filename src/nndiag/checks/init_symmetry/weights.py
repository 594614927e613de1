"""What weights say without a forward: tensors of a file one at a time, or a model that no inputs are known for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.core.findings import Answer, Evidence, Fact, Judged, Measurement, Skip, Step, Table, Where
from nndiag.core.rules import found
from nndiag.core.words import agreed, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from nndiag.checks.init_symmetry import InitSymmetry
    from nndiag.core.findings import Finding, Observation, Scalar
    from nndiag.core.subject import Subject
    from nndiag.lab.units.named import Layer

RUN_CODES = ("SYM101", "SYM102", "SYM103", "SYM201", "SYM202", "SYM203", "SYM204")
MOST_ROWS = 24


def examine_weights(check: InitSymmetry, subject: Subject) -> Iterator[Observation]:
    """Judge tensors by name and shape, one at a time in the order of the file."""
    from nndiag.lab.units.named import plan, survey

    weights = subject.weights
    assert weights is not None
    layers = plan(weights.shapes)
    total = sum(math.prod(shape) for shape in weights.shapes.values())
    chosen = [layer for layer in layers if check.wants_layer(layer.module)]
    yield Fact("parameters", total, f"{total:,} parameters")
    yield Fact("layers", len(chosen), f"weights alone: {counted(len(chosen), 'layer')}")
    if not chosen:
        raise NothingApplicableError("no weight here has units", hint="a matrix or a convolution is looked for")
    surveyed: dict[str, Any] = {}
    for seen, (label, result) in enumerate(survey(chosen, weights.tensors(), check.tolerance), start=1):
        surveyed[label] = result
        yield Step(label, min(0.99, seen / max(1, len(chosen))))
    yield from _verdicts(chosen, surveyed)
    yield from (Skip(code, "weights alone: name the model with --weights to run it") for code in RUN_CODES)


def _verdicts(layers: list[Layer], surveyed: Mapping[str, Any]) -> Iterator[Observation]:
    """Findings, table and answer from what the tensors showed."""
    from nndiag.lab.units.named import reader_of

    findings: list[Finding] = []
    rows: list[list[Scalar]] = []
    bad = [name for name, result in surveyed.items() if result.nonfinite]
    if bad:
        raise NndiagError(
            f"{counted(len(bad), 'tensor')} with NaN or infinity: {', '.join(bad[:3])}", hint="the run has diverged"
        )
    zero = {layer.module for layer in layers if layer.weight in surveyed and surveyed[layer.weight].zero}
    chained = set()
    for layer in layers:
        reader = reader_of(layer, layers)
        if layer.module in zero and reader is not None and reader.module in zero:
            chained |= {layer.module, reader.module}
            findings.append(_zero(layer, reader))
    for layer in layers:
        result = surveyed.get(layer.weight)
        if result is None:
            continue
        reader = reader_of(layer, layers)
        far = surveyed.get(reader.weight) if reader is not None else None
        groups = [] if result.zero or layer.module in chained else _groups(result, far)
        if groups:
            findings.append(_twins(layer, result, groups, reader.module if reader else None, known=far is not None))
        if result.width < layer.units or result.zero:
            status = "warning" if groups or layer.module in chained else "ok"
            word = "zero" if result.zero else "identical" if groups else "told apart by what reads them"
            rows.append([layer.label, layer.units, result.width, word, status])
    yield from findings
    yield from (Judged(code) for code in ("SYM001", "SYM002"))
    yield Skip("SYM003", "the activations are not known from weights alone")
    distinct: list[list[Scalar]] = [[layer.label, layer.units, layer.units, "distinct", "ok"] for layer in layers]
    rest = [row for row in distinct if row[0] not in {item[0] for item in rows}]
    yield Table("units", ("layer", "units", "distinct", "state", "status"), [*rows, *rest][:MOST_ROWS], main=True)
    units = sum(layer.units for layer in layers)
    yield Measurement("units", units, "units")
    if findings:
        worst = findings[0]
        yield Answer(f"{counted(len(findings), 'place')} with identical units or zero paths; first, {worst.message}.")
    else:
        yield Answer(
            f"By the weights alone nothing is trapped: {counted(units, 'unit')} in "
            f"{counted(len(layers), 'layer')}, none equal."
        )


def _groups(result: Any, far: Any) -> list[Any]:
    """Groups of equal nonzero units that the reader's columns, where it is known, do not tell apart."""
    from nndiag.lab.symmetry.flow import refine

    groups = tuple(result.groups)
    if far is not None and far.columns is not None and far.columns.size == result.units:
        groups = refine(groups, far.columns)
    return list(groups)


def _twins(layer: Layer, result: Any, groups: list[Any], reader: str | None, *, known: bool) -> Finding:
    members = sum(group.size for group in groups)
    words = (
        "incoming and outgoing weights identical" if known else "incoming weights identical, outgoing ones not known"
    )
    shown = ", ".join(
        "{" + ", ".join(str(unit) for unit in group[:4]) + ("…" if group.size > 4 else "") + "}" for group in groups[:3]
    )
    return found(
        "SYM001",
        f'{members} of {layer.units} units in "{layer.label}" are identical: '
        f"{counted(result.width, 'distinct unit')} ({words})",
        where=Where(module=layer.module, next=reader),
        evidence=Evidence(
            value=float(result.width),
            unit="distinct units",
            threshold=float(layer.units),
            n={"units": layer.units},
            detail=f"tensor {layer.weight}; groups {shown}",
        ),
        means="units with equal incoming and outgoing weights get equal gradients and stay one unit",
        fix="use the default initialisation or nn.init.kaiming_normal_; Keras: kernel_initializer='he_normal'. Name "
        "the model (MODEL --weights FILE) to see whether they come apart",
    )


def _zero(layer: Layer, reader: Layer) -> Finding:
    return found(
        "SYM002",
        f'"{layer.module}" and "{reader.module}" are both zero and in series',
        where=Where(module=layer.module, next=reader.module),
        evidence=Evidence(value=2.0, unit="zero factors", threshold=1.0, detail="by the names of the tensors"),
        means="each factor's gradient is multiplied by the other one: neither ever moves",
        fix="leave one of the two random (LoRA: A random, B zero)",
    )


def examine_still(check: InitSymmetry, subject: Subject) -> Iterator[Observation]:
    """Judge a live model that cannot be run: nobody knows its inputs."""
    from nndiag.lab.symmetry.groups import twins_of
    from nndiag.lab.units.layers import unit_views
    from nndiag.lab.watch.sites import locate

    assert subject.model is not None
    model = subject.model.make()
    reason = subject.no_data or "no inputs are known"
    views = [view for view in unit_views(model) if check.wants_layer(view.module)]
    table: dict[str, Tensor] = dict(model.named_parameters())
    total = sum(item.numel() for item in table.values() if not hasattr(item, "materialize"))
    yield Fact("parameters", total, f"{total:,} parameters")
    yield Fact("layers", len(views), f"{counted(len(views), 'layer')}; it was not run: {reason}")
    if not views:
        raise NothingApplicableError("the model has no layer with units", hint=f"and it was not run: {reason}")
    count = 0
    for view in views:
        if not all(table[name].requires_grad for name in view.weights):
            continue
        twins = twins_of(view, table, check.tolerance)
        if twins is None or not any(view.rows(table)[group].any() for group in twins.groups):
            continue
        count += 1
        yield found(
            "SYM001",
            f'{twins.size} of {view.units} units in "{view.label}" start identical: '
            f"{counted(twins.width, 'distinct unit')} (incoming weights identical, outgoing ones not known)",
            where=locate(model.get_submodule(view.module), view.module),
            evidence=Evidence(
                value=float(twins.width),
                unit="distinct units",
                threshold=float(view.units),
                detail=f"groups {twins.shown()}",
            ),
            means="with equal outgoing weights they stay one unit; give DATA to run the steps that tell",
            fix="use the default initialisation or nn.init.kaiming_normal_; Keras: kernel_initializer='he_normal'",
        )
    yield Judged("SYM001")
    yield from (Skip(code, reason) for code in ("SYM002", "SYM003", *RUN_CODES))
    start = f"{count} of {counted(len(views), 'layer')} {agreed(count, 'starts', 'start')}"
    yield Answer(f"{start} with identical units; the model was not run: {reason}.")
