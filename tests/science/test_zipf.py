"""Expected rows against simulation, loops and the reference numbers."""

import math

import numpy as np
import pytest

from nndiag.science import zipf
from nndiag.science.roofline import CPU_CORE, fit_line, seconds, share_from_growth
from nndiag.science.zipf_stream import count_rows


@pytest.mark.parametrize(
    ("rows", "lookups", "exponent", "expected"),
    [(50_000, 4096, 1.0, 1926.5), (10**6, 65536, 1.0, 26486), (10**6, 65536, 1.2, 10448), (30522, 8192, 1.07, 2528.6),
     (50_000, 4096, 0.0, 3932.8)],
)  # fmt: skip
def test_expected_unique_rows_are_those_of_the_reference(rows, lookups, exponent, expected):
    found = zipf.expected_unique(zipf.zipf_probabilities(rows, exponent), lookups).mean
    assert found == pytest.approx(expected, abs=0.6)


def test_expected_unique_agrees_with_a_simulation():
    p = zipf.zipf_probabilities(500, 1.1)
    rng = np.random.default_rng(0)
    drawn = [np.unique(rng.choice(500, 300, p=p)).size for _ in range(400)]
    found = zipf.expected_unique(p, 300)
    assert found.mean == pytest.approx(np.mean(drawn), abs=4 * found.std / math.sqrt(400))
    assert np.std(drawn) <= 1.1 * found.std


def test_one_row_is_always_the_one():
    assert zipf.expected_unique(zipf.zipf_probabilities(1), 10).mean == 1


def test_rows_that_hardly_learn():
    exposure = zipf.expected_exposure(zipf.zipf_probabilities(10**6, 1.2), 65536, 1000)
    assert exposure.rare / 10**6 == pytest.approx(0.184, abs=5e-4)


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.3])
def test_the_fit_finds_the_exponent_of_its_own_law(exponent):
    counts = np.round(zipf.zipf_probabilities(300, exponent) * 1e7)
    fit = zipf.fit_zipf(counts)
    assert fit.exponent == pytest.approx(exponent, abs=5e-4)
    assert 0 < fit.error < 1e-3


def test_degenerate_counts_have_no_exponent():
    assert math.isnan(zipf.fit_zipf([0, 5, 0]).exponent)
    assert zipf.fit_zipf([3, 3, 3]).exponent == 0


def test_coverage_and_minimum_count_by_hand():
    counts = [50, 30, 15, 4, 1, 0]
    assert zipf.coverage(counts, (0.5, 0.8, 0.95, 1.0)) == (1, 2, 3, 5)
    assert zipf.kept_by_minimum(counts, 5) == (3, 0.95)
    assert zipf.coverage([0, 0], (0.5,)) == (0,)


def test_hash_collisions_agree_with_a_simulation():
    rng = np.random.default_rng(1)
    shared = []
    for _ in range(200):
        places = rng.integers(0, 64, 40)
        shared.append(np.mean([np.sum(places == place) > 1 for place in places]))
    assert zipf.hash_collisions(40, 64) == pytest.approx(np.mean(shared), abs=0.02)


def test_a_stream_is_counted_as_a_loop_counts_it():
    rng = np.random.default_rng(2)
    ids = rng.integers(-2, 60, 1000)
    counts = count_rows(np.array_split(ids, 7), 64, rows=50)
    inside = [int(i) for i in ids if 0 <= i < 50]
    assert counts.lookups == len(inside)
    assert (counts.below, counts.above) == (int((ids < 0).sum()), int((ids >= 50).sum()))
    assert counts.seen == len(set(inside))
    assert counts.offenders[0] == next((n, int(i)) for n, i in enumerate(ids) if not 0 <= i < 50)
    batches = [ids[k : k + 64] for k in range(0, 1000, 64)]
    assert [counts.updates[r] for r in range(50)] == [sum(r in b for b in batches) for r in range(50)]
    full = [len({int(i) for i in b if 0 <= i < 50}) for b in batches if len(b) == 64]
    assert counts.unique == pytest.approx(np.mean(full))


def test_the_line_is_least_squares_and_never_negative():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([3.1, 4.9, 9.0])
    slope, intercept = np.polyfit(x, y, 1)
    line = fit_line(x, y)
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept))
    low, high = line.interval(8)
    assert low < line.at(8) < high
    assert fit_line([1, 2], [1, 3]).intercept == 0  # through the origin rather than below it


def test_the_question_that_named_this_check():
    before, after = share_from_growth(200_000, 2_000_000, 2.0)
    assert before == pytest.approx(0.11, abs=0.002)
    assert after == pytest.approx(0.56, abs=0.005)


def test_roofline_takes_the_larger_bound():
    assert seconds(CPU_CORE, moved=20e9) == pytest.approx(1.0)
    assert seconds(CPU_CORE, moved=1.0, flops=200e9) == pytest.approx(2.0)


@pytest.mark.parametrize(("rows", "lookups", "exponent"), [(1, 10, 1.0), (777_777, 4096, 1.0), (300_000, 65536, 1.2)])
def test_distinct_rows_in_bins_are_those_of_the_sum(rows, lookups, exponent):
    exact = zipf.expected_unique(zipf.zipf_probabilities(rows, exponent), lookups).mean
    assert zipf.zipf_unique(rows, lookups, exponent) == pytest.approx(exact, rel=1e-5)
