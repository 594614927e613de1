"""One pass, bounded memory, the same result however the rows arrive."""

import numpy as np
import pytest

from nndiag.science import moments_profile as mp


def profile(x, sizes=(), axis=None):
    profiler, start = mp.Profiler(axis), 0
    for size in (*sizes, len(x)):
        profiler.add(x[start : start + size])
        start += size
    return profiler.result()


@pytest.mark.parametrize(
    ("shape", "kind", "axis"),
    [
        ((9,), "scalar", None),
        ((9, 4), "table", 1),
        ((9, 28, 28), "images", None),
        ((9, 50, 8), "sequence", 2),
        ((9, 3, 32, 32), "images", 1),
        ((9, 32, 32, 3), "images", 3),
        ((9, 64, 7, 7), "images", 1),
        ((9, 1, 8, 8, 8), "images", 1),
    ],
)
def test_axes_are_inferred(shape, kind, axis):
    got = mp.infer_layout(shape)
    assert (got.kind, got.axis) == (kind, axis)


def test_a_given_axis_wins_and_a_wrong_one_is_refused():
    assert mp.infer_layout((9, 80, 300), 1).axis == 1
    assert mp.infer_layout((9, 80, 300), -1).axis == 2
    with pytest.raises(IndexError):
        mp.infer_layout((9, 80, 300), 3)
    with pytest.raises(IndexError):
        mp.infer_layout((9, 80), 0)


@pytest.mark.parametrize("shape", [(30_000, 3), (9000, 2, 5, 5), (9000, 4, 4, 3), (9000, 6, 2)])
def test_chunking_changes_nothing(shape):
    x = np.random.default_rng(0).normal(2, 3, shape).astype(np.float32)
    one, many = profile(x), profile(x, [1, 7, 4000, 13, 2500])
    assert one.moments.mean == pytest.approx(many.moments.mean, rel=1e-12)
    assert one.moments.sd == pytest.approx(many.moments.sd, rel=1e-12)
    assert (one.index == many.index).all()
    assert (one.sample == many.sample).all()
    axes = tuple(i for i in range(x.ndim) if i != one.layout.axis)
    assert one.moments.mean == pytest.approx(x.mean(axes, dtype=np.float64), rel=1e-10)


def test_shares_join_to_the_whole():
    x = np.random.default_rng(1).normal(size=(50_000, 2))
    parts = [mp.Profiler(), mp.Profiler()]
    for number, start in enumerate(range(0, len(x), 1000)):
        parts[number % 2].add(x[start : start + 1000], start)
    whole, joined = profile(x), mp.join(parts[0].result(), parts[1].result())
    assert joined.rows == whole.rows
    assert (joined.index == whole.index).all()
    assert (joined.sample == whole.sample).all()
    assert joined.moments.sd == pytest.approx(whole.moments.sd, rel=1e-12)


def test_the_sample_is_bounded():
    got = profile(np.zeros((40_000, 1)))
    assert len(got.sample) <= 2 * mp.KEPT
    wide = profile(np.zeros((300, 3, 128, 128), np.uint8))
    assert wide.sample.size <= 2 * mp.NUMBERS


def test_the_first_bad_value_is_located():
    x = np.ones((100, 4))
    x[61, 2] = np.nan
    got = profile(x, [50])
    assert got.first_bad == (61, 2)
    assert got.moments.nonfinite.tolist() == [0, 0, 1, 0]
    assert len(got.finite_sample) == 99


def test_rows_of_different_length_are_taken_and_another_width_is_not():
    profiler = mp.Profiler()
    profiler.add(np.ones((4, 10, 6)))
    profiler.add(np.ones((4, 7, 6)))
    assert profiler.result().ragged
    with pytest.raises(ValueError, match="5"):
        profiler.add(np.ones((4, 7, 5)))


def test_nothing_gives_nothing():
    assert mp.Profiler().result() is None
