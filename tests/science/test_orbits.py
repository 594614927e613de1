"""Rows compared against loops and numpy's own unique; formulas of signal propagation against simulation."""

import itertools

import numpy as np
import pytest

from nndiag.science import orbits, signal


def by_loop(rows):
    """The dumbest partition: the first earlier row that is equal gives the label."""
    labels = []
    for index, row in enumerate(rows):
        same = [labels[other] for other in range(index) if np.array_equal(rows[other], row)]
        labels.append(same[0] if same else max(labels, default=-1) + 1)
    return labels


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("width", [1, 3, 8, 65, 200])
def test_identical_rows_are_those_that_a_loop_finds(dtype, width):
    rng = np.random.default_rng(width)
    rows = rng.integers(0, 2, (40, width)).astype(dtype)
    rows[7], rows[21], rows[39] = rows[3], rows[3], rows[0]
    assert orbits.identical(rows).labels.tolist() == by_loop(rows)


def test_rows_that_agree_at_first_look_only_are_told_apart():
    rows = np.zeros((50, 777), np.float32)
    rows[np.arange(50), np.arange(50) * 13 + 1] = 1
    rows[49] = rows[10]
    assert [group.tolist() for group in orbits.identical(rows).groups] == [[10, 49]]


def test_negative_zero_equals_zero_and_nan_equals_nothing():
    assert orbits.identical(np.array([[0.0], [-0.0]])).width == 1
    assert orbits.identical(np.array([[np.nan], [np.nan]])).width == 2


def test_bfloat16_bits_merge_the_two_zeros():
    assert orbits.identical(np.array([[0x8000, 1], [0, 1]], np.uint16)).width == 1


def test_units_of_different_classes_are_never_equal():
    rows = np.ones((8, 3))
    widths = [orbits.identical(rows, np.arange(8) // (8 // groups)).width for groups in (1, 2, 4)]
    assert widths == [1, 2, 4]


def test_no_rows_and_no_columns_have_no_groups():
    assert orbits.identical(np.zeros((0, 3))).width == 0
    assert orbits.identical(np.zeros((4, 0))).groups == []


def test_near_rows_are_merged_and_every_merge_is_verified():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((99, 64))
    rows = np.vstack([rows, rows[17] * (1 + 1e-7)])
    found = orbits.near(rows, 1e-5)
    assert found.width == 99
    assert [group.tolist() for group in found.groups] == [[17, 99]]
    assert orbits.near(rows, 1e-9).width == 100


def test_near_agrees_with_all_pairs():
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((6, 5))
    rows = centres[rng.integers(0, 6, 60)] + 1e-9 * rng.standard_normal((60, 5))
    labels = orbits.near(rows, 1e-5).labels
    for left, right in itertools.combinations(range(60), 2):
        close = np.linalg.norm(rows[left] - rows[right]) < 1e-5 * np.linalg.norm(rows[left])
        assert (labels[left] == labels[right]) == close


def test_opposite_rows_are_paired_and_zero_rows_are_not():
    rows = np.array([[1.0, -2.0], [3.0, 1.0], [-1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert orbits.sign_pairs(rows) == [(0, 2)]


def test_stable_rank_is_that_of_the_singular_values():
    matrix = np.random.default_rng(2).standard_normal((30, 20))
    values = np.linalg.svd(matrix, compute_uv=False)
    exact = (values**2).sum() / values[0] ** 2
    assert signal.stable_rank(matrix, 60) == pytest.approx(exact, rel=1e-3)
    assert signal.stable_rank(np.outer(np.ones(4), np.ones(5))) == pytest.approx(1)
    assert signal.stable_rank(np.zeros((3, 3))) == 0


@pytest.mark.parametrize("features", [7, 768])
def test_a_table_of_equal_rows_is_one_class_whatever_the_sign_of_its_zeros(features):
    table = np.full((300, features), 0.01, dtype=np.float32)
    table[:, 0] = 0.0
    table[5, 0], table[7, -1] = -0.0, 0.02
    table[9:12] = np.nan
    labels = orbits.identical(table).labels
    apart = [7, 9, 10, 11]
    assert len(set(np.delete(labels, apart))) == 1
    assert len(set(labels)) == 5
