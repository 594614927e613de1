"""Do batch-norm statistics describe the data, and did their owner see the same preprocessing?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.normalization.checkpoint import examine_preprocessing
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Severity, Skip, Table
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.batchnorm import ModeLosses, Remembered
    from nndiag.lab.scale import Seen

STALE = 0.25  # nats: mean KL over channels
STALE_FOR_SURE = 0.05  # where the start (0, 1) is known to be left in them
LEFT = 0.05  # weight of the start that is too much
SMALL = 4  # rows in a batch
FEW_VALUES = 16  # per channel in a batch
SHOWN = 32  # channels in a figure
CODES = ("NRM102", "NRM104")


def examine_batchnorm(bench: Bench, seen: Seen, view: View) -> Iterator[Observation]:
    """NRM102, NRM103 and NRM104."""
    from nndiag.lab.batchnorm import layers, remembered

    subject = bench.subject
    model = bench.make()
    if not layers(model):
        keras = any(type(item).__name__ == "BatchNormalization" for item in model.modules())
        why = "Keras' batch norm is not judged yet" if keras else "no batch norm with running statistics"
        yield from (Skip(code, why) for code in (*CODES, "NRM103"))
        return
    try:
        known = remembered(bench.make(), bench.batches, seed=subject.run.seed)
    except NndiagError as failed:
        yield from (Skip(code, f"training mode failed: {failed.message}") for code in CODES)
        yield from _tiny(bench, seen, None)
        return
    yield from _tiny(bench, seen, known)
    if subject.data is not None and subject.data.synthetic:
        yield from (Skip(code, "the inputs are invented") for code in CODES)
        return
    if all(one.as_built and one.fresh and (one.updates in {0, None}) for one in known) and not _learned(bench):
        stuck = [one for one in known if one.momentum == 0]  # no training will ever move these
        if stuck:
            yield Judged("NRM102")
            yield from _stale(bench, known, stuck)
        why = "the model was never trained: its statistics are those it was built with"
        yield from (Skip(code, why) for code in (CODES[1:] if stuck else CODES))
        return
    if bench.rows < 16:
        yield from (Skip(code, f"{bench.rows} rows are too few to judge statistics") for code in CODES)
        return
    yield from _table(known)
    told = yield from examine_preprocessing(bench, view, known)
    if told:
        yield Skip("NRM102", "the inputs are on another scale than the statistics (NRM104)")
        return
    yield Judged("NRM102")
    yield from _stale(bench, known)


def _learned(bench: Bench) -> bool:
    """Whether weights were loaded, or the model already does far better than chance."""
    import math

    from nndiag.lab.batchnorm import mode_losses

    if "weights" in str(getattr(bench.subject.model, "note", "")):
        return True
    learnt = getattr(bench.subject.model, "learnt", None)
    if bench.objective is None or (learnt is not None and learnt() is False):  # contrastive losses may start low
        return False
    chance = math.log(bench.classes) if bench.classes else _spread(bench)
    try:
        losses = mode_losses(bench.make(), bench.batches[:4], bench.objective)
    except NndiagError:
        return False
    return chance is not None and losses.training < 0.5 * chance


def _spread(bench: Bench) -> float | None:
    """Variance of real-valued targets under mean squared error."""
    from nndiag.lab.forward import as_tensors

    aims = as_tensors(bench.batches[0].targets)
    named = bench.objective is not None and bench.objective.name == "mse"
    return float(aims.double().var(unbiased=False)) if named and hasattr(aims, "double") else None


def _table(known: list[Remembered]) -> Iterator[Observation]:
    rows = [(one.name, float(one.shift.median()), float(one.kl.clamp(max=99).mean()), one.updates) for one in known]
    yield Table("batch norm: remembered against exact", ("layer", "shift (sd)", "KL (nats)", "updates"), rows)
    for label, values in (
        ("shift", [float(one.shift.median()) for one in known]),
        ("KL", [float(one.kl.clamp(max=99).mean()) for one in known]),
    ):
        yield Series(
            label,
            tuple(range(len(known))),
            tuple(values),
            "sd" if label == "shift" else "nats",
            group="running against exact batch-norm statistics",
            kind="bar",
            threshold=None if label == "shift" else STALE,
            labels=tuple(one.name for one in known),
        )
    yield from _channels(max(known, key=lambda one: float(_score(one.kl))))


def _channels(worst: Remembered) -> Iterator[Series]:
    """What one layer remembers beside what it is fed, channel by channel."""
    sides = (
        ("mean", (("running", worst.running_mean), ("exact", worst.mean))),
        ("sd", (("running", worst.running_var.sqrt()), ("exact", worst.var.sqrt()))),
    )
    for what, pair in sides:
        for side, values in pair:
            shown = tuple(values[:SHOWN].tolist())
            yield Series(
                f"{side} {what}",
                tuple(range(len(shown))),
                shown,
                "",
                x_unit="channel",
                group=f"{what} per channel of '{worst.name}'",
                kind="bar",
                labels=tuple(map(str, range(len(shown)))),
            )


def _stale(bench: Bench, known: list[Remembered], among: list[Remembered] | None = None) -> Iterator[Observation]:
    """NRM102: one finding, at the first layer (of those to be judged) that is off."""
    from nndiag.lab.batchnorm import mode_losses

    losses: ModeLosses | None = None
    if bench.objective is not None:
        losses = mode_losses(bench.make(), bench.batches[:8], bench.objective, seed=bench.subject.run.seed)
        yield Measurement("loss_eval_mode", losses.evaluation, "")
        yield Measurement("loss_batch_statistics", losses.training, "")
    judged = known if among is None else among
    scores = [float(_score(one.kl)) for one in judged]
    yield Measurement("batchnorm_kl_largest", max(scores), "nats", judged[scores.index(max(scores))].name)
    off = [one for one, score in zip(judged, scores, strict=True) if score > (STALE_FOR_SURE if _begun(one) else STALE)]
    if not off:
        return
    yield _stale_finding(bench, known, off, losses)


def _score(kl: Tensor) -> Tensor:
    """Mean over channels; a single wild one does not decide."""
    return kl.clamp(max=10).mean()


def _begun(one: Remembered) -> bool:
    """Whether it is certain that the statistics still hold what they were built with."""
    return bool(one.as_built or (one.updates != 0 and one.start_left > LEFT))


def _stale_finding(bench: Bench, known: list[Remembered], off: list[Remembered], losses: ModeLosses | None) -> Finding:
    import numpy as np

    from nndiag.lab.keras.graph import KerasGraph
    from nndiag.science.resampling import jackknife

    worst = off[0]
    keras = isinstance(bench.make(), KerasGraph)
    cause, fix = _cause(worst, off, known, keras=keras)
    harm = ""
    hurt = True
    if losses is not None:
        clear = float(_score(worst.kl)) > STALE
        hurt = not losses.evaluation <= losses.training * (1.02 if clear else 1.1)
        harm = f"; loss {losses.evaluation:.4g} with them, {losses.training:.4g} with batch statistics"
    return found(
        "NRM102",
        f"running statistics of '{worst.name}' are {float(worst.shift.median()):.2g} sd off the data ({len(off)} of "
        f"{len(known)} batch norms): {cause}{harm}",
        where=worst.where,
        evidence=Evidence(
            float(_score(worst.kl)),
            "nats",
            jackknife(float(_score(worst.kl)), np.array(worst.without_each(_score))),
            threshold=STALE_FOR_SURE if _begun(worst) else STALE,
            n={"samples": bench.rows, "channels": len(worst.mean)},
            seed=bench.subject.run.seed,
            detail=f"mean KL of the exact from the remembered Gaussian; median shift "
            f"{float(worst.shift.median()):.3g} sd, median variance ratio {_ratio(worst):.3g}",
        ),
        means="eval mode normalises with numbers that do not belong to these data: another function than in training",
        fix=fix,
        severity=None if hurt else Severity.WARNING,
    )


def _cause(worst: Remembered, off: list[Remembered], known: list[Remembered], *, keras: bool) -> tuple[str, str]:
    """What made the statistics stale, and what to do."""
    again = (
        "run the training data through model(x, training=True) a few hundred times"
        if keras
        else "run the training data through model.train() once under torch.no_grad() with momentum=None (cumulative "
        "average)"
    )
    momentum = "" if worst.momentum is None else f"{1 - worst.momentum if keras else worst.momentum:g}"
    if worst.momentum == 0 and worst.as_built:
        return (
            f"momentum is {momentum}, so they never moved from 0 and 1",
            "set momentum=0.9 (Keras: the weight of the old average)"
            if keras
            else "set momentum=0.1 (torch: the weight of the new batch)",
        )
    if worst.as_built:
        train = "model(x, training=True)" if keras else "model.train()"
        return "they were never updated", f"{again}; call {train} in the training loop"
    if worst.start_left > 0.02:
        counted = f"{worst.updates} updates" if worst.updates is not None else f"about {worst.steps:.0f} updates"
        told = "" if worst.updates is not None else ": that far they lie between it and the data"
        return (
            f"{counted} at momentum {momentum} leave {worst.start_left:.0%} of the start (0, 1){told}",
            f"train longer, {'lower' if keras else 'raise'} momentum, or {again}",
        )
    if worst.momentum is not None and worst.momentum > 0.5:
        return (
            f"momentum {momentum} keeps little but the last batch (torch weighs the new batch, Keras the old)",
            f"set momentum={worst.momentum if keras else 1 - worst.momentum:.2g}, then {again}",
        )
    shift = float(worst.shift.median())
    if shift < 0.1 and 0.4 < _ratio(worst) < 0.95:
        cause = "variances are inflated as by n/(n-1) of tiny batches", "train with larger batches or SyncBatchNorm"
    elif len(off) == len(known):
        cause = (
            "these data come from another domain than those it was trained on",
            f"adapt the statistics to this domain ({again}), or check the preprocessing",
        )
    else:
        cause = "they belong to other data or to a batch size of long ago", again
    return cause


def _ratio(one: Remembered) -> float:
    """Median of the exact over the remembered variance."""
    return float(((one.var + one.eps) / (one.running_var + one.eps)).median())


def _tiny(bench: Bench, seen: Seen, known: list[Remembered] | None) -> Iterator[Observation]:
    """NRM103."""
    size = bench.subject.training.batch_size or seen.batch_size
    if size is None:
        yield Skip("NRM103", "the training batch size is not known (--batch-size, or a DataLoader)")
        return
    yield Judged("NRM103")
    last = seen.last_batch if seen.batch_size else seen.inputs.rows % size
    positions = 1
    if known:
        from nndiag.lab.forward import batch_rows

        rows = min(batch_rows(batch) for batch in bench.batches)
        positions = max(1, min(one.per_batch for one in known) // max(rows, 1))
    values = size * positions
    place = min(known, key=lambda one: one.per_batch).where if known else None
    if size < SMALL or values < FEW_VALUES:
        factor = (values - 1) / values
        yield found(
            "NRM103",
            f"batch norm is trained on batches of {size}: {values} values per channel in its smallest layer",
            where=place,
            evidence=Evidence(
                float(size), "rows", threshold=float(SMALL), detail=f"(n-1)/n = {factor:.3g} at that layer"
            ),
            means="the statistics of so few rows are noise; training (biased variance) and eval (unbiased) differ by "
            f"(n-1)/n = {factor:.3g}; accumulating gradients does not help, each micro-batch is normalised alone",
            fix="use GroupNorm or LayerNorm, SyncBatchNorm over the devices, or larger batches",
        )
    elif last == 1:
        yield found(
            "NRM103",
            f"the last batch of each epoch has one row ({seen.inputs.rows} rows in batches of {size})",
            where=place,
            evidence=Evidence(1.0, "rows", threshold=2.0, n={"rows": seen.inputs.rows}),
            means="batch norm refuses one value per channel, or normalises that row to zero and spoils its statistics",
            fix="DataLoader(..., drop_last=True)",
        )
