"""ENT009: is the curve in the unit of the floor? Two coincidences are needed, one may be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.entropy_floor.words import LN2, num

if TYPE_CHECKING:
    from nndiag.checks.entropy_floor.levels import Levels
    from nndiag.science.entropy_curve import Tail

START = 0.05  # a start within this of ln C is that of an untrained model
ENOUGH = 0.05  # nats: a floor below this tells nothing about units
FEWEST_CLASSES = 50  # below it, a start at C may be that of a bad initialisation
NOISE = 0.02  # of a level: a tail less sure than this matches none
SHARP = 0.003  # of a level: a match that is no chance
FEWEST_SUMMED = 16  # a start at fewer times ln C may be that of a bad initialisation too
WORSE = 1.1  # times ln C: a curve that ends above it was never better than equal probabilities
FALLEN = 1.5  # times: a curve that fell by less may be one that never learnt
# over which sums of losses run: batch sizes and lengths as people choose them
SIZES = (2, 3, 4, 8, 10, 16, 20, 24, 32, 48, 50, 64, 96, 100, 128, 200, 256, 384, 500, *(512 << i for i in range(12)))
BAD_START = 1.3  # times ln C: where most bad initialisations begin
BITS = ("bits, not nats", "pass --units bits, or multiply the curve by ln 2")
MEAN = 'average over samples and tokens as the floor does: reduction="mean"'


@dataclass(frozen=True)
class Mismatch:
    """What the curve seems to be."""

    words: str
    fix: str
    factor: float  # curve over nats per sample
    proof: str
    sure: bool = True  # whether the reading is named; a level that no per-sample loss keeps is only noted
    ends: bool = False  # whether the end is explained too


def mismatch(start: float, tail: Tail, levels: Levels, tokens: int) -> Mismatch | None:
    """Return the unit that explains a curve better than nats per sample; None when nats do, or nothing does.

    Args:
        start: First value.
        tail: The curve's tail.
        levels: Levels in nats.
        tokens: Labels per row; 1 for plain classification.
    """
    floor, uniform = levels.floor, levels.uniform
    if uniform <= 0.0 or tail.mean <= 0.0 or start <= 0.0:
        return None
    natural = abs(start - uniform) <= START * uniform
    near = max(min(3.0 * tail.se, 0.02 * levels.span), 0.005 * levels.span)
    at_level = min(abs(tail.mean - level) for level in (floor, levels.prior)) <= near
    if natural or at_level:
        return None
    powers, multiple = _perplexity(start, tail, levels), _factor(start, tail, levels, tokens)
    if powers and multiple and powers.ends < multiple.ends:
        return multiple  # a sum over many tokens may begin near C by chance: its end is no chance
    return powers or multiple or _never_better(start, tail, levels)


def _perplexity(start: float, tail: Tail, levels: Levels) -> Mismatch | None:
    """A start at C, and a second sign: many classes, an end at exp(floor), at 1, or above ln C."""
    floor, classes = levels.floor, levels.classes
    if start < 3.0 * math.log(classes) or tail.least < 1.0:
        return None
    begins = abs(math.log(start) - math.log(classes)) <= START * math.log(classes)
    ends = abs(math.log(tail.mean) - floor) <= 0.02 * max(floor, 1.0) and tail.flat(0.01)
    if not begins or not (ends or classes >= FEWEST_CLASSES or _above(start, tail, levels.uniform)):
        return None
    return Mismatch(
        "perplexity, exp(loss)",
        "compare ln(perplexity) with the floor, or name the column perplexity",
        tail.mean / max(math.log(tail.mean), 1e-12),
        f"it starts near C = {classes}" + (" and ends near exp(floor)" if ends else ""),
        ends=ends,
    )


def _above(start: float, tail: Tail, uniform: float, fallen: float = FALLEN) -> bool:
    """Whether the curve has fallen and come to rest, and yet lies above ln C from end to end."""
    return min(tail.least, tail.mean) >= WORSE * uniform and start >= fallen * tail.mean and tail.flat(0.02 * start)


def _nearest(times: float, rows: int) -> int:
    """The usual size, or the number of rows, that is nearest to so many times."""
    return min((size for size in (rows, *SIZES) if size > 1), key=lambda size: abs(math.log(times / size)))


def _never_better(start: float, tail: Tail, levels: Levels) -> Mismatch | None:
    """A curve that has learnt and come to rest, and yet lies above ln C from end to end: no mean over samples does."""
    uniform = levels.uniform
    possible = uniform / max(levels.floor, 1e-12)  # a loss falls from ln C to its floor at most
    half = 1.0 + 0.5 * (possible - 1.0)
    if not _above(start, tail, uniform, min(FALLEN, half)):
        return None
    begin = start / uniform
    nearest = _nearest(begin, levels.rows)
    usual = nearest >= FEWEST_SUMMED and abs(begin / nearest - 1.0) <= START
    if usual and tail.mean / nearest >= levels.floor * (1.0 - START):
        over = "all samples" if nearest == levels.rows else f"about {nearest} samples or tokens"
        return Mismatch(
            f"a sum over {over}", MEAN, float(nearest),
            f"it starts at {num(begin, 4)} times ln C and stays above ln C; {num(tail.mean / nearest, 3)} per sample",
        )  # fmt: skip
    if not _above(start, tail, uniform):
        return None
    return Mismatch(
        "no mean over samples: a sum, a perplexity, or a loss with further terms",
        "log the cross-entropy alone, averaged over samples and tokens",
        tail.mean / uniform,
        f"it falls by {num(start / tail.mean, 3)} times and still ends above ln C, what equal probabilities give",
        sure=False,
    )


def _factor(start: float, tail: Tail, levels: Levels, tokens: int) -> Mismatch | None:
    """A constant factor between the curve and nats per sample, seen at both ends or in one known ratio."""
    begin = start / levels.uniform
    noise = min(max(3.0 * tail.se / tail.mean, 0.01), NOISE)
    for known, words, fix in _known(levels.classes, tokens):
        starts = abs(begin / known - 1.0) <= START
        ends = _ends(tail, known, levels, noise)
        if starts and (ends or (known == tokens and tokens >= 4)):
            proof = f"it starts at {num(begin, 4)} times ln C" + (" and ends at as many times a level" if ends else "")
            return Mismatch(words, fix, known, proof, ends=ends)
        # a log may begin late: then the end must be sharper, and its start must not contradict
        late = levels.floor > 2 * ENOUGH and abs(tail.mean / (known * levels.floor) - 1.0) <= SHARP
        if known == 1.0 / LN2 and late and begin < known * (1 + START) and tail.flat(0.01 * levels.span):
            return Mismatch(words, fix, known, f"it rests at {num(tail.mean / levels.floor, 5)} times the floor")
    if levels.floor > ENOUGH and tail.flat(0.01 * tail.mean):
        end = tail.mean / levels.floor
        size = _nearest(end, levels.rows)
        if abs(begin / end - 1.0) <= START and abs(end / size - 1.0) <= noise:
            return Mismatch(
                f"a sum: {num(end, 3)} times the loss per sample", MEAN, end,
                f"it starts at {num(begin, 3)} times ln C and ends at {num(end, 3)} times the floor",
            )  # fmt: skip
    return _rests_at_prior(begin, tail, levels)


def _rests_at_prior(begin: float, tail: Tail, levels: Levels) -> Mismatch | None:
    """The class prior in bits, or summed: where no mean over samples rests, to the curve's own noise.

    A constant answer gives the prior, so a mean in nats that lies above ln C falls further. The start is the second
    sign: that of an untrained model in the same unit, or somewhat above it.
    """
    if levels.prior <= ENOUGH or tail.mean < WORSE * levels.uniform or not tail.flat(0.005 * tail.mean):
        return None
    size = float(_nearest(tail.mean / levels.prior, levels.rows))
    bits = abs(tail.mean * LN2 / levels.prior - 1.0) <= 2.0 * SHARP
    factor = 1.0 / LN2 if bits else size
    near = min(max(3.0 * tail.se / tail.mean, 0.0005), SHARP)
    # finite samples of even classes put the prior a little below ln C, where a constant answer may stand as well
    level = min((levels.prior, levels.uniform), key=lambda one: abs(tail.mean / factor - one))
    end = tail.mean / level
    if abs(end / factor - 1.0) > near or not 1.0 - START <= begin / factor <= BAD_START:
        return None
    proof = f"it starts at {num(begin, 4)} times ln C and rests at {num(end, 5)} times what a constant answer gives"
    if bits:
        return Mismatch(f"{BITS[0]}, at the class prior: the inputs are ignored", BITS[1], factor, proof, ends=True)
    over = f"a sum: {num(size)} times the class prior per sample (samples, micro-batches or several losses added)"
    return Mismatch(over, MEAN, factor, proof, ends=True)


def _ends(tail: Tail, known: float, levels: Levels, noise: float) -> bool:
    """Whether the tail lies at a level in the other unit; at the prior only where it rests, so that a start is none."""
    floor, prior = levels.floor, levels.prior
    if floor > ENOUGH and abs(tail.mean / (known * floor) - 1.0) <= noise:
        return True
    near = SHARP if prior > (1.0 - 2 * START) * levels.uniform else noise
    return prior > ENOUGH and abs(tail.mean / (known * prior) - 1.0) <= near and tail.flat(0.005 * tail.mean)


def _known(classes: int, tokens: int) -> list[tuple[float, str, str]]:
    """Factors that have a name."""
    known = [
        (1.0 / LN2, *BITS),
        (LN2, "nats read as bits", "leave --units bits out: the curve is in nats"),
        (1.0 / math.log(10.0), "log10, not nats", "multiply the curve by ln 10 = 2.302585"),
        (
            1.0 / classes,
            f"a mean over samples and classes: 1/{classes} of the loss",
            'F.kl_div(reduction="mean") divides by C as well: use "batchmean"',
        ),
    ]
    if tokens > 1:
        known.append((float(tokens), f"a sum over {tokens} tokens", "divide by the tokens that count"))
    return known
