"""Streaming moments against two passes in float64."""

import numpy as np
import pytest

from nndiag.science import moments as m


def stream(values, sizes):
    total, start = m.empty(values.shape[1]), 0
    for size in sizes:
        total = m.merge(total, m.moments(values[start : start + size]))
        start += size
    return m.merge(total, m.moments(values[start:]))


def test_streaming_covariance_agrees_with_two_passes_at_mean_1e4():
    x = np.random.default_rng(0).normal(1e4, 1.0, (5000, 6))
    parts = [m.scatter(part) for part in np.array_split(x, 37)]
    total = parts[0]
    for part in parts[1:]:
        total = m.merge_scatter(total, part)
    centred = x - x.mean(0)
    centred -= centred.mean(0)
    expected = centred.T @ centred / len(x)
    assert np.abs(total.covariance - expected).max() / np.abs(expected).max() < 1e-12


def test_float32_at_mean_1e4_keeps_its_variance():
    x = np.random.default_rng(1).normal(1e4, 1.0, (20000, 3)).astype(np.float32)
    got = stream(x, [777] * 20)
    assert got.variance == pytest.approx(x.astype(np.float64).var(0), rel=1e-10)
    assert got.mean == pytest.approx(x.astype(np.float64).mean(0), rel=1e-13)


@pytest.mark.parametrize("features", [1, 3, 64, 700])
def test_the_size_of_the_chunks_does_not_matter(features):
    x = np.random.default_rng(2).normal(3.0, 2.0, (1003, features)).astype(np.float32)
    whole, parts = m.moments(x), stream(x, [1, 10, 100, 333])
    assert parts.mean == pytest.approx(whole.mean, rel=1e-12)
    assert parts.variance == pytest.approx(whole.variance, rel=1e-12)
    assert (parts.low == x.min(0)).all()
    assert (parts.high == x.max(0)).all()


def test_channels_first_images_reduce_over_their_pixels():
    x = np.random.default_rng(3).integers(0, 256, (20, 3, 9, 7)).astype(np.uint8)
    got = m.moments(x.reshape(20, 3, 63))
    assert got.mean == pytest.approx(x.mean((0, 2, 3)), rel=1e-13)
    assert got.sd == pytest.approx(x.std((0, 2, 3)), rel=1e-12)
    assert (got.high == x.max((0, 2, 3))).all()


def test_non_finite_values_are_counted_and_left_out():
    x = np.array([[1.0, np.nan], [3.0, np.inf], [5.0, 2.0]])
    got = m.moments(x)
    assert got.nonfinite.tolist() == [0, 2]
    assert got.mean.tolist() == [3.0, 2.0]
    assert got.sd[0] == pytest.approx(np.std([1, 3, 5]))


def test_all_nan_all_constant_one_row_and_nothing():
    assert m.moments(np.full((4, 2), np.nan)).count.tolist() == [0, 0]
    assert m.moments(np.full((4, 2), 0.1, np.float32)).scatter.tolist() == [0, 0]
    assert m.moments(np.ones((1, 2))).sd.tolist() == [0, 0]
    assert m.moments(np.ones((0, 2))).count.tolist() == [0, 0]


def test_booleans_and_extreme_values_survive():
    assert m.moments(np.array([[True], [False]])).mean[0] == 0.5
    assert np.isfinite(m.moments(np.array([[1e200], [-1e200]])).mean).all()


def test_robust_spread_of_a_gaussian_is_its_sd():
    x = np.random.default_rng(4).normal(2.0, 3.0, (40000, 1))
    x[:100] = 1e9
    centre, spread = m.robust(x)
    assert centre[0] == pytest.approx(2.0, abs=0.1)
    assert spread[0] == pytest.approx(3.0, rel=0.03)
