"""The tail of a curve: its mean, how sure it is, whether it rests, and what it was rounded to."""

import numpy as np
import pytest

from nndiag.science.entropy_curve import coarse_dtype, tail_of


def test_the_standard_error_of_independent_noise_covers_the_truth():
    inside = 0
    for seed in range(200):
        tail = tail_of(1.0 + np.random.RandomState(seed).randn(400) * 0.1, 100)
        inside += abs(tail.mean - 1.0) <= 1.96 * tail.se
    assert 175 <= inside <= 199


def test_smoothed_noise_has_a_larger_standard_error_than_it_looks():
    noise = np.random.RandomState(0).randn(4000)
    smooth = np.convolve(noise, np.ones(50) / 50, mode="valid")
    tail = tail_of(smooth, 1000)
    assert tail.se > 3.0 * smooth[-1000:].std() / np.sqrt(1000)


def test_a_descending_tail_is_neither_flat_nor_silent_about_it():
    values = 2.0 - 0.001 * np.arange(1000) + np.random.RandomState(0).randn(1000) * 0.01
    tail = tail_of(values, 100)
    assert tail.descending
    assert not tail.flat(0.01)


def test_a_plateau_is_flat():
    values = np.concatenate([np.linspace(2.3, 1.46, 100), np.full(300, 1.46)])
    tail = tail_of(values + np.random.RandomState(0).randn(400) * 0.002, 40)
    assert tail.flat(0.01)
    assert not tail.descending


def test_a_noisy_curve_is_not_called_flat_because_nothing_can_be_seen():
    tail = tail_of(1.0 + np.random.RandomState(3).randn(60) * 0.5, 6)
    assert not tail.flat(0.01)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_short_curves_have_a_tail(n):
    tail = tail_of(np.linspace(2.0, 1.0, n), 1)
    assert tail.points == n
    assert tail.mean == pytest.approx(1.5)


def bfloat16(values):
    return (np.asarray(values, dtype=np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_a_log_in_half_precision_is_recognised():
    values = 1.0 + np.exp(-np.arange(100) / 20.0)
    assert coarse_dtype(bfloat16(values), 5e-9) == "bfloat16"
    assert coarse_dtype(values.astype(np.float16), 5e-9) == "float16"
    assert coarse_dtype(np.round(bfloat16(values), 4), 5e-5) == "bfloat16"


@pytest.mark.parametrize("places", [2, 3, 4, 6])
def test_rounded_text_is_no_half_precision(places):
    values = np.round(1.0 + np.exp(-np.arange(100) / 20.0), places)
    assert coarse_dtype(values, 0.5 * 10.0**-places) is None
