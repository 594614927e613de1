"""How far can the batch grow before it stops saving steps?"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip, Step, Table
from nndiag.core.rules import found
from nndiag.lab import gradients
from nndiag.lab.forward import batch_rows
from nndiag.science import noise_scale
from nndiag.science.scaling import gain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation

SHARDS, FEWEST = 32, 8
BEYOND = 10.0  # batch over noise scale: 1.1 times the fewest steps at 11 times the fewest samples
GROWTH = 10.0  # of the noise scale from fresh weights to mid-training (McCandlish et al., table 1: 5 to 150)
SHARE_OF_BUDGET = 0.4


def judge_noise(setting: Setting) -> Iterator[Observation]:
    """MGL103, with the noise scale, its gain and what N devices cost in data."""
    if setting.subject.data is None or setting.subject.data.synthetic:
        yield Skip("MGL103", "invented data have no noise scale: give --data")
        return
    yield Step("gradient noise scale", 0.5)
    try:
        with setting.alone():
            vectors, batch = _gradients(setting)
    except NndiagError as failed:
        yield Skip("MGL103", f"no gradient: {failed.message}")
        return
    if len(vectors) < FEWEST:
        yield Skip("MGL103", f"{len(vectors)} shards are too few: the noise scale needs {FEWEST} or more")
        return
    stacked = torch.stack(vectors)  # (shards, P)
    gram = (stacked @ stacked.T).double().numpy()
    scale = noise_scale.from_gram(gram, batch, seed=setting.subject.run.seed)
    yield from tell_noise(setting, scale, batch)


def _gradients(setting: Setting) -> tuple[list[Any], int]:
    """Return gradients of disjoint shards at the same weights, batch norms normalising by their shard."""
    source, data, run = setting.subject.model, setting.subject.data, setting.subject.run
    assert source is not None
    assert data is not None
    model = gradients.still(source.make(), batchnorm=True)
    per = max(2, min(setting.layout.sizes))
    whole = gradients.whole_batch(data, SHARDS * per, run.device)
    rows = batch_rows(whole) if whole is not None else 0
    if whole is None or rows < 2 * FEWEST:
        return [], per
    per = min(per, rows // SHARDS) if rows // SHARDS >= 2 else max(2, rows // FEWEST)
    pieces = gradients.split_rows(whole, [per] * min(SHARDS, rows // per))
    deadline = time.monotonic() + SHARE_OF_BUDGET * run.seconds_left
    vectors = []
    for piece in pieces:
        vectors.append(gradients.gradient_of(model, piece, setting.objective, seed=run.seed).float())
        if time.monotonic() > deadline and len(vectors) >= FEWEST:
            break
    return vectors, per


def tell_noise(setting: Setting, scale: noise_scale.NoiseScale, batch: int) -> Iterator[Observation]:
    """Report a noise scale, and judge the recipe's batch by it."""
    low, high = scale.interval
    plan = setting.plan
    if scale.resolved:
        yield Measurement("noise_scale", scale.value, "samples", interval=(low, high))
    if math.isfinite(low):
        yield Measurement("noise_scale_lower_bound", low, "samples")
    recipe, k = plan.recipe, plan.k
    if scale.resolved and k and recipe.base_batch:
        yield Measurement("adascale_gain", gain(k, scale.value, recipe.base_batch), "ratio")
        yield from _trade(scale.value, recipe.base_batch, k)
    if not recipe.global_batch:
        yield Skip("MGL103", "needs the global batch: gpus and per-device-batch")
        return
    if not scale.resolved:
        bound = f"at least {show(low)} samples" if math.isfinite(low) else "without a bound"  # or no gradient at all
        yield Skip(
            "MGL103",
            f"|G|² is not separated from zero by {scale.shards} shards of {batch}: the noise scale is {bound}",
        )
        return
    yield Judged("MGL103")
    if recipe.global_batch <= BEYOND * high:
        return
    gentle = not _has_loaded_weights(setting.subject.model) and (
        recipe.global_batch <= GROWTH * BEYOND * high or scale.value < 1
    )
    yield found(
        "MGL103",
        f"the batch of {show(recipe.global_batch)} is {show(recipe.global_batch / scale.value)} times the "
        "noise scale of "
        f"{show(scale.value)} samples (95 % interval {show(low)}–{show(high)})",
        where=plan.where("global-batch"),
        evidence=Evidence(
            value=recipe.global_batch / scale.value,
            interval=(recipe.global_batch / high, recipe.global_batch / max(low, 1e-12)),
            threshold=BEYOND,
            unit="ratio",
            n={"shards": scale.shards, "samples": scale.shards * batch},
            seed=setting.subject.run.seed,
            detail="at the weights as given; it usually grows ten-fold and more during training",
        ),
        means="at these weights steps cost "
        f"{show(noise_scale.samples_multiple(recipe.global_batch, scale.value))} times "
        "the least samples: more devices hardly save steps; B_simple predicts the critical batch to an order "
        "of magnitude",
        fix=f"a batch near {show(scale.value)} to {show(10 * scale.value)}, or measure again at weights from "
        "mid-training",
        severity=Severity.NOTE if gentle else None,
    )


def _has_loaded_weights(source: Any) -> bool:
    """Whether a file of weights was loaded, so that the noise scale is one of training."""
    while source is not None:
        if "weights from" in str(getattr(source, "note", "")):
            return True
        source = getattr(source, "source", None)
    return False


def _trade(value: float, base: float, k: float) -> Iterator[Observation]:
    """What each number of devices would save in steps and cost in samples."""
    rows = []
    for times_base in sorted({1.0, 2.0, 4.0, 8.0, 16.0, 64.0, k}):
        batch = base * times_base
        rows.append(
            (
                show(batch),
                times(gain(times_base, value, base)),
                f"{noise_scale.speedup(base, batch, value):.3g}× fewer",
                f"{noise_scale.samples_multiple(batch, value) / noise_scale.samples_multiple(base, value):.3g}×",
            )
        )
    yield Table("What a larger batch gives", ("batch", "lr (gain)", "steps", "samples"), rows)
