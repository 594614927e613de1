"""Arithmetic of what stands behind a table, and a published planner's terms.

Axes: D width of the table, h hidden units, N tokens per step, V rows.
"""

from __future__ import annotations

from dataclasses import dataclass


def lstm_parameters(dim: int, hidden: int, *, projection: int = 0, biases: int = 2) -> int:
    """Parameters of one LSTM layer: 4h(D + h) + 4h per bias (torch keeps two, Keras one).

    With a projection of size p the state is p wide: 4h(D + p) + 8h + ph.

    Example:
        >>> lstm_parameters(128, 256), lstm_parameters(300, 512)
        (395264, 1667072)
    """
    state = projection or hidden
    return 4 * hidden * (dim + state) + 4 * hidden * biases + projection * hidden


def gru_parameters(dim: int, hidden: int, *, biases: int = 2) -> int:
    """Parameters of one GRU layer: 3h(D + h) + 3h per bias."""
    return 3 * hidden * (dim + hidden) + 3 * hidden * biases


def transformer_parameters(dim: int, *, feed_forward: int = 0, biases: bool = True) -> int:
    """Parameters of one transformer block: 4 D^2 for attention, 2 D F for the feed-forward pair, two layer norms."""
    inner = feed_forward or 4 * dim
    weights = 4 * dim * dim + 2 * dim * inner
    return weights + (9 * dim + inner if biases else 0)


def dense_step_flops(parameters: float, tokens: float) -> float:
    """Floating-point operations of forward and backward: 2 per weight and token forward, 4 backward."""
    return 6.0 * parameters * tokens


def softmax_head_flops(rows: int, dim: int, tokens: float) -> float:
    """Operations of a full-softmax head over V rows, forward and backward."""
    return dense_step_flops(rows * dim, tokens)


def one_hot_flops(rows: int, dim: int, lookups: float) -> float:
    """Operations that a one-hot matmul spends, forward and weight gradient: 2NVD each."""
    return 4.0 * lookups * rows * dim


@dataclass(frozen=True, slots=True)
class Hardware:
    """Bandwidths in bytes per ms; defaults of torchrec/distributed/planner/constants.py."""

    memory: float = 897 * 1024**3 / 1000
    intra_node: float = 600 * 1024**3 / 1000
    inter_node: float = 12.5 * 1024**3 / 1000
    local_world: int = 0  # 0: all ranks on one node


@dataclass(frozen=True, slots=True)
class PlannerTerms:
    """Milliseconds per step of one data-parallel table."""

    forward: float
    backward: float
    communication: float


OPTIMIZER_PASSES = 9.22  # TorchRec's measured factor for "SGD + Fill + BUnary", at half the memory bandwidth
DENSE_KERNEL_SHARE = 0.5  # of the memory bandwidth that an unfused lookup reaches


def data_parallel_terms(  # noqa: PLR0913 - the planner's own inputs
    rows: int, dim: int, batch: int, world: int, hardware: Hardware | None = None, *, itemsize: int = 4
) -> PlannerTerms:
    """Reproduce the planner's cost of a replicated (data-parallel) table with one id per sample.

    Source: pytorch/torchrec a48cef7, planner/shard_estimators.py and constants.py: forward reads ids and rows
    and writes the output at half the memory bandwidth, backward costs twice that, communication is a ring
    all-reduce plus the dense optimizer's 9.22 table passes.

    Args:
        rows: V.
        dim: D.
        batch: Lookups per rank.
        world: Ranks.
        hardware: Bandwidths; the planner's defaults.
        itemsize: Bytes per element.

    Returns:
        The three terms in milliseconds.
    """
    hardware = hardware or Hardware()
    local = hardware.local_world or world
    bandwidth = DENSE_KERNEL_SHARE * hardware.memory
    moved = batch * 8 + 2 * batch * dim * itemsize  # ids, rows read, rows written
    forward = moved / bandwidth
    table = rows * dim * itemsize
    ranks = min(world / local, 2)
    wire = table * (2 * ranks - 1) / ranks / (hardware.inter_node * local) * (2 if world > 2 * local else 1)
    return PlannerTerms(forward, 2 * forward, wire + OPTIMIZER_PASSES * table / bandwidth)
