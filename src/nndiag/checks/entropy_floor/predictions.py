"""Where do these predictions stand above the floor, and is what is left visible at all?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.entropy_floor.layout import BINARY
from nndiag.checks.entropy_floor.standing import equal_odds
from nndiag.checks.entropy_floor.words import num, percent
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Answer, Evidence, Judged, Skip, Where
from nndiag.core.rules import found
from nndiag.science.entropy import ulp
from nndiag.science.entropy_structure import COSINE, DOUBLE_SOFTMAX, SIGMOID, TANH

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from nndiag.checks.entropy_floor.levels import Bound, Levels
    from nndiag.checks.entropy_floor.measure import Measured
    from nndiag.core.findings import Finding, Observation

AT_FLOOR = 0.005  # of the removable loss
AT_PRIOR = 0.02
INFORMATION = 0.01  # of the removable loss: less than this and the outputs do not depend on the inputs
LEARNABLE = 0.02  # of ln C: less than this and there is nothing to learn from the inputs
FEWEST = 20
IDENTICAL = 1e-28  # nats: rounding of float64, squared
ALIKE = 1e-11  # nats: outputs that depend on the inputs by rounding alone
PRIOR_MEANS = "a constant answer, the share of each class, gives this loss: nothing about the inputs has been learnt"
EQUAL_MEANS = "all classes are given the same probability: not even their shares have been learnt"
SATURATED = 0.01  # share of rows that reach a bound
FIXES = {
    DOUBLE_SOFTMAX: "pass logits to the loss: remove the softmax (or sigmoid) in front of CrossEntropyLoss; in Keras "
    "from_logits=False for probabilities",
    SIGMOID: "pass logits to the loss: remove the sigmoid in front of BCEWithLogitsLoss, or use BCELoss",
    TANH: "let the last layer be linear: no tanh on the logits",
    COSINE: "multiply the cosines by a scale (10 to 64, or learnt: logit_scale) before the loss",
}


def loss_dtype(dtype: str, decimals: int | None) -> str:
    """The dtype whose rounding limits the loss of such predictions."""
    return "float64" if dtype == "float64" or (decimals or 0) >= 12 else "float32"


@dataclass(frozen=True)
class Origin:
    """Where predictions come from, and what is known of the model that made them."""

    where: Where
    learnt: bool | None = True  # whether it was trained; None where nothing shows it
    squash: str = ""  # what its logits come out of, where that is known: "sigmoid", "tanh"


def judge_predictions(
    measured: Measured, levels: Levels, structures: Mapping[str, Bound], dtype: str, origin: Origin
) -> Iterator[Observation]:
    """Yield the findings about predictions for the same rows, and the answer.

    An untrained model stands at the class prior by right: ENT005 has nothing to say about it. Where nothing shows
    whether it was trained, it must know a prior that is not uniform, or answer all inputs alike.
    """
    where, learnt = origin.where, origin.learnt
    losses = measured.losses
    if losses is None or not losses.rows:
        return
    left = losses.divergence.mean * levels.norm
    loss = levels.floor + left
    name = where.file or where.module or "the predictions"
    n = {"rows": losses.rows}
    if losses.infinite:
        raise NndiagError(
            f"{losses.infinite} of {losses.rows} rows of {name} give probability 0 to a label: the loss is infinite",
            hint=f"row {losses.worst[0][1]} is the first worst; give --logits, which do not underflow",
        )
    below = _not_distributions(measured, levels, name)
    yield Judged("ENT003")
    if below is not None:
        yield below
        yield Answer(f"the {below.message}")
        return
    structure = _structure(measured, levels, structures, loss, origin)
    yield Judged("ENT006")
    if structure is not None:
        yield structure
    base = levels.reachable if left >= levels.rise * (1.0 - AT_FLOOR) else levels.floor
    excess = left - (base - levels.floor)
    done = structure is None and excess <= max(AT_FLOOR * levels.span, 1e-3 * loss if levels.span == 0 else 0.0)
    yield Judged("ENT002")
    if done:
        yield _at_floor(measured, levels, loss, excess, base, where)
    yield from _resolution(left, loss, levels, dtype, where, n)
    ignored = False
    if learnt is False:
        yield Skip("ENT005", "the model is as it was initialised, at the prior by right; give --weights")
    else:
        ignored = yield from _prior(measured, levels, loss, structure is None, origin)
    if learnt is False and structure is None and not done and levels.removable > LEARNABLE * levels.uniform:
        yield Answer(
            f"the untrained model starts at a loss of {num(loss)} nats; on these labels it can fall to {num(base)}, "
            f"and a constant answer gives {num(levels.prior)}"
        )
        return
    yield Answer(_answer(loss, excess, base, levels, done=done, ignored=ignored, structure=structure))


def _at_floor(  # noqa: PLR0913, PLR0917 - private, of one caller
    measured: Measured, levels: Levels, loss: float, excess: float, base: float, where: Where
) -> Finding:
    losses = measured.losses
    rows, error = (losses.rows, losses.error) if losses is not None else (0, 0.0)
    return found(
        "ENT002",
        f"loss {num(loss)} is {_above(excess, base)} above its floor {num(base)}",
        where=where,
        evidence=Evidence(
            excess,
            "nats",
            threshold=AT_FLOOR * levels.span,
            n={"rows": rows},
            detail=f"KL(q‖p), mean over the same rows; the largest probability error is {num(error, 2)}",
        ),
        means="done, not stuck: the rest of the loss is the entropy of the labels, which no model removes",
        fix="watch KL(q‖p) or the gradient norm, not the loss; better labels would lower the floor",
    )


def _above(left: float, floor: float) -> str:
    return percent(left / floor) if floor > 0 else f"{num(left, 3)} nats"


def _answer(  # noqa: PLR0913 - what the sentence is made of
    loss: float, left: float, base: float, levels: Levels, *, done: bool, ignored: bool, structure: Finding | None
) -> str:
    head = f"loss {num(loss)} is {_above(left, base)} above its floor {num(base)} nats"
    if base > levels.floor:
        head += " (equal inputs with different labels counted)"
    if structure is not None:
        return f"{head}: {structure.message}"
    if done:
        return f"{head}: training is done, not stuck; watch KL ({num(left, 3)}), not the loss"
    if ignored:
        equal = equal_odds(loss, levels)
        at = f"and at ln C, {num(levels.uniform)}" if equal else f"and at the class prior {num(levels.prior)}"
        return f"{head} {at}: the predictions do not use the inputs"
    if levels.removable > LEARNABLE * levels.uniform:
        share = (levels.prior - loss) / max(levels.prior - base, 1e-300)
        if share < 0:
            return f"{head}: worse than the constant class prior {num(levels.prior)}"
        return f"{head}: {percent(share)} of the removable loss is gone, KL {num(left, 3)} nats is left"
    return f"{head}: KL {num(left, 3)} nats is left"


def _not_distributions(measured: Measured, levels: Levels, name: str) -> Finding | None:
    """Probabilities that do not sum to one: a loss below its floor, or none that means anything."""
    look, losses = measured.extra, measured.losses
    if losses is None or measured.given_as == "logits" or measured.layout.kind == BINARY or not look.get("off"):
        return None
    # of the numbers as they stand; the Bregman form has left part of the rows' sums out
    exact = losses.exact_shift
    loss = levels.floor + (losses.divergence.mean - exact / losses.rows) * levels.norm
    mean = look["sums"] / look["rows"]
    columns = look["columns"]
    sideways = look["rows"] > 2 and abs(columns - 1.0).max() < 1e-3
    furthest = max(look["sum_low"], look["sum_high"], key=lambda value: abs(value - 1.0))
    sums = f"rows sum to {mean:.4g}" if abs(mean - 1.0) > 1e-3 else f"one sums to {furthest:.6g}"
    cause = "the columns sum to 1: softmax ran over the wrong axis (dim=0)" if sideways else sums
    fix = "softmax over the class axis (dim=-1)" if sideways else "pass --logits for logits, --loss bce for sigmoids"
    if loss < levels.floor - 1e-6 * max(levels.floor, 1e-3):
        return found(
            "ENT003",
            f"loss {num(loss)} is below its floor {num(levels.floor)}: {cause}",
            where=Where(file=name),
            evidence=Evidence(
                loss,
                "nats",
                threshold=levels.floor,
                n={"rows": look["rows"]},
                detail=f"{look['off']} rows do not sum to 1",
            ),
            means="no distribution has a cross-entropy below the entropy of the labels (Gibbs' inequality)",
            fix=fix,
        )
    raise NndiagError(f"{look['off']} of {look['rows']} rows of {name} do not sum to 1: {cause}", hint=fix)


def _resolution(  # noqa: PLR0913, PLR0917 - private, of one caller
    left: float, loss: float, levels: Levels, dtype: str, where: Where, n: Mapping[str, int]
) -> Iterator[Observation]:
    """ENT004: the excess is smaller than one step of the dtype at this loss."""
    yield Judged("ENT004")
    shown = levels.entropy + loss  # a KL loss is the difference of two numbers of this size
    step = ulp(shown, dtype)
    if IDENTICAL < left < step:
        yield found(
            "ENT004",
            f"the {num(left, 3)} nats left are less than one {dtype} step at {num(shown)} ({num(step, 3)})",
            where=where,
            evidence=Evidence(left, "nats", threshold=step, n=n, detail=f"KL in float64 against one {dtype} step"),
            means="the logged loss is a staircase of that step: it cannot show whether training still goes on",
            fix="log KL(q‖p) computed in float64 from the logits, or the gradient norm, which is linear in the error",
        )


def _prior(
    measured: Measured, levels: Levels, loss: float, open_question: bool, origin: Origin
) -> Generator[Observation, None, bool]:
    """ENT005; returns whether the inputs are ignored."""
    losses = measured.losses
    if losses is None or not open_question:
        return False
    if levels.removable <= LEARNABLE * levels.uniform:
        yield Skip("ENT005", "prior and floor are (almost) equal: the inputs tell nothing about these labels")
        return False
    if losses.rows < FEWEST:
        yield Skip("ENT005", f"needs at least {FEWEST} rows")
        return False
    reach = max(AT_PRIOR * levels.removable, min(3.0 * losses.divergence.se, 0.05 * levels.removable))
    near = abs(loss - levels.prior) <= reach
    several = measured.layout.kind == BINARY and measured.layout.columns > 1
    information = math.nan if several else losses.information
    constant = near if several else information < INFORMATION * levels.removable
    equal = origin.learnt is True and information <= ALIKE and equal_odds(loss, levels)
    learnt = origin.learnt or levels.uniform - levels.prior > 2.0 * reach or information <= ALIKE
    if near and constant and not learnt:
        yield Skip("ENT005", "nothing shows that the model was trained; before that it is at the prior; give --weights")
        return False
    yield Judged("ENT005")
    if not (near and constant) and not equal:
        return False
    level = f"equal probabilities, {num(levels.uniform)}" if equal else f"the class prior, {num(levels.prior)}"
    yield found(
        "ENT005",
        f"loss {num(loss)} is the loss of {level}: the inputs are ignored",
        where=origin.where,
        evidence=Evidence(
            None if several else information,
            "nats",
            threshold=INFORMATION * levels.removable,
            n={"rows": losses.rows},
            detail="how much the predictions vary with the input: H(mean p) - mean H(p)",
        ),
        means=EQUAL_MEANS if equal else PRIOR_MEANS,
        fix="look for inputs shuffled against labels, a dead layer (init-symmetry), unscaled inputs "
        "(check-normalization) or a learning rate that is far off",
    )
    return True


def _structure(  # noqa: C901 - one branch per way outputs can be bounded
    measured: Measured, levels: Levels, structures: Mapping[str, Bound], loss: float, origin: Origin
) -> Finding | None:
    """ENT006 from the outputs themselves: they cannot leave a bounded set, and the bound costs loss."""
    look, rows = measured.extra, max(measured.extra.get("rows", 0), 1)
    kind, proof = "", ""
    if measured.given_as == "logits" and measured.layout.kind == BINARY:
        if look["low"] >= 0 and look["high"] <= 1 and rows >= FEWEST:
            kind, proof = SIGMOID, "every logit lies in [0, 1]"
    elif measured.given_as == "logits":
        inside = look["high"] <= 1.0 + 1e-6 and look["low"] >= -1.0 - 1e-6
        saturated = look["edge"] >= max(SATURATED * rows, 5)
        if look["low"] >= 0 and look["off"] == 0:
            kind, proof = DOUBLE_SOFTMAX, "every row of logits is a probability distribution"
        elif origin.squash in ("sigmoid", "tanh"):
            kind, proof = (
                DOUBLE_SOFTMAX if origin.squash == "sigmoid" else TANH,
                f"the logits come out of a {origin.squash}",
            )
        elif inside and look["low"] >= 0 and saturated:
            kind, proof = DOUBLE_SOFTMAX, "every logit lies in [0, 1] and many reach 1: sigmoid outputs"
        elif inside and saturated:
            kind, proof = TANH, "every logit lies in [-1, 1] and many reach the bound"
    elif measured.layout.kind != BINARY:
        if look["gap"] <= 1.0 + 1e-4 and look["reach1"] >= max(SATURATED * rows, 5):
            kind, proof = DOUBLE_SOFTMAX, "log probabilities of a row differ by at most 1, and many by that much"
        elif look["gap"] <= 2.0 + 1e-4 and look["reach2"] >= max(SATURATED * rows, 5):
            kind, proof = TANH, "log probabilities of a row differ by at most 2, and many by that much"
    bound = structures[kind].level if kind in structures else levels.floor
    if not kind or bound - levels.floor <= 0.05 * levels.span:
        return None
    return found(
        "ENT006",
        f"{kind}: with C = {levels.classes} the loss cannot fall below {bound:.4f} (now {loss:.4f})",
        where=origin.where,
        evidence=Evidence(bound, "nats", threshold=levels.floor, n={"rows": rows}, detail=proof),
        means=f"bounded outputs keep the loss {num(bound - levels.floor, 3)} nats above the floor of the labels",
        fix=FIXES[kind],
    )
