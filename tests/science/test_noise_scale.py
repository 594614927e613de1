"""The noise scale on gradients whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nndiag.science import noise_scale

D, TRUE = 60, 395.8


def truth(rng):
    mean = rng.normal(size=D)
    mean *= np.sqrt(0.462) / np.linalg.norm(mean)
    spread = np.full(D, np.sqrt(0.462 * TRUE / D))
    return mean, spread


def shard_gradients(rng, shards, batch):
    mean, spread = truth(np.random.default_rng(0))
    return mean + rng.normal(size=(shards, D)) * spread / np.sqrt(batch)


def test_the_ratio_of_means_over_20000_draws_is_within_5_percent():
    rng = np.random.default_rng(1)
    draws, ranks, batch = 20_000, 8, 32
    g = shard_gradients(rng, draws * ranks, batch).reshape(draws, ranks, D)
    small, big = (g**2).sum(-1).mean(-1), (g.mean(1) ** 2).sum(-1)
    found = noise_scale.from_norms(small, big, batch, batch * ranks, draws=200)
    assert found.value == pytest.approx(TRUE, rel=0.05)
    assert found.resolved


def test_the_mean_of_ratios_is_biased_upwards_where_the_ratio_of_means_is_not():
    rng = np.random.default_rng(2)
    draws, ranks, batch = 4000, 8, 64
    g = shard_gradients(rng, draws * ranks, batch).reshape(draws, ranks, D)
    small, big = (g**2).sum(-1).mean(-1), (g.mean(1) ** 2).sum(-1)
    B = batch * ranks
    signal, noise = (B * big - batch * small) / (B - batch), (small - big) / (1 / batch - 1 / B)
    found = noise_scale.from_norms(small, big, batch, B, draws=100)
    assert abs(found.value / TRUE - 1) < 0.03 < (noise / signal).mean() / TRUE - 1


def test_the_interval_covers_the_truth_in_90_percent_of_200_repetitions():
    covered = 0
    for repeat in range(200):
        g = shard_gradients(np.random.default_rng(100 + repeat), 40, 64)
        low, high = noise_scale.from_gram(g @ g.T, 64, draws=300, seed=repeat).interval
        covered += low <= TRUE <= high
    assert covered >= 180


def test_the_interval_from_norms_covers_the_truth_in_90_percent_of_200_repetitions():
    covered = 0
    for repeat in range(200):
        g = shard_gradients(np.random.default_rng(900 + repeat), 40 * 8, 64).reshape(40, 8, D)
        small, big = (g**2).sum(-1).mean(-1), (g.mean(1) ** 2).sum(-1)
        low, high = noise_scale.from_norms(small, big, 64, 512, draws=300, seed=repeat).interval
        covered += low <= TRUE <= high
    assert covered >= 180


def test_a_naive_squared_norm_of_the_large_batch_is_two_and_a_half_times_the_signal():
    # science.md 6.3: |G|² = .462, S = 182.9, B = 256: E|G_B|² = 1.176
    rng = np.random.default_rng(3)
    g = shard_gradients(rng, 20_000, 256)
    assert (g**2).sum(-1).mean() == pytest.approx(0.462 + 182.9 / 256, rel=0.02)


def test_pure_noise_is_not_resolved_and_still_has_a_lower_bound():
    g = np.random.default_rng(4).normal(size=(24, D))
    found = noise_scale.from_gram(g @ g.T, 32)
    assert not found.resolved
    assert found.interval[1] == float("inf")
    assert found.lower_bound > 32


def test_equal_gradients_have_no_noise():
    g = np.ones((8, D))
    found = noise_scale.from_gram(g @ g.T, 16)
    assert found.value == pytest.approx(0.0, abs=1e-9)
    assert found.resolved


def test_one_gradient_alone_is_refused():
    with pytest.raises(ValueError, match="two gradients"):
        noise_scale.from_gram(np.ones((1, 1)), 16)


def test_equal_batches_are_refused():
    with pytest.raises(ValueError, match="larger"):
        noise_scale.from_norms(np.ones(3), np.ones(3), 8, 8)


def test_a_regression_in_50_dimensions_shows_its_noise_scale_of_687():
    # y = x·w* + e at weights w: per-sample gradient x (x·d - e), d = w - w*.
    # |G|² = |d|², tr(Σ) = (d+1)|d|² + dim·s²  (Isserlis), so B = (d + 1) + dim·s²/|d|².
    dim, true = 50, 687.0
    generator = torch.Generator().manual_seed(0)
    gap = torch.randn(dim, generator=generator, dtype=torch.float64)
    noise = float(torch.sqrt((true - (dim + 1)) * (gap @ gap) / dim))
    batch, shards = 64, 2000
    x = torch.randn(shards, batch, dim, generator=generator, dtype=torch.float64)
    residual = x @ gap - noise * torch.randn(shards, batch, generator=generator, dtype=torch.float64)
    g = (x * residual[..., None]).mean(1).numpy()  # (shards, dim)
    found = noise_scale.from_gram(g @ g.T, batch, draws=50)
    assert found.value == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize(("share", "steps", "samples"), [(0.1, 11, 1.1), (1, 2, 2), (10, 1.1, 11)])
def test_steps_and_samples_trade_against_each_other(share, steps, samples):
    assert noise_scale.steps_multiple(share * 100, 100) == pytest.approx(steps)
    assert noise_scale.samples_multiple(share * 100, 100) == pytest.approx(samples)
    product = (noise_scale.steps_multiple(share, 1) - 1) * (noise_scale.samples_multiple(share, 1) - 1)
    assert product == pytest.approx(1)
