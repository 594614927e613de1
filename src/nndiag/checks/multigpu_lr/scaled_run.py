"""Is what N devices reach after equal epochs what one device reaches, beyond the spread of seeds?"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show
from nndiag.checks.multigpu_lr.rate import NEARLY, allowed_range
from nndiag.checks.multigpu_lr.trials import DECLARED, DIVIDED, ONE, SEEDS, Outcome, Variant
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Skip, Table
from nndiag.core.rules import found
from nndiag.lab.shards import score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch

STUDENT = 4.303  # two-sided 95 % for three seeds: scipy.stats.t.ppf(.975, 2)
LOST = 0.05  # of what one device gained
ACCURACY = 0.01


def tell(setting: Setting, variants: list[Variant], outcomes: dict[str, Outcome], rows: Batch) -> Iterator[Observation]:
    """Print every way to train side by side, and judge the declared one (MGL201, MGL010)."""
    from nndiag.checks.multigpu_lr.measured import out_of_time

    if ONE not in outcomes or DECLARED not in outcomes:
        yield from out_of_time("MGL201", "MGL010")
        return
    table = []
    for variant in variants:
        outcome = outcomes.get(variant.name)
        if outcome is None:
            continue
        table.append(
            (
                variant.name,
                show(variant.devices.batch),
                show(variant.lr),
                _spread(outcome.train_loss),
                _spread(outcome.held_loss),
                _spread(outcome.held_accuracy) if outcome.held_accuracy else None,
            )
        )
        x = [(step + 1) * variant.devices.batch for step in range(len(outcome.curve))]
        yield Series(f"loss: {variant.name}", x, outcome.curve, "loss", x_unit="samples", group="scaled-training")
        yield Measurement("held_out_loss", fmean(outcome.held_loss), "loss", where=variant.name)
    columns = ("run", "batch", "lr", "train loss", "held-out loss", "accuracy")
    yield Table(f"Equal epochs, {SEEDS} seeds (mean ± sd)", columns, table)
    if DIVIDED in outcomes:
        gap = max(abs(a - b) for a, b in zip(outcomes[ONE].held_loss, outcomes[DIVIDED].held_loss, strict=True))
        yield Measurement("divided_batch_difference", gap, "loss")
    if setting.plan.rate_ratio is None:
        for code in ("MGL201", "MGL010"):
            yield Skip(code, "needs base-lr and lr: the runs were made with the one rate there is")
        return
    start = score(setting.subject.model.make(), rows, setting.objective)[0] if setting.subject.model else 0.0
    yield from _scaled_run(setting, outcomes[ONE], outcomes[DECLARED], start)
    yield from two_scales(outcomes[ONE], outcomes[DECLARED], start)


def _spread(values: tuple[float, ...]) -> str:
    return f"{fmean(values):.4g} ± {_deviation(values):.2g}" if len(values) > 1 else f"{values[0]:.4g}"


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation; NaN where a run has diverged."""
    return stdev(values) if all(map(math.isfinite, values)) else math.nan


def _difference(one: tuple[float, ...], many: tuple[float, ...]) -> tuple[float, float]:
    """Return mean of paired differences and half its 95 % interval."""
    gaps = [b - a for a, b in zip(one, many, strict=True)]
    return fmean(gaps), STUDENT * _deviation(gaps) / math.sqrt(len(gaps))


def _scaled_run(setting: Setting, one: Outcome, many: Outcome, start: float) -> Iterator[Observation]:
    """MGL201: a gap beyond the spread of seeds, where the rate follows no rule or the run falls apart.

    A short training is mostly warm-up and favours many small updates, so a gap under a rate that follows a rule says
    nothing about the recipe: it is printed, not judged. Ending above the loss of fresh weights is judged always.
    """
    gap, half = _difference(one.held_loss, many.held_loss)
    gained = start - fmean(one.held_loss)
    yield Judged("MGL201")
    broken = not math.isfinite(gap) or (gained > 0 and gap - half > gained)
    if not broken:
        yield Measurement("scaled_run_gap", gap, "loss", interval=(gap - half, gap + half))
        if abs(gap) <= half or gap <= LOST * gained or gained <= 0 or _follows_a_rule(setting):
            return
    yield _differs(setting, (one, many), (gap, half), gained, broken=broken)


def _differs(
    setting: Setting, runs: tuple[Outcome, Outcome], size: tuple[float, float], gained: float, *, broken: bool
) -> Observation:
    (one, many), (gap, half) = runs, size
    measured = gained > 0 and math.isfinite(gap) and math.isfinite(half)
    accuracy = ""
    if one.held_accuracy and many.held_accuracy:
        accuracy = f", accuracy {fmean(one.held_accuracy):.1%} → {fmean(many.held_accuracy):.1%}"
    ended = f"ends at {show(fmean(many.held_loss))}" if math.isfinite(gap) else "diverges"
    return found(
        "MGL201",
        f"after equal epochs the declared recipe {ended} where one device ends at {fmean(one.held_loss):.4g} "
        f"(held-out loss{accuracy})",
        where=setting.plan.where("lr"),
        evidence=Evidence(
            value=gap / gained if measured else None,
            interval=((gap - half) / gained, (gap + half) / gained) if measured else None,
            threshold=1.0 if broken else LOST,
            unit="of one device's gain",
            n={"seeds": SEEDS},
            seed=setting.subject.run.seed,
            detail="paired over data orders, same held-out samples",
        ),
        means="all that one device learned is lost: at this rate the updates overshoot"
        if broken
        else "N devices do not reproduce one: fewer updates, each with the wrong size",
        fix="take the run of the table that comes closest to one device: linear with warm-up (SGD), square root (Adam) "
        "or the gain",
    )


def _follows_a_rule(setting: Setting) -> bool:
    """Whether the declared rate is one that MGL001 has nothing to say about."""
    k, ratio = setting.plan.k, setting.plan.rate_ratio
    if k is None or ratio is None:
        return False
    low, high = allowed_range(setting.plan, k)
    return low / NEARLY <= ratio <= high * NEARLY


def two_scales(one: Outcome, many: Outcome, start: float) -> Iterator[Observation]:
    """MGL010: what the training loss says and what the held-out accuracy says."""
    if not one.held_accuracy or not many.held_accuracy:
        yield Skip("MGL010", "needs class ids: accuracy is not defined here")
        return
    yield Judged("MGL010")
    loss, loss_half = _difference(one.train_loss, many.train_loss)
    points, points_half = _difference(one.held_accuracy, many.held_accuracy)
    gained = start - fmean(one.train_loss)
    if not math.isfinite(loss) or gained <= 0:
        return
    relative = loss / gained  # of the loss itself, a change from .002 to .001 would count as half
    loss_tells = abs(loss) > loss_half and abs(relative) > 4 * LOST
    points_tell = abs(points) > points_half and abs(points) > ACCURACY
    if loss_tells == points_tell and (not loss_tells or (loss > 0) == (points < 0)):
        return
    if points_tell and not loss_tells and abs(relative) > LOST:
        return  # both move, one of them within its spread
    yield found(
        "MGL010",
        f"N devices move the training loss {fmean(one.train_loss):.3g} → {fmean(many.train_loss):.3g} "
        f"({relative:+.0%} of what one device gained) and the held-out accuracy by {100 * points:+.1f} points",
        evidence=Evidence(
            value=relative,
            interval=((loss - loss_half) / gained, (loss + loss_half) / gained),
            threshold=4 * LOST,
            unit="of one device's gain",
            n={"seeds": SEEDS},
            detail="training loss on training samples, accuracy on held-out samples",
        ),
        means="the two are measured on different data: a loss on training samples cannot be read against an accuracy "
        "on others",
        fix="log loss and accuracy on the same held-out samples, at equal epochs",
    )
