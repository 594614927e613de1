"""Entropy, floors and KL against torch, mpmath, SciPy's minimisers and published numbers."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax
from torch.nn import functional

from nndiag.science.entropy import (
    hard_floors,
    kl,
    log_softmax,
    logit_error,
    miller_madow,
    one_hot,
    row_floor,
    smoothing_floor,
    soften,
    targets_of,
    ulp,
    xlogx,
)

THREAD_Q = np.array([[0.39019628, 0.44301641, 0.16678731]])
THREAD_P = np.array([[0.39511779, 0.44509024, 0.15979198]])


def rows(n=20, classes=5, seed=0):
    return np.random.RandomState(seed).dirichlet(np.ones(classes) * 0.5, size=n)


def test_the_threads_entropy_is_exact_to_1e_12():
    assert row_floor(THREAD_Q)[0] == pytest.approx(1.026619006076872465, abs=1e-12)


def test_the_threads_kl_is_1_8654e_4_of_the_numbers_as_printed():
    # its p sums to 1.00000001: KL of the normalised p is 1e-8 more
    raw = kl(THREAD_Q, np.log(THREAD_P / THREAD_P.sum()))[0] - math.log(THREAD_P.sum())
    assert raw == pytest.approx(1.8654069e-4, rel=1e-7)


@pytest.mark.parametrize(
    ("classes", "floor"),
    [(2, 0.198515), (3, 0.291140), (4, 0.348780), (10, 0.500288), (1000, 1.014848), (50257, 1.407546)],
)
def test_the_floor_of_label_smoothing(classes, floor):
    assert smoothing_floor(classes, 0.1) == pytest.approx(floor, abs=5e-7)


@pytest.mark.parametrize(("classes", "floor"), [(10, 0.544805), (1000, 1.015758)])
def test_the_floor_of_fairseq_smoothing(classes, floor):
    assert smoothing_floor(classes, 0.1, "fairseq") == pytest.approx(floor, abs=5e-7)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_torchs_cross_entropy_at_its_minimum_is_the_floor(classes):
    target = torch.tensor([0])
    p = torch.full((1, classes), 0.1 / classes, dtype=torch.float64)
    p[0, 0] += 0.9
    loss = functional.cross_entropy(p.log(), target, label_smoothing=0.1)
    assert smoothing_floor(classes, 0.1) == pytest.approx(float(loss), abs=1e-12)


@pytest.mark.parametrize("error", [1e-2, 3e-4, 1e-6])
def test_kl_from_float32_logits_agrees_with_40_digits(error):
    rng = np.random.RandomState(1)
    q = rows(8, 6, seed=2)
    logits = (np.log(q) + rng.randn(*q.shape) * error).astype(np.float32)
    mpmath.mp.dps = 40
    for row, z, got in zip(q, logits, kl(q, log_softmax(logits)), strict=True):
        exact_q = [mpmath.mpf(float(v)) for v in row]
        exact_q = [v / mpmath.fsum(exact_q) for v in exact_q]
        exact_z = [mpmath.mpf(float(v)) for v in z]
        norm = mpmath.log(mpmath.fsum([mpmath.exp(v) for v in exact_z]))
        true = mpmath.fsum([a * (mpmath.log(a) - (b - norm)) for a, b in zip(exact_q, exact_z, strict=True)])
        assert got == pytest.approx(float(true), rel=1e-3)


def test_kl_is_infinite_where_a_label_has_probability_zero():
    with np.errstate(divide="ignore"):
        assert kl(np.array([[0.5, 0.5]]), np.log(np.array([[1.0, 0.0]])))[0] == math.inf
        assert kl(np.array([[1.0, 0.0]]), np.log(np.array([[1.0, 0.0]])))[0] == 0.0


def test_kl_of_far_apart_rows_is_the_plain_sum():
    q, p = rows(50, 7, seed=3), rows(50, 7, seed=4)
    assert kl(q, np.log(p)) == pytest.approx((q * np.log(q / p)).sum(1), rel=1e-12)


def test_class_weights_put_the_minimum_where_a_numerical_minimiser_finds_it():
    q, w = rows(1, 4, seed=5)[0], np.array([1.0, 2.0, 0.5, 3.0])
    found = minimize(lambda z: -(w * q) @ (z - logsumexp(z)), np.zeros(4), method="BFGS", options={"gtol": 1e-10})
    assert row_floor((w * q)[None])[0] == pytest.approx(found.fun, abs=1e-9)
    assert scipy_softmax(found.x) == pytest.approx(w * q / (w * q).sum(), abs=1e-5)


def test_the_examples_of_weighted_and_plain_floors_differ():
    q, w = np.array([[0.5, 0.3, 0.2]]), np.array([1.0, 2.0, 1.0])
    assert row_floor(q * w)[0] != pytest.approx(row_floor(q)[0], abs=1e-2)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_targets_give_torchs_weighted_and_smoothed_loss(rate):
    logits, w = np.random.RandomState(6).randn(30, 5), np.array([1.0, 2.0, 0.5, 3.0, 1.0])
    ids = np.arange(30) % 5
    u = targets_of(one_hot(ids, 5), rate, w)
    ours = -(u * log_softmax(logits)).sum() / w[ids].sum()
    torchs = functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(ids), weight=torch.from_numpy(w), label_smoothing=rate
    )
    assert ours == pytest.approx(float(torchs), rel=1e-12)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0]])
def test_floors_of_hard_labels_are_those_of_their_rows(weights):
    w = None if weights is None else np.array(weights)
    assert hard_floors(4, 0.1, w) == pytest.approx(row_floor(targets_of(np.eye(4), 0.1, w)), abs=1e-12)


def test_unnormalised_rows_have_the_floor_s_h_of_q_over_s():
    q = rows(1)[0]
    assert row_floor(3.0 * q[None])[0] == pytest.approx(3.0 * row_floor(q[None])[0], rel=1e-12)


def test_softened_labels_are_the_softmax_of_softened_logits():
    z = np.random.RandomState(7).randn(6, 4)
    q = np.exp(log_softmax(z))
    assert soften(q, 4.0) == pytest.approx(np.exp(log_softmax(z / 4.0)), rel=1e-12)
    assert soften(np.array([[1.0, 0.0]]), 4.0).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("value", "dtype", "step"), [(1.5, "float32", 2.0**-23), (3.0, "float32", 2.0**-22), (1.5, "bfloat16", 2.0**-7), (1.5, "float16", 2.0**-10)])  # fmt: skip
def test_the_step_of_a_dtype(value, dtype, step):
    assert ulp(value, dtype) == step
    assert ulp(value, "float32") == float(np.spacing(np.float32(value)))


def test_a_logit_error_has_the_kl_that_simulation_gives():
    rng, error = np.random.RandomState(8), 1e-3
    q = rows(4000, 6, seed=9)
    measured = kl(q, log_softmax(np.log(q) + rng.randn(*q.shape) * error)).mean()
    assert logit_error(measured, float((1.0 - (q**2).sum(1)).mean())) == pytest.approx(error, rel=0.03)
    assert logit_error(1e-9, 0.0) == math.inf


def test_miller_madow_is_the_first_order_bias_of_the_plug_in_entropy():
    q, n = np.array([0.5, 0.3, 0.2]), 60
    counts = np.random.RandomState(10).multinomial(n, q, size=20_000)
    bias = row_floor(q[None])[0] - row_floor(counts / n).mean()
    assert bias == pytest.approx(miller_madow(n, 3), rel=0.1)


def test_x_log_x_is_zero_at_zero_in_both_dtypes():
    assert xlogx(np.zeros(2, dtype=np.float32)).tolist() == [0.0, 0.0]
    assert xlogx(np.zeros(2)).tolist() == [0.0, 0.0]
