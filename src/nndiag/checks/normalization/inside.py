"""Does the model prepare inputs that were prepared before it saw them?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.normalization.view import times
from nndiag.core.findings import Evidence, Judged
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.core.findings import Observation
    from nndiag.science.moments import Array

SANE = (0.1, 5.0)  # sd of inputs that need no scaling any more
FLATTENED = 0.03  # sd of what the first layer then reads
STRAIGHT = 0.999  # r² of the model's own map


def examine_inside(bench: Bench) -> Iterator[Observation]:
    """NRM008 in the model: inputs of order one, divided once more before the first layer with weights."""
    import numpy as np

    first = bench.first
    if first is None or first.raw or first.kind == "embedding":
        return
    ends = _both_ends(bench)
    if ends is None:
        return
    from nndiag.science.resampling import resampled

    x, z = (rows.reshape(-1) for rows in ends)
    if np.corrcoef(x, z)[0, 1] ** 2 < STRAIGHT:
        return  # not one map for all values: a batch norm, a patchwork, another input
    yield Judged("NRM008")
    before, after = float(x.std()), float(z.std())
    factor = before / max(after, 1e-300)
    if not (SANE[0] <= before <= SANE[1] and float(np.abs(x).mean()) <= SANE[1] and after < FLATTENED):
        return
    name = f"'{first.name}'" if first.name else first.where.cls or "the first layer"
    yield found(
        "NRM008",
        f"the model normalises inputs that are normalised already: they arrive with sd {before:.3g} (mean "
        f"{x.mean():.3g}), the model divides by {times(factor)}, and {name} reads sd {after:.3g} around {z.mean():.3g}",
        where=first.where,
        evidence=Evidence(
            after,
            "sd",
            resampled(ends[1][:, None]).interval(lambda _mean, sd: sd[:, 0], after),
            threshold=FLATTENED,
            n={"values": x.size},
            detail="sd of what the first layer with weights reads; its inputs follow the data in a straight line",
        ),
        means="all samples look alike to the first layer: the signal is a small ripple on a constant",
        fix="feed the model what its own normalisation was made for (0-255 pixels for Rescaling(1/255)), or remove one "
        "of the two",
    )


def _both_ends(bench: Bench) -> tuple[Array, Array] | None:
    """The values of one channel as they arrive and as the first layer reads them, (rows, inner).

    None when they do not correspond.
    """
    from nndiag.lab.forward import as_tensors, main_input

    first = bench.first
    main = main_input(as_tensors(bench.batch.inputs))
    if first is None or main is None or main.numel() == 0 or first.values.numel() == 0:
        return None
    x, z = main.detach().double().cpu(), first.values.detach().double().cpu()
    rows = min(len(x), len(z))
    x, z = x[:rows], z[:rows]
    if x.numel() != z.numel():
        return None
    if x.dim() == z.dim() and 0 < first.axis < z.dim() and x.shape == z.shape:
        x, z = x.select(first.axis, 0), z.select(first.axis, 0)
    x, z = x.reshape(rows, -1), z.reshape(rows, -1)
    if x.numel() < 8 or not (bool(x.isfinite().all()) and bool(z.isfinite().all())) or float(x.std()) == 0:
        return None
    return (x.numpy(), z.numpy()) if float(z.std()) > 0 else None


__all__ = ["examine_inside"]
