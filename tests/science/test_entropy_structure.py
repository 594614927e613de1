"""Structural floors against closed forms, published values and SciPy's constrained minimisers."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from nndiag.science.entropy_structure import (
    COSINE,
    DOUBLE_SOFTMAX,
    SIGMOID,
    TANH,
    ball_floor,
    binary_structures,
    bounded_floor,
    box_floor,
    hard_structures,
    simplex_floor,
    soft_structures,
)


def rows(n=12, classes=5):
    return np.random.RandomState(0).dirichlet(np.ones(classes) * 0.5, size=n)


@pytest.mark.parametrize(("classes", "floor"), [(2, 0.3133), (10, 1.4612), (100, 3.6222), (1000, 5.9095)])
def test_double_softmax(classes, floor):
    assert hard_structures(classes)[DOUBLE_SOFTMAX] == pytest.approx(floor, abs=5e-5)


def test_tanh_and_cosine_logits_of_ten_classes():
    assert hard_structures(10)[TANH] == pytest.approx(0.7966, abs=5e-5)
    assert hard_structures(10)[COSINE] == pytest.approx(1.3769, abs=5e-5)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_soft_problems_reduce_to_the_closed_forms_on_hard_labels(classes):
    found = soft_structures(np.eye(classes)[:2])
    for name, level in hard_structures(classes).items():
        assert found[name] == pytest.approx(level, abs=1e-9)


def test_the_box_floor_is_what_a_bounded_minimiser_finds():
    for q, got in zip(rows(), box_floor(rows(), -1.0, 1.0), strict=True):
        best = minimize(lambda z, q=q: -q @ z + logsumexp(z), np.zeros(5), bounds=[(-1, 1)] * 5)
        assert got == pytest.approx(best.fun, abs=1e-6)


def test_the_ball_floor_is_what_a_constrained_minimiser_finds():
    radius = np.sqrt(5 / 4)
    inside = {"type": "ineq", "fun": lambda z: radius**2 - ((z - z.mean()) ** 2).sum()}
    for q, got in zip(rows(), ball_floor(rows()), strict=True):
        best = minimize(lambda z, q=q: -q @ z + logsumexp(z), q - q.mean(), constraints=[inside], method="SLSQP")
        assert got == pytest.approx(best.fun, abs=1e-5)


def test_the_simplex_floor_is_never_above_what_a_minimiser_finds():
    simplex = {"type": "eq", "fun": lambda z: z.sum() - 1.0}
    for q, got in zip(rows(), simplex_floor(rows()), strict=True):
        best = minimize(
            lambda z, q=q: -q @ z + logsumexp(z), q, bounds=[(0, 1)] * 5, constraints=[simplex], method="SLSQP"
        )
        assert got == pytest.approx(best.fun, abs=1e-4)


def test_no_softmax_of_a_softmax_gets_below_the_double_softmax_floor():
    q = rows(1)[0]
    twice = softmax(softmax(np.random.RandomState(1).randn(20_000, 5) * 5, axis=1), axis=1)
    assert -(q * np.log(twice)).sum(1).min() > simplex_floor(q[None])[0] - 1e-9


def test_sigmoids_fed_to_a_loss_on_logits():
    found = binary_structures(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found[SIGMOID] == pytest.approx([np.log1p(np.exp(-1.0)), np.log(2.0)])
    assert found[TANH] == pytest.approx([np.log1p(np.exp(-1.0))] * 2)


def test_a_gap_of_zero_leaves_ln_c():
    assert bounded_floor(7, 0.0) == pytest.approx(np.log(7))
