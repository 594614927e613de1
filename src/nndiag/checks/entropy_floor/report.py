"""The numbers of entropy-floor that are printed whether or not anything is wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.contradictions import contradictions
from nndiag.checks.entropy_floor.layout import BINARY, IDS, Source
from nndiag.checks.entropy_floor.predictions import LEARNABLE
from nndiag.checks.entropy_floor.words import LN2, both, interval, num, percent, plus_minus
from nndiag.core.findings import Answer, Evidence, Fact, Measurement, Series, Table, Where
from nndiag.core.rules import found
from nndiag.science.entropy import logit_error, ulp

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from nndiag.checks.entropy_floor.levels import Levels
    from nndiag.checks.entropy_floor.measure import Measured
    from nndiag.core.findings import Observation

DTYPES = ("float64", "float32", "bfloat16")
BINS = 40


def facts(measured: Measured, levels: Levels, labels: Source) -> Iterator[Fact]:
    """Yield what was read, and as what."""
    recipe = measured.recipe
    yield Fact("labels", labels.name, labels.name)
    yield Fact("samples", levels.rows, f"{levels.rows} rows")
    yield Fact("classes", levels.classes, f"{levels.classes} classes")
    kind = measured.layout.kind + (" (certain)" if levels.certain and measured.layout.kind != IDS else "")
    yield Fact("kind", kind, kind)
    loss = "bce" if measured.layout.kind == BINARY else ("kl" if recipe.loss == "kl" else "cross_entropy")
    yield Fact("loss", loss, f"loss {loss}")
    if measured.layout.why:
        yield Fact("inferred", measured.layout.why, measured.layout.why)
    if measured.ids is not None and measured.ids.ignored:
        yield Fact("ignored", measured.ids.ignored, f"{measured.ids.ignored} ignored")
    if recipe.epsilon:
        yield Fact("label_smoothing", recipe.epsilon, f"smoothing {recipe.epsilon:g} ({recipe.style})")
    if recipe.temperature != 1.0:
        yield Fact("temperature", recipe.temperature, f"temperature {recipe.temperature:g} (loss times T²)")
    if measured.mixed is not None:
        shown = "probabilities" if measured.mixed.probable else "logits"
        rest = 1.0 - recipe.alpha
        yield Fact("alpha", recipe.alpha, f"{recipe.alpha:g} CE + {rest:g} T² KL from the teacher's {shown}")
    if recipe.weights is not None and measured.layout.kind == BINARY:
        words = "weights of no and yes" if len(recipe.weights) == 2 and measured.layout.columns == 1 else "pos_weight"
        yield Fact("class_weights", words, f"class weights read as {words}")
    left_out = getattr(labels, "left_out", ())
    if left_out:
        yield Fact("left_out", ", ".join(left_out), f"left out: {', '.join(left_out)}")


def levels_seen(measured: Measured, levels: Levels) -> Iterator[Observation]:
    """Yield floor, prior, ln C, quantiles and resolutions as numbers and tables."""
    yield Measurement("floor", levels.floor, "nats", interval=interval(levels.floor, levels.floor_se))
    yield Measurement("floor", levels.floor / LN2, "bits")
    yield Measurement("floor_se", levels.floor_se, "nats")
    low, lower, median, upper, high = levels.quantiles
    named = (("q05", low), ("q25", lower), ("median", median), ("q75", upper), ("q95", high), ("max", levels.highest))
    for name, value in named:
        yield Measurement(f"row_entropy_{name}", value, "nats")
    yield Measurement("class_prior", levels.prior, "nats")
    yield Measurement("class_prior", levels.prior / LN2, "bits")
    yield Measurement("ln_classes", levels.uniform, "nats")
    yield Measurement("ln_classes", levels.uniform / LN2, "bits")
    yield Measurement("removable", levels.removable, "nats")
    if levels.entropy:
        yield Measurement("label_entropy", levels.entropy, "nats")
    yield _table(measured, levels)
    yield from _resolutions(levels)
    if measured.labels is not None:
        yield from _histogram("row entropy", measured.labels.spread.values)


def _table(measured: Measured, levels: Levels) -> Table:
    rows: list[list[str | float | None]] = [
        ["floor", *_twice(levels.floor), f"± {levels.floor_se:.2g} nats" if levels.floor_se > 0 else ""],
    ]
    if measured.losses is not None and measured.losses.rows and not measured.losses.infinite:
        left = measured.losses.divergence.mean * levels.norm
        se = measured.losses.divergence.se * levels.norm
        rows.append(["loss", *_twice(levels.floor + left), f"KL {plus_minus(left, se)}"])
    worth = f"{num(levels.removable, 4)} nats to learn from inputs"
    rows.append(["class prior", *_twice(levels.prior), worth])
    plain = abs(levels.uniform - math.log(levels.classes)) <= 1e-6 * levels.uniform
    rows.append(["ln C" if plain else "equal odds", *_twice(levels.uniform), f"C = {levels.classes}"])
    return Table("levels of the loss", ("level", "nats", "bits", ""), rows, main=True)


def _twice(nats: float) -> tuple[str, str]:
    """Nats and bits at six digits: a table of numbers rounds to four."""
    return num(nats), num(nats / LN2)


def _resolutions(levels: Levels) -> Iterator[Observation]:
    """The smallest KL that each dtype can show at this floor, and the logit error that goes with it."""
    rows: list[list[str | float | None]] = []
    at = levels.floor + levels.entropy
    for dtype in DTYPES:
        step = ulp(at, dtype)
        error = logit_error(step, levels.gini)
        yield Measurement(f"smallest_kl_{dtype}", step, "nats")
        if levels.gini > 0:
            yield Measurement(f"logit_error_{dtype}", error, "logits")
        rows.append([dtype, step, error if levels.gini > 0 else None])
    if levels.gini > 0:
        yield Table("what a dtype can show at the floor", ("loss in", "smallest KL", "logit error"), rows, main=True)


def _histogram(name: str, values: NDArray[Any]) -> Iterator[Series]:
    import numpy as np

    if len(values) < 2 or float(values.max() - values.min()) <= 1e-9 * max(abs(float(values.max())), 1e-3):
        return  # one level has no shape
    counts, edges = np.histogram(values, bins=BINS)
    middle = 0.5 * (edges[1:] + edges[:-1])
    yield Series(name, [float(x) for x in middle], [float(y) for y in counts], "samples", "nats", kind="histogram")


def losses_seen(measured: Measured, levels: Levels) -> Iterator[Observation]:
    """Yield loss, KL, its distribution and the worst rows."""
    import numpy as np

    losses = measured.losses
    if losses is None or not losses.rows or losses.infinite:
        return
    left, se = losses.divergence.mean * levels.norm, losses.divergence.se * levels.norm
    loss = levels.floor + left
    yield Measurement("loss", loss, "nats")
    yield Measurement("loss", loss / LN2, "bits")
    yield Measurement("kl", left, "nats", interval=interval(left, se))
    yield Measurement("kl", left / LN2, "bits")
    if levels.gini > 0:
        yield Measurement("logit_error", logit_error(left, levels.gini), "logits")
    if levels.removable > LEARNABLE * levels.uniform:
        yield Measurement("share_removed", (levels.prior - loss) / levels.removable, "ratio")
    yield Measurement("largest_probability_error", losses.error, "probability")
    yield Measurement("agreement", losses.agree / losses.rows, "ratio")
    values = losses.spread.values
    for name, q in (("median", 0.5), ("q95", 0.95), ("q99", 0.99)):
        yield Measurement(f"row_kl_{name}", float(np.quantile(values, q)), "nats")
    total = float(losses.divergence.mean * losses.divergence.n)
    rows: list[list[str | float | None]] = [
        [str(row), kl, percent(kl / total) if total > 0 else ""] for kl, row in losses.worst
    ]
    yield Table("rows with the largest KL", ("row", "KL in nats", "share of the excess"), rows)
    yield from _histogram("row KL", values)


def contradictory(x: Source, labels: Source, measured: Measured, levels: Levels) -> Generator[Observation, None, float]:
    """ENT008; returns by how much equal inputs with different labels raise the floor, nats."""
    seen = contradictions(x, labels, measured)
    yield Measurement("repeated_inputs", float(seen.repeated), "inputs")
    if not seen.groups:
        return 0.0
    raised = levels.floor + seen.rise
    yield Measurement("floor_given_inputs", raised, "nats")
    rows = ", ".join(map(str, seen.example))
    yield found(
        "ENT008",
        f"{seen.groups} inputs occur with different labels ({seen.rows} of {levels.rows} rows): "
        f"the floor rises from {num(levels.floor)} to {num(raised)}",
        where=Where(file=labels.name),
        evidence=Evidence(
            seen.rise, "nats", threshold=0.0, n={"rows": levels.rows, "groups": seen.groups},
            detail=f"rows {rows} (counted from 0) hold one input",
        ),
        means="equal inputs get equal answers: the best is the mean label, and its entropy is left",
        fix="merge the rows and average their labels, or correct the wrong ones",
    )  # fmt: skip
    return seen.rise


def headline(measured: Measured, levels: Levels) -> Answer:
    """The answer when there are labels only."""
    if levels.rise > 0.0:
        return Answer(
            f"no function of these inputs gets below {both(levels.reachable)}: equal inputs carry different labels "
            f"(by the labels alone the floor is {num(levels.floor)}); the class prior gives {both(levels.prior)}"
        )
    if levels.certain and levels.floor <= 0.0 and not levels.entropy:
        return Answer(
            f"every label is certain: the floor is 0 nats, the class prior {num(levels.prior)}, "
            f"ln C {num(levels.uniform)}"
        )
    step = ulp(levels.floor + levels.entropy, "float32")
    smoothing = " with this smoothing" if measured.recipe.epsilon else ""
    smoothing += " and this teacher" if measured.mixed is not None else ""
    return Answer(
        f"no model gets below {plus_minus(levels.floor, levels.floor_se)} nats ({num(levels.floor / LN2)} bits) "
        f"on these labels{smoothing}; the class prior gives {both(levels.prior)}, "
        f"and float32 shows KL down to {num(step, 2)}"
    )
