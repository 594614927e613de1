"""Streaming totals equal what NumPy says of the whole array, and bad rows are counted once."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from nndiag.science.entropy import log_softmax
from nndiag.science.entropy_rows import KEEP, LabelTotals, LossTotals, Mean, Spread, rounding_slack, text_tolerance


def rows(n=5000, classes=6, seed=0):
    return np.random.RandomState(seed).dirichlet(np.ones(classes) * 0.5, size=n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [7, 5000])
def test_chunked_totals_are_those_of_scipy(dtype, step):
    q = rows().astype(dtype)
    totals = LabelTotals(6, 1e-5)
    for start in range(0, len(q), step):
        block = q[start : start + step]
        totals.add(block[totals.screen(block)])
    floors = entropy(q.astype(np.float64), axis=1)
    assert totals.floor.mean == pytest.approx(floors.mean(), abs=2e-8)
    assert totals.floor.se == pytest.approx(floors.std(ddof=1) / math.sqrt(len(q)), rel=1e-5)
    assert totals.column == pytest.approx(q.sum(0, dtype=np.float64), rel=1e-5)
    assert totals.gini / len(q) == pytest.approx((1 - (q.astype(float) ** 2).sum(1)).mean(), abs=1e-5)
    assert not totals.bad


def test_each_bad_row_is_counted_once_under_its_worst_fault():
    q = rows(6)
    q[1, 0], q[2], q[3, 2] = np.nan, 0.0, -0.5
    q[4] *= 1.5
    totals = LabelTotals(6, 1e-6)
    usable = totals.screen(q)
    assert totals.bad == {"nonfinite": 1, "negative": 1, "all zero": 1, "sum": 1}
    assert totals.first == {"nonfinite": 1, "negative": 3, "all zero": 2, "sum": 4}
    assert usable.tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize(
    "rounded",
    [
        lambda q: q.round(2),
        lambda q: q.round(4),
        lambda q: q.astype(np.float16).astype(np.float64),
        lambda q: (q.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32),
    ],
    ids=["2 digits", "4 digits", "float16", "bfloat16"],
)
def test_sums_that_rounding_explains_do_not_alarm(rounded):
    totals = LabelTotals(6, 1e-6)
    totals.screen(rounded(rows()))
    assert "sum" not in totals.bad


def test_sums_that_rounding_does_not_explain_do():
    totals = LabelTotals(6, 1e-6)
    totals.screen(rows() * 0.99)
    assert totals.bad == {"sum": 5000}


def test_rounding_slack_grows_like_a_sum_of_random_errors():
    assert rounding_slack(2, 2) == pytest.approx(0.01)
    assert rounding_slack(10_000, 4) < 0.5 * 10_000 * 1e-4
    assert rounding_slack(2, 1) == 0.0
    assert text_tolerance(np.empty((0, 3))) == 0.0


def test_losses_are_cross_entropies_and_the_worst_rows_are_named():
    q, z = rows(300), np.random.RandomState(1).randn(300, 6)
    totals = LossTotals(6)
    for start in range(0, 300, 100):
        block = slice(start, start + 100)
        totals.add(q[block], log_softmax(z[block]), rows=np.arange(start, start + 100))
    losses = -(q * log_softmax(z)).sum(1)
    divergence = losses - entropy(q, axis=1)
    assert totals.loss.mean == pytest.approx(losses.mean(), rel=1e-12)
    assert totals.divergence.mean == pytest.approx(divergence.mean(), rel=1e-9)
    assert [row for _, row in totals.worst] == np.argsort(-divergence)[:5].tolist()
    assert totals.agree == (z.argmax(1) == q.argmax(1)).sum()


def test_hard_labels_take_the_short_way_to_the_same_numbers():
    ids, z = np.arange(60) % 6, np.random.RandomState(2).randn(60, 6)
    long, short = LossTotals(6), LossTotals(6)
    long.add(np.eye(6)[ids], log_softmax(z))
    short.add_hard(ids, log_softmax(z))
    assert short.loss.mean == pytest.approx(long.loss.mean, rel=1e-12)
    assert short.information == pytest.approx(long.information, rel=1e-12)
    assert short.error == pytest.approx(long.error, rel=1e-12)


def test_constant_predictions_carry_no_information():
    totals = LossTotals(6)
    totals.add(rows(50), np.tile(log_softmax(np.arange(6.0)[None]), (50, 1)))
    assert totals.information == pytest.approx(0.0, abs=1e-12)


def test_a_spread_keeps_every_value_until_it_is_long_and_then_evenly_fewer():
    spread = Spread()
    for start in range(0, 3 * KEEP, 1 << 16):
        spread.add(np.arange(start, start + (1 << 16), dtype=np.float64))
    assert len(spread.values) <= KEEP
    assert np.median(spread.values) == pytest.approx(1.5 * KEEP, rel=1e-3)
    assert np.unique(np.diff(spread.values)).size <= 2


def test_the_mean_of_equal_values_has_no_error():
    mean = Mean()
    mean.add(np.full(1000, 0.5002880350))
    mean.add(np.full(1000, 0.5002880350))
    assert mean.se == 0.0
    assert math.isnan(Mean(1, 0.0, 1.0, 1.0).se)


def test_rows_rounded_to_four_digits_are_distributions_whatever_their_number():
    rng = np.random.RandomState(0)
    rows = np.round(rng.dirichlet(np.ones(100), 20_000), 4)
    totals = LabelTotals(100, 1e-5)
    totals.screen(rows)
    assert totals.bad == {}
    totals.screen(np.round(rows * 1.01, 4))  # a real fault of one per cent is seen
    assert totals.bad["sum"] == 20_000
