"""The rules of scaling against the papers' numbers, closed forms and loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DistributedSampler

from nndiag.science import scaling


def test_goyal_scales_the_rate_32_fold_to_3_2():
    assert scaling.linear(0.1, 8192 / 256) == pytest.approx(3.2)


@pytest.mark.parametrize(("per_device", "devices", "lr"), [(32, 8, 0.1), (32, 256, 3.2), (32, 512, 6.4)])
def test_goyals_rate_is_a_tenth_per_256_samples(per_device, devices, lr):
    assert scaling.linear(0.1, per_device * devices / 256) == pytest.approx(lr)


def test_goyals_warm_up_of_5_epochs_at_8192_is_782_iterations():
    assert scaling.warmup_iterations(1_281_167, 8192) == 782


def test_the_square_root_rule_moves_both_betas_and_eps():
    scaled = scaling.adam_square_root(1e-3, 8, (0.9, 0.999), 1e-8)
    assert scaled.lr == pytest.approx(1e-3 * math.sqrt(8))
    assert scaled.betas == pytest.approx((0.2, 0.992))
    assert scaled.eps == pytest.approx(1e-8 / math.sqrt(8))
    assert scaled.valid


@pytest.mark.parametrize(("k", "valid"), [(2, True), (8, True), (9.9, True), (10, False), (16, False)])
def test_the_square_root_rule_ends_where_beta_one_reaches_zero(k, valid):
    scaled = scaling.adam_square_root(1e-3, k)
    assert scaled.valid is valid
    assert scaled.largest_k == pytest.approx(10)


def test_a_sixteenfold_batch_asks_for_a_negative_beta():
    assert scaling.adam_square_root(1.0, 16).betas[0] == pytest.approx(-0.6)


@pytest.mark.parametrize(("k", "expected"), [(2, 1.861), (8, 5.251), (64, 11.204)])
def test_gain_at_a_noise_scale_of_395_8_and_batch_32(k, expected):
    assert scaling.gain(k, 395.8, 32) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("k", [2, 8, 64])
def test_gain_equals_adascales_ratio_of_second_moments(k):
    signal, noise, batch = 0.462, 182.9, 32
    variance = noise / batch
    adascale = (variance + signal) / (variance / k + signal)
    assert scaling.gain(k, noise / signal, batch) == pytest.approx(adascale)


def test_gain_is_linear_far_below_the_noise_scale_and_saturates_far_above():
    assert scaling.gain(8, 1e9, 32) == pytest.approx(8, rel=1e-5)
    assert scaling.gain(1e9, 395.8, 32) == pytest.approx(1 + 395.8 / 32, rel=1e-6)


def test_smiths_noise_is_kept_by_a_rate_of_8146():
    assert scaling.smith_rate(0.1, 128, 1024, 50_000) == pytest.approx(0.8146, abs=5e-5)


def test_an_absorbed_rate_starts_at_13_percent_and_needs_22_steps():
    share, steps = scaling.absorbed_momentum(32, 0.9)
    assert share == pytest.approx(0.128, abs=1e-3)
    assert steps == 22


def test_an_absorbed_rate_follows_the_loop():
    momentum, jump = 0.9, 32.0
    buffer = 1.0 / (1 - momentum)  # steady at rate 1, gradient 1
    share, steps = 0.0, 0
    while share < 0.9:
        buffer = momentum * buffer + jump
        share = buffer / (jump / (1 - momentum))
        steps += 1
    assert scaling.absorbed_momentum(jump, momentum)[1] == steps


def test_a_weight_average_reaches_25_6_epochs_then_102_4():
    samples = 50_000
    assert scaling.horizon(0.9999, 128) / samples == pytest.approx(25.6)
    assert scaling.horizon(0.9999, 512) / samples == pytest.approx(102.4)
    assert scaling.scaled_ema(0.9999, 4) == pytest.approx(0.9996, abs=1e-7)


@pytest.mark.parametrize(("n", "w", "repeats"), [(10, 4, 2), (50_001, 8, 7), (3, 8, 5), (50_000, 8, 0)])
def test_padding_is_what_distributed_sampler_repeats(n, w, repeats):
    assert scaling.sampler_padding(n, w) == repeats
    if n < 100:
        drawn = [i for rank in range(w) for i in DistributedSampler(range(n), w, rank, shuffle=False)]
        assert len(drawn) - n == repeats


def test_shards_of_4_4_2_give_the_small_ones_samples_five_thirds_of_their_weight():
    weights = scaling.mean_of_means((4, 4, 2))
    assert weights.heaviest == pytest.approx(5 / 3)
    assert weights.effective == pytest.approx(9)


def test_shard_weights_are_those_autograd_sees():
    x = torch.ones(10, dtype=torch.float64, requires_grad=True)
    parts = x.split([4, 4, 2])
    torch.stack([part.mean() for part in parts]).mean().backward()
    weights = scaling.mean_of_means((4, 4, 2))
    assert float(x.grad.max()) * 10 == pytest.approx(weights.heaviest)
    assert float(x.grad.min()) * 10 == pytest.approx(weights.lightest)


@pytest.mark.parametrize(("drop", "steps"), [(False, 391), (True, 390)])
def test_the_last_short_batch_counts_unless_dropped(drop, steps):
    assert scaling.steps_per_epoch(50_000, 128, drop_last=drop) == steps


def test_a_factor_is_named_when_it_is_close_and_not_when_it_is_not():
    known = {"W": 8.0, "A": 4.0, "one": 1.0}
    assert scaling.name_of_factor(8.05, known) == ("W", 8.0)
    assert scaling.name_of_factor(1.0, known) is None
    assert scaling.name_of_factor(5.5, known) is None


@pytest.mark.parametrize("rho", [0.5, 1.0, 1.5])
def test_elastic_averaging_needs_no_rate_per_worker_for_any_number_of_workers(rho):
    # Zhang et al. 2015: p workers on a quadratic converge at one rate per worker while p·α < 2.
    p, eta = 4, 0.1
    alpha = rho / p
    x, z = torch.linspace(1, 2, p, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    for _ in range(2000):
        pull = x - z
        x, z = x - eta * x - alpha * pull, z + alpha * pull.sum()
    assert float(x.abs().max()) < 1e-6
