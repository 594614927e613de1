"""Intervals of statistics of rows, against closed forms and coverage by simulation."""

import numpy as np
import pytest

from nndiag.science.resampling import jackknife, resampled


def test_the_interval_of_a_mean_is_1_96_standard_errors():
    x = np.random.default_rng(0).normal(3, 2, (900, 1, 1))
    low, high = resampled(x).interval(lambda mean, _sd: mean[:, 0], float(x.mean()))
    assert high - low == pytest.approx(2 * 1.96 * 2 / 30, rel=0.15)
    assert low < x.mean() < high


def test_a_sample_that_stands_for_more_rows_is_surer():
    x = np.random.default_rng(0).normal(size=(400, 2, 3))
    alone, part = (resampled(x, of=n).interval(lambda mean, _sd: mean[:, 0], 0.0) for n in (400, 40_000))
    assert np.diff(part) == pytest.approx(np.diff(alone) / 10)


def test_whole_rows_are_drawn_because_pixels_repeat_each_other():
    x = np.repeat(np.random.default_rng(0).normal(size=(100, 1, 1)), 64, axis=2)
    low, high = resampled(x).interval(lambda mean, _sd: mean[:, 0], float(x.mean()))
    assert high - low == pytest.approx(2 * 1.96 / 10, rel=0.25)


def test_an_offset_of_a_million_sd_costs_no_digits():
    x = 1e6 + np.random.default_rng(0).normal(size=(500, 1, 1))
    assert resampled(x).sd[0, 0] == pytest.approx(x.std(), rel=1e-9)


def test_one_row_and_a_constant_have_intervals_of_no_width():
    for x in (np.ones((1, 2, 1)), np.full((50, 2, 1), 7.0)):
        assert resampled(x).interval(lambda mean, _sd: mean[:, 0], 7.0) == (7.0, 7.0)


def test_ninety_five_of_a_hundred_intervals_hold_the_true_spread():
    hits = 0
    for seed in range(200):
        x = np.random.default_rng(seed).normal(0, 3, (200, 1, 1))
        low, high = resampled(x, seed=seed).interval(lambda _mean, sd: sd[:, 0], float(x.std()))
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_jackknife_of_a_mean_is_its_standard_error():
    groups = np.random.default_rng(1).normal(size=16)
    without = (groups.sum() - groups) / 15
    low, high = jackknife(float(groups.mean()), without)
    assert (high - low) / 2 == pytest.approx(1.96 * groups.std(ddof=1) / 4)
    assert jackknife(0.0, without[:2]) is None
