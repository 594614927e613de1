"""What makes up the bytes of a step, what stands behind the table, and what goes over the network? For -v."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.spec import Circumstances, TableSpec, ledger
from nndiag.checks.embedding_cost.words import duration, percent, size
from nndiag.core.findings import Measurement, Table
from nndiag.science import roofline, tables_layers, tables_rows
from nndiag.science.zipf import zipf_unique

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Observation, Scalar
    from nndiag.science.roofline import Machine


EXPONENTS = (0.0, 0.8, 1.0, 1.07, 1.2)  # of Zipf's law; 0 is uniform
TOUCHED = (0, 1000, 5000, 100_000)  # steps at which a row is seen for the only time
UNSEEN = (1000, 10_000, 100_000)  # steps that an unseen row lives through
GROWTHS = (1.1, 1.5, 2.0, 3.0, 5.0)  # of the step at ten times the rows


def details(spec: TableSpec, around: Circumstances, machine: Machine) -> Iterator[Observation]:
    """Yield the tables behind the answer, for the costliest table."""
    if spec.trainable and not spec.sparse:
        yield _parts(spec, around)
    if "assumption" in spec.unique_how:
        yield _assumed(spec)
    if spec.trainable:
        yield from _moves(spec)
    yield _growth(spec)
    yield _behind(spec, machine)
    if around.gpus > 1:
        yield from _network(spec, around)


def _parts(spec: TableSpec, around: Circumstances) -> Table:
    """The ledger by cause."""
    book = ledger(spec, around)
    rows: list[tuple[Scalar, ...]] = [
        (f"optimizer: {spec.optimizer.label}", spec.optimizer.cost.passes, size(book.optimizer))
    ]
    rows += [
        (extra.name, extra.passes, size(extra.passes * spec.bytes)) for extra in around.extras(half=spec.itemsize < 4)
    ]
    rows.append(("lookup and scatter of the rows in use", "–", size(book.rows)))
    held = (("weights", book.weights), ("gradient", book.gradient), ("state", book.state))
    rows += [(f"held: {name}", "–", size(count)) for name, count in (*held, ("temporaries", book.temporaries))]
    named = f" of {spec.name}" if spec.name else ""
    return Table(f"the ledger{named} by cause", ("cause", "passes", "bytes"), rows)


def _assumed(spec: TableSpec) -> Table:
    """How much hangs on the exponent that was assumed."""
    rows: list[tuple[Scalar, ...]] = []
    for exponent in EXPONENTS:
        unique = zipf_unique(spec.rows, spec.lookups, exponent)
        rows.append((f"{exponent:g}{' (uniform)' * (not exponent)}", round(unique, 1), percent(unique / spec.rows)))
    return Table("distinct rows per step under other exponents of Zipf's law", ("exponent", "rows", "of all"), rows)


def _moves(spec: TableSpec) -> Iterator[Observation]:
    """What moments and decay do to rows that hardly occur."""
    family = spec.optimizer.family
    if family in {"adam", "adamw", "sparse_adam"}:
        dense, sparse = tables_rows.adam_once_seen_move, tables_rows.sparse_adam_once_seen_move
        yield Table(
            "how far a row moves in all that is seen once, at this step",
            ("step", "Adam, AdamW", "SparseAdam"),
            [(f"{step:,}", f"{dense(step):.2f} lr", f"{sparse(step):.2f} lr") for step in TOUCHED],
        )
    rate = spec.optimizer.lr * spec.optimizer.weight_decay
    if family == "adamw" and rate > 0 and not spec.sparse:
        lr, decay = spec.optimizer.lr, spec.optimizer.weight_decay
        yield Table(
            f"what weight decay leaves of a row that is never seen, at lr {lr:g} and decay {decay:g}",
            ("steps", "of its length"),
            [(f"{steps:,}", f"{tables_rows.unseen_shrinkage(lr, decay, steps):.4g}") for steps in UNSEEN],
        )


def _growth(spec: TableSpec) -> Table:
    """The table's share from a growth of the step that the user has seen: needs no clock and no stand-in."""
    small = max(spec.rows // 10, 1)
    rows = []
    for growth in GROWTHS:
        before, after = roofline.share_from_growth(small, 10 * small, growth)
        rows.append((f"{growth:g}x", percent(before), percent(after)))
    title = f"the table's share, from how the step grew between {small:,} and {10 * small:,} rows"
    return Table(title, ("the step grew", "share before", "share after"), rows)


def _behind(spec: TableSpec, machine: Machine) -> Table:
    """Parameters and time of what usually follows, at this width and around it."""
    rows: list[tuple[Scalar, ...]] = []
    for dim in sorted({max(spec.dim // 2, 1), spec.dim, 2 * spec.dim}):
        hidden = 2 ** math.ceil(math.log2(1.5 * dim))  # the usual widths: 128 -> 256, 300 -> 512
        kinds = {
            "LSTM": tables_layers.lstm_parameters(dim, hidden),
            "GRU": tables_layers.gru_parameters(dim, hidden),
            "transformer block": tables_layers.transformer_parameters(dim),
            "softmax head": spec.rows * dim,
        }
        for name, parameters in kinds.items():
            flops = tables_layers.dense_step_flops(parameters, spec.lookups)
            shape = (
                f"{dim} -> {hidden}" if name in {"LSTM", "GRU"} else f"{dim} -> {spec.rows}" if "head" in name else dim
            )
            rows.append((name, str(shape), f"{parameters:,}", duration(flops / machine.flops)))
    return Table(f"what stands behind a table, on {machine.name}", ("layer", "width", "parameters", "step"), rows)


def _network(spec: TableSpec, around: Circumstances) -> Iterator[Observation]:
    """The published planner's terms for a table that every device holds."""
    planned = tables_layers.data_parallel_terms(spec.rows, spec.dim, spec.lookups, around.gpus, itemsize=spec.itemsize)
    terms = {"forward": planned.forward, "backward": planned.backward, "communication": planned.communication}
    for name, milliseconds in terms.items():
        yield Measurement(f"planner_{name}", milliseconds, "ms", spec.name)
    yield Table(
        "TorchRec's planner on its own hardware: 897 GiB/s memory, 600 GiB/s between devices",
        ("term", "per step"),
        [(name, duration(milliseconds / 1e3)) for name, milliseconds in terms.items()],
    )
