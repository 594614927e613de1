"""Grids of rounded values: which sets share one, and what an affine preparation leaves of it."""

import numpy as np
import pytest
from sklearn import datasets

from nndiag.science.preprocessing_grid import grid_of, kinship, share_on


def test_the_step_of_standardised_counts_is_one_over_their_sd():
    counts = np.random.default_rng(0).poisson(3.0, 500)
    mean, sd = 2.9, 3**0.5
    grid = grid_of(((counts - mean) / sd).astype(np.float32))
    assert grid.step == pytest.approx(1 / sd, rel=1e-6)
    assert share_on(((np.arange(40) - mean) / sd).astype(np.float32), grid) == 1
    assert share_on(np.arange(40.0), grid) < 0.1


def test_continuous_values_and_constants_have_no_grid():
    assert grid_of(np.random.default_rng(0).normal(size=400).astype(np.float32)) is None
    assert grid_of(np.full(9, 2.5)) is None


def prepared(name, share):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    first = y == 0 if share == "class" else np.arange(len(y)) % 2 == 0
    mean, sd = x[first].mean(0), x[first].std(0)
    return x[first], x[~first], lambda rows: ((rows - mean) / sd).astype(np.float32)[:, :, None]


@pytest.mark.parametrize("share", ["rows", "class"])
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_a_split_by_rows_or_by_class_stays_on_its_grid(name, share):
    train, serve, scale = prepared(name, share)
    assert kinship(scale(train), scale(serve)).same


@pytest.mark.parametrize("name", ["iris", "wine"])
def test_raw_and_twice_standardised_rows_are_off_it(name):
    train, serve, scale = prepared(name, "rows")
    raw = kinship(scale(train), serve.astype(np.float32)[:, :, None])
    again = kinship(scale(train), scale(scale(serve)[:, :, 0].astype(np.float64)))
    assert raw.other
    assert raw.raw
    assert not raw.twice
    assert again.other
    assert again.twice
    assert not again.raw
