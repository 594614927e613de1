"""Where does the tail of this loss curve stand between floor, class prior and ln C?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.entropy_floor.predictions import AT_FLOOR, EQUAL_MEANS, FIXES, LEARNABLE, PRIOR_MEANS
from nndiag.checks.entropy_floor.standing import Standing, at_equal_odds
from nndiag.checks.entropy_floor.units import Mismatch, mismatch
from nndiag.checks.entropy_floor.words import LN2, num, percent, plus_minus
from nndiag.core.findings import Answer, Evidence, Judged, Measurement, Series, Severity, Skip
from nndiag.core.rules import found
from nndiag.science.entropy import ulp
from nndiag.science.entropy_structure import DOUBLE_SOFTMAX, SIGMOID

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from nndiag.checks.entropy_floor.levels import Bound, Levels
    from nndiag.core.findings import Finding, Observation

FEWEST_POINTS = 10  # for saying that a curve has come to rest
SHOWN_POINTS = 400
ABOVE_STRUCTURE = 0.02  # of the way from the double-softmax floor to ln C: not every sample is right
ABOVE_RARER = 0.007  # likewise for the other bounds, which are rarer and whose levels are ordinary losses
QUIET = 0.012  # likewise: how far the values of a tail at one of these lie apart at most
EQUAL_ODDS = "equal odds"
SHARP = 0.01  # a tail less sure than this share of the way names nothing


def judge_curve(
    at: Standing, levels: Levels, structures: Mapping[str, Bound], tokens: int, *, labelled: bool
) -> Iterator[Observation]:
    """Yield the findings about a curve, its series and the answer."""
    yield from _numbers(at, levels, labelled=labelled)
    tail = at.tail
    unit = mismatch(at.start, tail, levels, tokens)
    yield Judged("ENT009")
    if unit is not None:
        yield _unit_finding(unit, at, levels)
    below = _below(at, levels, unit)
    yield Judged("ENT003")
    if below is not None:
        yield below
    near = _near_floor(at, levels) and below is None and unit is None
    yield Judged("ENT002")
    if near:
        yield _at_floor(at, levels)
    verdict: str | None = None
    if below is not None:
        verdict = f"below its floor {num(levels.floor)}{below.means.rpartition(')')[2]}"
    elif unit is not None:
        verdict = f"which looks like {unit.words}"
    resolution = _resolution(at, levels, near=near)
    if below is None and unit is None and not near:
        verdict = yield from _plateaus(at, levels, structures, labelled=labelled)
    if verdict is None:
        yield Judged("ENT004")
        if resolution is not None:
            yield resolution
    yield from (Judged(code) for code in ("ENT005", "ENT006") if near and (labelled or code == "ENT006"))
    yield Answer(_answer(at, levels, near=near, verdict=verdict))


def _near_floor(at: Standing, levels: Levels) -> bool:
    tail, span = at.tail, levels.span
    allowed = max(AT_FLOOR * span, min(2.0 * tail.se, 0.02 * span), 2.0 * ulp(levels.floor, "float32")) + at.rounding
    return min(abs(tail.mean - levels.floor), abs(tail.mean - levels.reachable)) <= allowed


def _nearer(at: Standing, levels: Levels) -> float:
    """The floor that the tail is judged against: the one of the inputs, or of the labels where it lies below that."""
    middle = 0.5 * (levels.floor + levels.reachable)
    return levels.reachable if at.tail.mean >= middle else levels.floor


def _below(at: Standing, levels: Levels, unit: Mismatch | None) -> Finding | None:
    """ENT003: lower than any model can be, beyond noise and rounding."""
    tail, floor = at.tail, levels.floor
    se = math.hypot(tail.se, levels.floor_se if math.isfinite(levels.floor_se) else 0.0)
    coarse = ulp(max(floor, 1e-3), at.coarse) if at.coarse else 0.0
    margin = max(3.0 * se, at.rounding + 2.0 * ulp(floor, "float32"), coarse, 1e-3 * floor, 1e-6)
    if tail.mean >= floor - margin:
        return None
    fix = "compute floor and loss over the same samples, in the same unit, with the same masking and smoothing"
    cause = "another unit, other labels, other data, or a mask that the floor does not have"
    if unit is not None:
        cause, fix = unit.words, unit.fix
    elif floor - levels.entropy <= 1e-9 and -1.0 <= tail.mean < 0.0 and floor == 0.0:
        cause = "a value between -1 and 0 is the mean of -p: NLLLoss fed with probabilities"
        fix = "feed log_softmax to NLLLoss, or logits to CrossEntropyLoss"
    elif levels.rows and abs(tail.mean) <= 0.5 * floor and levels.highest - floor < 1e-9 * max(floor, 1.0):
        cause = "this floor is that of label smoothing: the logged loss does not seem to be smoothed"
        fix = "leave --label-smoothing out for a loss that is logged without it (validation)"
    return found(
        "ENT003",
        f"the loss ends at {num(tail.mean)}, below its floor {num(floor)} by {num(floor - tail.mean, 3)} nats",
        where=at.where,
        evidence=Evidence(
            tail.mean, "nats", (tail.mean - 1.96 * tail.se, tail.mean + 1.96 * tail.se), floor - margin,
            at.evidence_n, detail=f"tail; floor ± {num(levels.floor_se, 2)}, rounding {num(at.rounding, 2)}",
        ),
        means=f"no model reaches this on these labels (Gibbs' inequality): {cause}",
        fix=fix,
    )  # fmt: skip


def _at_floor(at: Standing, levels: Levels) -> Finding:
    floor = _nearer(at, levels)
    left = at.tail.mean - floor
    far = f"{percent(abs(left) / floor)}" if floor > 0 else f"{num(abs(left), 3)} nats"
    return found(
        "ENT002",
        f"the loss ends at {num(at.tail.mean)}, {far} from its floor {num(floor)}",
        where=at.where,
        evidence=Evidence(
            left, "nats", (left - 1.96 * at.tail.se, left + 1.96 * at.tail.se), AT_FLOOR * levels.span,
            at.evidence_n, detail="mean of the tail minus floor",
        ),
        means="done, not stuck: the rest of the loss is the entropy of the labels, which no model removes",
        fix="watch KL(q‖p) or the gradient norm, not the loss; better labels would lower the floor",
    )  # fmt: skip


def _resolution(at: Standing, levels: Levels, *, near: bool) -> Finding | None:
    """ENT004: the tail is one or two steps of the dtype it was logged in."""
    tail = at.tail
    raw = tail.mean / LN2 if at.unit == "bits" else tail.mean
    dtype = at.coarse or "float32"
    step = ulp(raw, dtype) * (LN2 if at.unit == "bits" else 1.0)
    if at.unit == "perplexity" or tail.points < 5 or at.rounding > step:
        return None
    left = tail.mean - levels.floor
    stalled = tail.spread <= (1.01 * step if at.coarse else 4.0 * step) and left < 16.0 * step
    if not stalled or (at.coarse is None and not near):
        return None
    return found(
        "ENT004",
        f"the last {tail.points} values move by {num(tail.spread, 3)}; one {dtype} step there is {num(step, 3)}",
        where=at.where,
        evidence=Evidence(
            left, "nats", threshold=step, n=at.evidence_n, detail=f"tail minus floor against one {dtype} step"
        ),
        means="the logged loss cannot show whether training still goes on",
        fix="compute the loss in float32 and log KL(q‖p) from float64 logits, or the gradient norm",
    )


def _plateaus(
    at: Standing, levels: Levels, structures: Mapping[str, Bound], *, labelled: bool
) -> Generator[Observation, None, str | None]:
    """ENT005 and ENT006: the curve has come to rest at a level that has a name. Returns the words."""
    tail = at.tail
    if len(at.values) < FEWEST_POINTS:
        for code in ("ENT005", "ENT006"):
            yield Skip(code, f"needs at least {FEWEST_POINTS} points to say that a curve is at rest")
        return None
    candidates: list[tuple[float, str, str]] = []
    removable = levels.removable
    learnable = labelled and removable > LEARNABLE * levels.uniform
    if learnable:
        yield Judged("ENT005")
        off = abs(tail.mean - levels.prior)
        if tail.flat(0.01 * removable) and off <= max(0.01 * removable, min(2.0 * tail.se, 0.03 * removable)):
            candidates.append((off, "ENT005", ""))
        elif at_equal_odds(at, levels):
            candidates.append((abs(tail.mean - levels.uniform), "ENT005", EQUAL_ODDS))
    else:
        yield Skip("ENT005", "prior and floor are (almost) equal" if labelled else "the class prior needs labels")
    if structures:
        yield Judged("ENT006")
    else:
        yield Skip("ENT006", "structural floors are not computed under class weights, temperature or without classes")
    candidates += _structural(at, levels, structures)
    if not candidates:
        return None
    _, code, kind = min(candidates)
    if code == "ENT005":
        yield _at_prior(at, levels, equal=kind == EQUAL_ODDS)
        if kind == EQUAL_ODDS:
            return f"at {num(levels.uniform)}, what equal probabilities give: nothing has been learnt"
        return f"at the class prior {num(levels.prior)}: the inputs are ignored"
    yield _at_structure(at, levels, kind, structures[kind].level)
    return f"at {structures[kind].level:.4f}, the floor of {kind} with C = {levels.classes}"


def _structural(at: Standing, levels: Levels, structures: Mapping[str, Bound]) -> list[tuple[float, str, str]]:
    """Bounds that the tail rests at or just above: not every sample need be right."""
    tail, near = at.tail, []
    coarse = ulp(tail.mean, at.coarse) if at.coarse else 0.0
    for kind, bound in structures.items():
        room = levels.uniform - bound.level
        noise = 3.0 * math.hypot(tail.se, bound.se)
        low = max(noise, at.rounding, 0.003 * room)
        high = (ABOVE_STRUCTURE if kind in (DOUBLE_SOFTMAX, SIGMOID) else ABOVE_RARER) * room
        if noise > SHARP * room or bound.level - levels.floor <= 0.05 * levels.span or not tail.flat(0.01 * room):
            continue
        if bound.each and tail.least < bound.level - max(0.003 * room, at.rounding, 2.0 * coarse):
            continue  # no batch falls below a bound that every sample has: this tail does
        if kind not in (DOUBLE_SOFTMAX, SIGMOID) and tail.spread > QUIET * room:
            continue  # where every sample is at its bound, batches hardly differ
        if -low <= tail.mean - bound.level <= high:
            near.append((abs(tail.mean - bound.level), "ENT006", kind))
    return near


def _at_prior(at: Standing, levels: Levels, *, equal: bool) -> Finding:
    tail = at.tail
    level = f"equal probabilities (ln C, {num(levels.uniform)})" if equal else f"the class prior ({num(levels.prior)})"
    return found(
        "ENT005",
        f"the loss rests at {num(tail.mean)}, that of {level}: the inputs are ignored",
        where=at.where,
        evidence=Evidence(
            tail.mean, "nats", (tail.mean - 1.96 * tail.se, tail.mean + 1.96 * tail.se),
            levels.uniform if equal else levels.prior, at.evidence_n,
            detail=f"mean of the tail; floor {num(levels.floor)}, prior {num(levels.prior)}",
        ),
        means=EQUAL_MEANS if equal else PRIOR_MEANS,
        fix="look for inputs shuffled against labels, a dead layer (init-symmetry), unscaled inputs "
        "(check-normalization) or a learning rate that is far off",
    )  # fmt: skip


def _at_structure(at: Standing, levels: Levels, kind: str, level: float) -> Finding:
    tail = at.tail
    return found(
        "ENT006",
        f"the loss rests at {tail.mean:.4f}; {kind} with C = {levels.classes} cannot fall below {level:.4f}",
        where=at.where,
        evidence=Evidence(
            tail.mean, "nats", (tail.mean - 1.96 * tail.se, tail.mean + 1.96 * tail.se), level, at.evidence_n,
            detail=f"mean of the tail against the least loss under {kind}",
        ),
        means=f"this plateau is {num(level - levels.floor, 3)} nats above the floor of the labels and looks like one",
        fix=FIXES[kind],
    )  # fmt: skip


def _unit_finding(unit: Mismatch, at: Standing, levels: Levels) -> Finding:
    return found(
        "ENT009",
        f"{at.name} looks like {unit.words}: it starts at {num(at.start, 4)} and ends at {num(at.tail.mean, 4)}, "
        f"where ln C is {num(levels.uniform, 4)} and the floor {num(levels.floor, 4)}",
        where=at.where,
        evidence=Evidence(unit.factor, "ratio", threshold=1.0, n=at.evidence_n, detail=unit.proof),
        means="loss and floor are in different units: headroom read off them would be wrong",
        fix=unit.fix,
        severity=None if unit.sure else Severity.NOTE,
    )


def _numbers(at: Standing, levels: Levels, *, labelled: bool) -> Iterator[Observation]:
    tail = at.tail
    interval = (tail.mean - 1.96 * tail.se, tail.mean + 1.96 * tail.se)
    yield Measurement("curve_tail", tail.mean, "nats", at.name, interval)
    yield Measurement("curve_tail", tail.mean / LN2, "bits", at.name)
    yield Measurement("headroom", tail.mean - levels.floor, "nats", at.name)
    if labelled and levels.removable > LEARNABLE * levels.uniform:
        yield Measurement("share_removed", (levels.prior - tail.mean) / levels.removable, "ratio", at.name)
    every = max(len(at.values) // SHOWN_POINTS, 1)
    steps, values = [float(x) for x in at.steps[::every]], [float(y) for y in at.values[::every]]
    if (len(at.values) - 1) % every:
        steps, values = [*steps, float(at.steps[-1])], [*values, float(at.values[-1])]
    yield Series("loss", steps, values, "nats", "step", group="loss curve", threshold=levels.floor)
    ends = [steps[0], steps[-1]]
    for name, level in (("floor", levels.floor), ("class prior", levels.prior), ("ln C", levels.uniform)):
        if labelled or name != "class prior":
            yield Series(name, ends, [level, level], "nats", "step", group="loss curve")


def _answer(at: Standing, levels: Levels, *, near: bool, verdict: str | None) -> str:
    tail, floor = at.tail, _nearer(at, levels)
    left = tail.mean - floor
    head = f"the loss ends at {plus_minus(tail.mean, tail.se)} nats, "
    if verdict is not None:
        return f"{head}{verdict}"
    told = f"{num(floor)}, equal inputs with different labels counted" if floor > levels.floor else num(floor)
    far = percent(left / floor) if floor > 1e-9 else f"{num(left, 3)} nats"
    if near:
        place = f"{far} above" if left >= 0 else "within noise and rounding of"
        return f"{head}{place} its floor {told}: training is done, not stuck; watch KL, not the loss"
    share = ""
    if levels.rows and levels.removable > LEARNABLE * levels.uniform:
        gone = (levels.prior - tail.mean) / max(levels.prior - floor, 1e-300)
        if gone > 0:
            share = f": {percent(gone)} of the removable loss is gone"
        else:
            beyond = tail.mean - levels.prior > 2 * tail.se
            share = ": worse than the class prior" if beyond else ": no better than the class prior"
    trend = " and it still falls" if tail.descending else ""
    return f"{head}{num(left, 3)} above its floor {told}{share}{trend}"
