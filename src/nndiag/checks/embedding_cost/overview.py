"""The answer, the tables and the figures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.cures import Cure, inapplicable
from nndiag.checks.embedding_cost.details import details
from nndiag.checks.embedding_cost.executed import on_the_model
from nndiag.checks.embedding_cost.spec import Circumstances, TableSpec, ledger
from nndiag.checks.embedding_cost.words import duration, percent, size, times
from nndiag.core.findings import Answer, Measurement, Series, Table
from nndiag.science import roofline, tables_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nndiag.checks.embedding_cost.clocked import Clocked
    from nndiag.checks.embedding_cost.rules import Rest
    from nndiag.core.findings import Observation, Scalar

SHOWN = 8  # tables in the terminal


def without_cost(
    specs: Sequence[TableSpec], around: Circumstances, hot: Sequence[TableSpec] = ()
) -> Iterator[Observation]:
    """Nothing is trained, or there is no table at all but what stands behind one-hot vectors."""
    if specs:
        total = sum(spec.bytes for spec in specs)
        yield Answer(
            f"the {_counted(len(specs), 'table')} {size(total)} and {'are' if len(specs) > 1 else 'is'} not trained: "
            "a step only reads the rows in use"
        )
        yield _ledgers([*specs, *hot], around)
    else:
        spec = max(hot, key=lambda item: item.bytes * item.lookups)
        flops = tables_layers.one_hot_flops(spec.rows, spec.dim, spec.lookups)
        yield Answer(
            f"'{spec.name}' is a table of {spec.rows:,} x {spec.dim} behind one-hot vectors: {flops:.3g} operations "
            f"per step where a lookup would read {size(float(spec.lookups) * spec.dim * spec.itemsize)}"
        )
        yield _ledgers(hot, around)


def answer_static(  # noqa: PLR0913, PLR0917 - what arithmetic yields, in its order
    specs: Sequence[TableSpec],
    around: Circumstances,
    spec: TableSpec,
    cures: list[Cure],
    machine: roofline.Machine,
    rest: Rest,
) -> Iterator[Observation]:
    """Answer by arithmetic."""
    book = ledger(spec, around)
    seconds = book.seconds(machine)
    share = seconds / (seconds + rest.seconds)
    small = max(spec.rows // 10, 1)
    before, after = roofline.share_from_growth(small, 10 * small, 2.0)
    of_step = (
        f"about {percent(share)} of the step by arithmetic"
        if rest.known
        else f"a share of the step that cannot be known without the model ({percent(after)}, if it doubled on the way "
        f"from {small:,} to {10 * small:,} rows, and {percent(before)} before)"
    )
    yield Answer(f"{_begun(spec, book.moved)}, {of_step}; {_used(spec)}{_best(cures)}")
    yield _ledgers(specs, around)
    yield from _numbers(specs, around)
    if cures:
        yield _cure_table(cures, seconds)
        yield from _told(spec, around, cures)
        yield from _bars(cures)
    yield from details(spec, around, machine)
    yield from _against_rows(spec, lambda rows: ledger(replace(spec, rows=rows), around).seconds(machine), rest.seconds)


def answer_clocked(
    specs: Sequence[TableSpec], around: Circumstances, spec: TableSpec, result: Clocked
) -> Iterator[Observation]:
    """Answer by the clock."""
    book = ledger(spec, around)
    beside = "of the step" if result.whole else f"of a step beside {result.rest.how}"
    yield Answer(
        f"{_begun(spec, book.moved)} and takes {result.taken}, {percent(result.share)} {beside}; "
        f"{_used(spec)}{_best(result.cures)}"
    )
    yield _ledgers(specs, around, {spec.name: result.share})
    yield from _numbers(specs, around)
    yield _cure_table(result.cures, result.table.seconds)
    yield from _told(spec, around, result.cures)
    if (ran := on_the_model(result.cures)) is not None:
        yield ran
    yield from _bars(result.cures)
    yield from details(spec, around, result.machine)
    yield from _against_rows(spec, result.table.forecast.at, result.rest.seconds)


def _counted(count: int, word: str) -> str:
    return f"{word} holds" if count == 1 else f"{count} {word}s hold"


def _begun(spec: TableSpec, moved: float) -> str:
    named = f" '{spec.name}'" if spec.name else ""
    assumed = ", assumed" if spec.optimizer.assumed else ""
    under = f"{spec.optimizer.label}{assumed}"
    return f"the {spec.rows:,} x {spec.dim} table{named} moves {size(moved)} per step under {under}"


def _used(spec: TableSpec) -> str:
    return f"{'' if spec.used > 0.3 else 'only '}{percent(spec.used)} of its rows are used per step"


def _best(cures: list[Cure]) -> str:
    """Name the best cure that keeps the mathematics, and the best sparse one."""
    if not cures:
        return ""
    now = next(cure for cure in cures if cure.key == "current")
    parts = []
    for key in ("fused", "sparse"):
        cure = next((cure for cure in cures if cure.key == key and not cure.refused), None)
        if cure is None or cure.seconds > 0.95 * now.seconds:
            continue
        if key == "fused":
            parts.append(
                f"{cure.name} saves {percent(1 - cure.seconds / now.seconds)} of that ({cure.how}) with the same "
                "mathematics"
            )
        else:
            change = "" if cure.keeps else ", with other semantics"
            parts.append(
                f"{cure.name} is {times(now.seconds / max(cure.seconds, 1e-9))} faster ({_known(now, cure)}){change}"
            )
    return f": {'; '.join(parts)}" if parts else ""


def _known(now: Cure, cure: Cure) -> str:
    """How a ratio of two times is known: no better than the weaker of them."""
    return max((now.how, cure.how), key=("measured", "extrapolated", "predicted").index)


def _ledgers(specs: Sequence[TableSpec], around: Circumstances, shares: dict[str, float] | None = None) -> Table:
    shares = shares or {}
    rows: list[tuple[Scalar, ...]] = []
    for spec in sorted(specs, key=lambda item: -item.bytes)[:SHOWN]:
        book = ledger(spec, around)
        named = f"{spec.name} (one-hot)" if spec.hot else spec.name or "table"
        passes = "–" if spec.sparse or not spec.trainable else str(spec.optimizer.cost.passes)
        share = percent(shares[spec.name]) if spec.name in shares else ""
        rows.append(
            (named, f"{spec.rows:,} x {spec.dim}", passes, size(book.moved), percent(spec.used),
             size(book.resident), share)
        )  # fmt: skip
    columns = ["table", "V x D", "passes", "moved/step", "rows used", "resident", "share"]
    if not shares:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("the ledger", columns, rows, main=True)


def _numbers(specs: Sequence[TableSpec], around: Circumstances) -> Iterator[Observation]:
    for spec in specs:
        book = ledger(spec, around)
        yield Measurement("bytes_moved_per_step", book.moved, "bytes", spec.name)
        yield Measurement("bytes_resident", book.resident, "bytes", spec.name)
        yield Measurement("table_passes", spec.optimizer.cost.passes if not spec.sparse else 0, "passes", spec.name)
        yield Measurement("rows_used_share", spec.used, "share", spec.name)


def _cure_table(cures: list[Cure], now: float) -> Table:
    clocked = any(cure.clock is not None for cure in cures)
    rows: list[tuple[Scalar, ...]] = []
    for cure in cures:
        name = cure.name + (f" (refused: {cure.refused[:60]})" if cure.refused else "")
        keeps = "–" if cure.key == "current" else "kept" if cure.keeps else "changed"
        saves = "" if cure.key == "current" else percent(1 - cure.seconds / now) if cure.seconds < now else "0 %"
        clock = f"{duration(cure.clock)} {cure.how}" if cure.clock is not None else ""
        row: list[Scalar] = [name, keeps, size(cure.bytes), duration(cure.predicted)]
        rows.append((*row, clock, saves) if clocked else (*row, saves))
    columns = ["step", "mathematics", "moved", "predicted", *(["clock"] if clocked else []), "saves"]
    return Table("cures", columns, rows, main=True)


def _told(spec: TableSpec, around: Circumstances, cures: list[Cure]) -> Iterator[Table]:
    """What each cure changes, and which others there would be."""
    meant = [(cure.name, cure.meaning) for cure in cures if cure.meaning]
    yield Table("what each cure changes", ("cure", "meaning"), meant)
    counted = any(cure.key == "minimum-count" for cure in cures) or "measured" in spec.unique_how
    yield Table("cures that do not apply here", ("cure", "why"), inapplicable(spec, around, counted=counted))


def _bars(cures: list[Cure]) -> Iterator[Series]:
    names = [cure.name for cure in cures]
    places = [float(index) for index in range(len(cures))]
    books = [ledger(cure.spec, cure.around) for cure in cures]
    for part in ("optimizer", "surroundings", "rows"):
        yield Series(
            f"bytes_{part}",
            places,
            [getattr(book, part) for book in books],
            "bytes",
            group="bytes per step",
            kind="bar",
            labels=names,
        )
    yield Series(
        "step_of_the_table",
        places,
        [1e3 * cure.seconds for cure in cures],
        "ms",
        group="time per step",
        kind="bar",
        labels=names,
    )


def _against_rows(spec: TableSpec, seconds: object, rest: float) -> Iterator[Observation]:
    """Step time against vocabulary: the question that brought people here."""
    assert callable(seconds)
    sizes = sorted({max(int(spec.rows * factor), 1) for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)})
    table = [float(seconds(rows)) for rows in sizes]
    yield Series(
        "step_time_against_vocabulary",
        [float(rows) for rows in sizes],
        [1e3 * (value + rest) for value in table],
        "ms",
        "rows",
        group="time against vocabulary",
    )
    rows = [
        (f"{count:,}", duration(value), percent(value / (value + rest)), f"{(value + rest) / (table[0] + rest):.2f}x")
        for count, value in zip(sizes, table, strict=True)
    ]
    yield Table("step time against vocabulary", ("rows", "table", "share of step", "step grows to"), rows)
    small, large = sizes[0], spec.rows
    before, after = table[0] + rest, float(seconds(large)) + rest
    if large > small and 1 < after / before < large / small:
        shares = roofline.share_from_growth(small, large, after / before)
        yield Measurement(f"share_if_{small}_rows", shares[0], "share", spec.name)
