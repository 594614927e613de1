"""Signal propagation against simulation, numpy and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from nndiag.science import signal


def test_default_linear_keeps_a_sixth_and_he_keeps_all():
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((200, 512)), 0)
    for bound, expected in ((1 / math.sqrt(512), 1 / 6), (math.sqrt(6 / 512), 1.0)):
        outputs = [np.maximum(x @ rng.uniform(-bound, bound, (512, 512)).T, 0) for _ in range(8)]
        measured = np.mean(np.square(outputs)) / np.mean(x**2)
        assert measured == pytest.approx(expected, rel=0.05)
        assert signal.relu_gain(bound**2 / 3, 512, 512).forward == pytest.approx(expected)


def test_cosine_map_is_what_a_wide_random_layer_does():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(2000)
    y = 0.3 * x + math.sqrt(1 - 0.09) * rng.standard_normal(2000)
    weight = rng.standard_normal((4000, 2000))
    a, b = np.maximum(weight @ x, 0), np.maximum(weight @ y, 0)
    before = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    after = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert signal.relu_cosine_map(before) == pytest.approx(after, abs=0.02)
    assert signal.relu_cosine_map(0.0, 10) == pytest.approx(0.8715, abs=5e-4)


def test_mean_cosine_is_that_of_all_pairs():
    rows = np.random.default_rng(2).standard_normal((12, 5)) + 1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(12) for j in range(i)]
    assert signal.mean_cosine(rows) == pytest.approx(np.mean(pairs))
    assert math.isnan(signal.mean_cosine(rows[:1]))


def test_share_between_inputs_is_one_minus_the_cosine_of_equal_lengths():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((400, 30)) + 2
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert signal.between_share(rows) == pytest.approx((1 - signal.mean_cosine(rows)) * 399 / 400)
    assert signal.between_share(np.ones((5, 3))) == 0
    assert math.isnan(signal.between_share(np.zeros((5, 3))))


def test_dead_share_is_what_offset_inputs_give():
    rng = np.random.default_rng(4)
    for offset in (0, 2, 6):
        x = rng.standard_normal((1000, 300)) + offset
        dead = (x @ rng.standard_normal((300, 2000)) <= 0).all(axis=0).mean()
        assert signal.relu_dead_share(offset, 1000) == pytest.approx(dead, abs=0.03)


@pytest.mark.parametrize(("count", "total"), [(0, 20), (3, 20), (20, 20)])
def test_interval_of_a_share_is_scipys_exact_one(count, total):
    exact = stats.binomtest(count, total).proportion_ci(method="exact")
    assert signal.share_interval(count, total) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.6, 0.3), (0.9, 0.02)])
def test_interval_of_an_excess_holds_the_true_one_in_95_of_100_draws(p, q):
    counts = np.random.default_rng(6).multinomial(64, [p, q, 1 - p - q], size=4000)
    intervals = [signal.excess_interval(int(row[0]), int(row[1]), 64) for row in counts]
    assert np.mean([low <= p - q <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.03)
