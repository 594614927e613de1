"""What does a table take of the network and of the memory? EMB012 and EMB009."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.spec import Circumstances, ledger
from nndiag.checks.embedding_cost.words import size
from nndiag.core.findings import Evidence, Judged, Severity
from nndiag.core.rules import found
from nndiag.science import tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.embedding_cost.rules import Limits
    from nndiag.checks.embedding_cost.spec import TableSpec
    from nndiag.core.findings import Observation


def all_reduce(spec: TableSpec, gpus: int, share: float | None, limits: Limits) -> Iterator[Observation]:
    """EMB012: the whole table on the wire at every step.

    Args:
        spec: The table.
        gpus: Devices that train in parallel.
        share: The table's share of all gradient bytes, None when the rest of the model is unknown.
        limits: `small_rows` counts here too.
    """
    if gpus < 2:
        return
    yield Judged("EMB012")
    if not spec.trainable or spec.sparse or spec.rows < limits.small_rows:
        return
    dense = tables.ring_all_reduce_bytes(spec.bytes, gpus)
    rows = tables.sparse_all_gather_bytes(spec.unique, spec.dim, gpus, spec.itemsize)
    if dense < 100e6 or dense < 4 * rows or (share is not None and share < 0.5):
        return
    level = Severity.NOTE if share is not None and share < 0.8 else None  # the rest of the model is sent as well
    yield found(
        "EMB012",
        f"each of {gpus} devices sends {size(dense)} per step for {spec.title}; the rows in use are {size(rows)}",
        where=spec.where,
        evidence=Evidence(
            value=dense,
            unit="bytes",
            threshold=100e6,
            n={"gpus": gpus},
            detail="ring all-reduce, 2 (W - 1) / W of the table",
        ),
        means="the network carries zeros; nothing hides it, because the table's gradient is complete last",
        fix="shard the table over the devices (TorchRec), gather sparse gradients over gloo (NCCL has no sparse "
        "all-reduce), or shrink the table; gradient_as_bucket_view=True saves the copies",
        severity=level,
    )


def memory(
    specs: list[TableSpec], around: Circumstances, limit: float, *, rest: float, stated: bool
) -> Iterator[Observation]:
    """EMB009: tables, gradients and optimizer state against the memory."""
    yield Judged("EMB009")
    books = [ledger(spec, around) for spec in specs]
    needed = sum(book.resident for book in books)
    if needed + rest <= limit or needed < 0.5 * (needed + rest):
        return
    largest = max(specs, key=lambda spec: ledger(spec, around).resident)
    book = ledger(largest, around)
    beside = f", and the rest of the model {size(rest)}" if rest else ""
    yield found(
        "EMB009",
        f"tables, gradients and {largest.optimizer.label} state take {size(needed)}{beside}; there are {size(limit)}",
        where=largest.where,
        evidence=Evidence(
            value=needed + rest,
            unit="bytes",
            threshold=limit,
            detail=f"{largest.title}: weights {size(book.weights)}, gradient {size(book.gradient)}, "
            f"state {size(book.state)}, temporaries {size(book.temporaries)}; activations not counted",
        ),
        means="data-parallel training keeps all of this on every device; sparse gradients do not shrink the state",
        fix="fewer rows or columns, an optimizer with less state (row-wise Adagrad: one number per row), "
        "half-precision state, or sharding the table",
        severity=None if stated else Severity.NOTE,
    )


def device_memory(device: str) -> float | None:
    """Memory of an accelerator, or of this machine."""
    if not device.startswith("cpu"):
        from nndiag.lab.clock import accelerator_memory

        return accelerator_memory(device)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None
