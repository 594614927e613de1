"""The gradient noise scale: how far a batch can grow before it stops saving steps.

McCandlish et al. 2018 (1812.06162), appendix A. E|g_b|² = |G|² + tr(Σ)/b for a gradient over b samples, so two
batch sizes, or the inner products of several gradients of one size, give both terms without bias.
The ratio B_simple = tr(Σ)/|G|² is formed last, from separate means: a mean of ratios is biased upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """tr(Σ), |G|² and their ratio, with what the data support."""

    noise: float  # tr(Σ): variance of one sample's gradient, summed over parameters
    signal: float  # |G|²
    value: float  # B_simple, in samples; inf when the signal is not positive
    interval: tuple[float, float]  # bootstrap, 95 %; the upper end is inf when not resolved
    resolved: bool  # whether |G|² is separated from zero
    shards: int

    @property
    def lower_bound(self) -> float:
        """What B_simple is at least, also where |G|² is not resolved."""
        return self.interval[0]


def from_gram(gram: Floats, batch: float, *, draws: int = 1000, seed: int = 0) -> NoiseScale:
    """Estimate from the inner products of gradients at the same weights.

    |G|² is the mean over pairs of *different* shards (a U-statistic), so no shard's own noise enters it; tr(Σ) is
    what a shard's squared norm has beyond it. The bootstrap draws shards with multinomial weights and keeps only
    pairs of different shards, or a repeated shard would count its own noise as signal.

    Args:
        gram: (shards, shards) inner products g_i·g_j; NaN-free.
        batch: Samples per shard, b.
        draws: Bootstrap draws.
        seed: For the draws.

    Raises:
        ValueError: With fewer than two shards: undefined, as in AdaScale for one worker without accumulation.
    """
    shards = len(gram)
    if shards < 2:
        raise ValueError("the noise scale needs two gradients or more")
    diagonal = np.diag(gram)
    off = gram - np.diag(diagonal)

    def terms(weights: Floats) -> tuple[Floats, Floats]:
        total = weights.sum(-1)
        pairs = np.einsum("di,ij,dj->d", weights, off, weights)  # (draws,)
        signal = pairs / np.maximum(total**2 - (weights**2).sum(-1), 1e-300)
        return signal, batch * (weights @ diagonal / total - signal)

    rng = np.random.default_rng(seed)
    weights = rng.multinomial(shards, np.full(shards, 1 / shards), size=draws).astype(float)  # (draws, shards)
    weights = weights[(weights > 0).sum(-1) > 1]
    signal, noise = (float(part[0]) for part in terms(np.ones((1, shards))))
    return _assemble(signal, noise, *terms(weights), shards)


def from_norms(  # noqa: PLR0913 - two norms with their batches
    small: Floats, big: Floats, small_batch: float, big_batch: float, *, draws: int = 1000, seed: int = 0
) -> NoiseScale:
    """Estimate from squared norms at two batch sizes, step by step (equation A.2).

    This is what a data-parallel run has anyway: the local norms before the all-reduce and the norm after it.

    Args:
        small: (steps,) mean over ranks of |g_b|².
        big: (steps,) |g_B|² of the averaged gradient.
        small_batch: b, samples.
        big_batch: B, samples.
        draws: Bootstrap draws over steps.
        seed: For the draws.
    """
    if big_batch <= small_batch:
        raise ValueError("the larger batch must be larger than the smaller one")
    signal = (big_batch * big - small_batch * small) / (big_batch - small_batch)  # (steps,)
    noise = (small - big) / (1 / small_batch - 1 / big_batch)  # (steps,)
    steps = len(signal)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, steps, size=(draws, steps))
    return _assemble(float(signal.mean()), float(noise.mean()), signal[picks].mean(-1), noise[picks].mean(-1), steps)


def _assemble(signal: float, noise: float, signals: Floats, noises: Floats, shards: int) -> NoiseScale:
    """Join the point estimate and its draws; where a draw's signal is not positive the ratio is unbounded."""
    noise = max(noise, 0.0)
    resolved = bool(signal > 0 and np.quantile(signals, 0.025) > 0)
    ratios = np.where(signals > 0, np.maximum(noises, 0.0) / np.where(signals > 0, signals, 1.0), np.inf)
    low, high = float(_quantile(ratios, 0.025)), float(_quantile(ratios, 0.975))
    value = noise / signal if signal > 0 else float("inf")
    return NoiseScale(noise, signal, value, (low, high if resolved else float("inf")), resolved, shards)


def _quantile(values: Floats, share: float) -> float:
    """Order statistic without interpolation, so that infinities stay infinities."""
    return float(np.sort(values)[min(len(values) - 1, int(share * len(values)))])


def steps_multiple(batch: float, critical: float) -> float:
    """Return steps needed over the least possible: 1 + B_crit/B (equation 2.7 with 5.1)."""
    return 1 + critical / batch


def samples_multiple(batch: float, critical: float) -> float:
    """Return samples needed over the least possible: 1 + B/B_crit."""
    return 1 + batch / critical


def speedup(base_batch: float, new_batch: float, critical: float) -> float:
    """Return how many times fewer steps the larger batch needs: the AdaScale gain again."""
    return steps_multiple(base_batch, critical) / steps_multiple(new_batch, critical)
