"""Drift against its own null, and affine maps with honest errors."""

import numpy as np
import pytest
from scipy import stats

from nndiag.science import drift as d


def test_psi_null_mean_and_the_share_above_the_usual_alarm():
    rng = np.random.default_rng(0)
    values = np.array([d.psi(rng.normal(size=200), rng.normal(size=200))[0] for _ in range(2000)])
    assert values.mean() == pytest.approx(9 * (1 / 200 + 1 / 200), rel=0.06)  # .09; science.md measures .087
    assert (values > 0.1).mean() == pytest.approx(0.31, abs=0.04)


def test_no_drift_alarms_in_at_most_one_of_a_hundred_draws():
    rng = np.random.default_rng(1)
    alarms = sum(
        d.two_sample(rng.normal(size=(200, 1)), rng.normal(size=(200, 1))).adjusted[0] < 0.005 for _ in range(1000)
    )
    assert alarms <= 10


def test_many_features_share_one_error_rate():
    rng = np.random.default_rng(2)
    alarms = sum(
        (d.two_sample(rng.exponential(size=(200, 20)), rng.exponential(size=(200, 20))).adjusted < 0.005).any()
        for _ in range(150)
    )
    assert alarms <= 4


def test_a_quarter_sigma_is_found_at_ten_thousand():
    rng = np.random.default_rng(3)
    got = d.two_sample(rng.normal(size=(10_000, 1)), rng.normal(0.25, 1, size=(10_000, 1)))
    assert got.adjusted[0] < 1e-20
    assert got.ks[0] == pytest.approx(2 * stats.norm.cdf(0.125) - 1, abs=0.02)  # .0995
    assert got.psi[0] == pytest.approx(0.0598, abs=0.02)


def test_kolmogorov_agrees_with_scipy():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=300), rng.normal(0.2, 1, size=500)
    expected = stats.ks_2samp(x, y, method="asymp")
    got = d.two_sample(x[:, None], y[:, None])
    assert got.ks[0] == pytest.approx(expected.statistic, abs=1e-12)
    assert got.ks_p[0] == pytest.approx(expected.pvalue, rel=0.15)


def test_float32_rounding_is_no_drift():
    x = np.random.default_rng(5).integers(0, 256, (5000, 1)) / 255
    got = d.two_sample(x, (x.astype(np.float32) * np.float32(1.0000001)).astype(np.float64))
    assert got.ks[0] == 0
    assert got.adjusted[0] == 1


def test_constant_features_do_not_alarm_unless_they_change():
    one, two = np.ones((50, 1)), np.full((50, 1), 2.0)
    assert d.two_sample(one, one).adjusted[0] == 1
    assert d.two_sample(one, two).adjusted[0] < 1e-6


def test_holm_by_hand():
    assert d.holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_paired_affine_recovers_its_map():
    x = np.random.default_rng(6).normal(size=(400, 2))
    got = d.affine_paired(x, 3 * x - 1)
    assert got.slope == pytest.approx([3, 3])
    assert got.offset == pytest.approx([-1, -1])
    assert got.r2 == pytest.approx([1, 1])


def test_unpaired_slope_error_covers_what_repeated_draws_show():
    rng = np.random.default_rng(7)
    draws = [d.affine_unpaired(rng.exponential(size=(400, 1)), 2 * rng.exponential(size=(300, 1))) for _ in range(300)]
    slopes = np.array([draw.slope[0] for draw in draws])
    claimed = np.median([draw.slope_se[0] for draw in draws])
    assert slopes.mean() == pytest.approx(2, abs=0.05)
    assert claimed == pytest.approx(slopes.std(), rel=0.25)
    assert draws[0].r2[0] > 0.97


def test_too_close_is_chi_square_for_a_correct_pipeline_and_zero_for_a_leak():
    rng = np.random.default_rng(8)
    values = []
    for _ in range(300):
        train, test = rng.normal(size=(500, 64)), rng.normal(size=(200, 64))
        mean, sd = train.mean(0), train.std(0)
        values.append(d.too_close((train - mean) / sd, (test - mean) / sd)[0])
    assert np.mean(values) == pytest.approx(64, rel=0.05)
    test = (test - test.mean(0)) / test.std(0)
    train = (train - train.mean(0)) / train.std(0)
    value, chance = d.too_close(train, test)
    assert value < 1e-20
    assert chance < 1e-100
    assert d.too_close(np.ones((5, 1)), np.ones((5, 1)))[1] == 1.0
