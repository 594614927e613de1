"""How learning rate, warm-up and the constants counted in steps follow the batch.

Plain Python on purpose: the arithmetic of a recipe is answered without numpy or torch.
Notation: k = new batch / old batch, W devices, A accumulation steps, N samples in the data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def linear(lr: float, k: float) -> float:
    """Scale the rate with the batch (Goyal et al. 2017, 1706.02677, section 2.1): lr·k.

    Right for SGD while the gradient is mostly noise, that is while the new batch is far below the noise scale.

    Example:
        >>> round(linear(0.1, 32), 6)
        3.2
    """
    return lr * k


def square_root(lr: float, k: float) -> float:
    """Scale the rate with the root of the batch (Hoffer et al. 2017; for Adam Malladi et al. 2022): lr·√k."""
    return lr * math.sqrt(k)


def gain(k: float, noise_scale: float, base_batch: float) -> float:
    """Return the AdaScale gain r = (1 + B_n/b) / (1 + B_n/(b·k)), the multiplier a measured noise scale supports.

    It is k while b·k is far below B_n (the linear rule) and saturates at 1 + B_n/b. The same number follows from
    eps_opt(B) = eps_max / (1 + B_n/B) (McCandlish et al. 2018, 1812.06162, equation 2.6) and from AdaScale's
    (s² + m²)/(s²/k + m²) (Johnson et al. 2020, 2007.05105).

    Args:
        k: New batch over old batch.
        noise_scale: B_simple = tr(Σ)/|G|², in samples.
        base_batch: Old batch b, in samples.

    Returns:
        Multiplier for the learning rate.

    Example:
        >>> [round(gain(k, 395.8, 32), 3) for k in (2, 8, 64)]
        [1.861, 5.251, 11.204]
    """
    return (1 + noise_scale / base_batch) / (1 + noise_scale / (base_batch * k))


def scaled_beta(beta: float, k: float) -> float:
    """Return 1 - k(1 - β): the same memory in samples (Malladi et al. 2022, 2205.10287). May leave (0, 1)."""
    return 1 - k * (1 - beta)


@dataclass(frozen=True, slots=True)
class AdamScaling:
    """Adam's constants under the square-root rule."""

    lr: float
    betas: tuple[float, float]
    eps: float
    valid: bool  # both betas inside (0, 1)
    largest_k: float  # the rule ends here: 1 / (1 - β1)


def adam_square_root(lr: float, k: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> AdamScaling:
    """Apply the square-root rule for Adam: lr·√k, β → 1 - k(1 - β), eps/√k (Malladi et al. 2022, definition 5).

    The rule preserves the stochastic differential equation, so it exists only while both betas stay positive
    and only while noise dominates.

    Example:
        >>> round(adam_square_root(1e-3, 8).betas[0], 9), adam_square_root(1e-3, 16).valid
        (0.2, False)
    """
    first, second = (scaled_beta(beta, k) for beta in betas)
    valid = 1e-9 < first < 1 and 1e-9 < second < 1
    slowest = max(1 - beta for beta in betas)
    return AdamScaling(
        square_root(lr, k), (first, second), eps / math.sqrt(k), valid, 1 / slowest if slowest else math.inf
    )


def scaled_ema(decay: float, k: float) -> float:
    """Return ρ^k: the weight average that reaches as far back in samples (Busbridge et al. 2023, 2307.13813)."""
    return float(decay**k)


def horizon(decay: float, batch: float) -> float:
    """Return how many samples an average with this decay per update reaches back: batch / (1 - ρ)."""
    return batch / (1 - decay) if decay < 1 else math.inf


def steps_per_epoch(samples: float, batch: float, *, drop_last: bool = False) -> int:
    """Return the updates in one pass over the data; the last short batch counts unless it is dropped."""
    whole = math.floor(samples / batch + 1e-9)
    return max(1, whole if drop_last else math.ceil(samples / batch - 1e-9))


def warmup_iterations(samples: float, batch: float, epochs: float = 5.0) -> int:
    """Return Goyal's gradual warm-up: `epochs` passes, in updates (section 2.2).

    Example:
        >>> warmup_iterations(1_281_167, 8192)
        782
    """
    return max(1, round(epochs * samples / batch))


def smith_rate(lr: float, batch: float, new_batch: float, samples: float) -> float:
    """Return the rate that keeps Smith's noise g = lr (N/B - 1)/(1 - m) (Smith & Le 2018, 1710.06451).

    Example:
        >>> round(smith_rate(0.1, 128, 1024, 50_000), 4)
        0.8146
    """
    return lr * (samples / batch - 1) / (samples / new_batch - 1)


def absorbed_momentum(jump: float, momentum: float, reach: float = 0.9) -> tuple[float, int]:
    """Say what a jump of the rate does to a momentum buffer that has the rate inside it.

    v ← m·v + lr·g keeps the old rate for about 1/(1 - m) steps (Goyal et al. 2017, remark 2: multiply v by
    lr_new/lr_old). torch.optim.SGD keeps the rate outside and needs nothing.

    Args:
        jump: New rate over old rate.
        momentum: m.
        reach: Share of the right update to wait for.

    Returns:
        The first update as a share of the right one, and the steps until `reach` of it.
    """
    share, steps = momentum / jump + (1 - momentum), 1
    first = share
    while share < reach and steps < 100_000:
        share, steps = momentum * share + (1 - momentum), steps + 1
    return first, steps


def sampler_padding(samples: int, devices: int) -> int:
    """Return how many samples DistributedSampler repeats so that every rank gets as many: ceil(N/W)·W - N.

    Example:
        >>> sampler_padding(10, 4), sampler_padding(50_001, 8), sampler_padding(3, 8)
        (2, 7, 5)
    """
    return -(-samples // devices) * devices - samples


@dataclass(frozen=True, slots=True)
class Weights:
    """What a mean of per-rank means does to the samples of unequal shards."""

    heaviest: float  # weight of a sample in the smallest shard over its fair weight
    lightest: float  # weight of a sample in the largest shard over its fair weight
    effective: float  # (Σw)²/Σw²: as many equally weighted samples


def mean_of_means(counts: tuple[int, ...]) -> Weights:
    """Return the weights that a mean of per-rank means gives: N/(W·n_k) instead of 1.

    Example:
        >>> shards = mean_of_means((4, 4, 2))
        >>> round(shards.heaviest, 2), round(shards.effective, 6)
        (1.67, 9.0)
    """
    used = [count for count in counts if count > 0]
    fair = sum(used) / len(used)
    squares = sum(count * (fair / count) ** 2 for count in used)
    return Weights(fair / min(used), fair / max(used), sum(used) ** 2 / squares)


def name_of_factor(ratio: float, candidates: dict[str, float], tolerance: float = 0.02) -> tuple[str, float] | None:
    """Return the name and value of the candidate that equals this ratio, the closest first; None when none does.

    Args:
        ratio: What was found, right being 1.
        candidates: Named factors, for example {"W": 8, "1/W": 1/8}.
        tolerance: Relative distance that still counts as equal.
    """
    near = sorted(
        (abs(math.log(ratio / value)), place, name, value)
        for place, (name, value) in enumerate(candidates.items())
        if value > 0 and abs(value - 1) > 1e-9
    )
    if near and near[0][0] <= math.log1p(tolerance):
        return near[0][2], near[0][3]
    return None
