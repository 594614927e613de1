"""What makes up the bytes of a step, what stands behind the table, and what goes over the network? For -v."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.spec import Circumstances, TableSpec, ledger
from nndiag.checks.embedding_cost.words import duration, size
from nndiag.core.findings import Measurement, Table
from nndiag.science import tables_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Observation, Scalar
    from nndiag.science.roofline import Machine


def details(spec: TableSpec, around: Circumstances, machine: Machine) -> Iterator[Observation]:
    """Yield the tables behind the answer, for the costliest table."""
    if spec.trainable and not spec.sparse:
        yield _parts(spec, around)
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


def _behind(spec: TableSpec, machine: Machine) -> Table:
    """Parameters and time of what usually follows, at this width and around it."""
    rows: list[tuple[Scalar, ...]] = []
    for dim in sorted({max(spec.dim // 2, 1), spec.dim, 2 * spec.dim}):
        kinds = {
            "LSTM": tables_layers.lstm_parameters(dim, 2 * dim),
            "GRU": tables_layers.gru_parameters(dim, 2 * dim),
            "transformer block": tables_layers.transformer_parameters(dim),
            "softmax head": spec.rows * dim,
        }
        for name, parameters in kinds.items():
            flops = tables_layers.dense_step_flops(parameters, spec.lookups)
            shape = (
                f"{dim} -> {2 * dim}" if name in {"LSTM", "GRU"} else f"{dim} -> {spec.rows}" if "head" in name else dim
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
