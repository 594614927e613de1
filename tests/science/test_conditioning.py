"""Curvature of the first layer: closed forms, the table of science.md, and gradient descent itself."""

import math

import numpy as np
import pytest
import torch

from nndiag.science import conditioning as c


def test_uniform_inputs_in_784_dimensions():
    # E[x xᵀ] = var I + mean² 11ᵀ: 1/12 + 784/4
    assert pytest.approx(196.08, abs=5e-3) == 1 / 12 + 784 / 4
    assert c.mean_cost(0.5, math.sqrt(1 / 12), 784) == pytest.approx(2353)
    x = np.random.default_rng(0).random((3000, 784))
    got = c.spectrum(x)
    assert c.top_eigenvalue(x, bias=False) == pytest.approx(196.08, rel=0.02)
    assert got.top == pytest.approx(197.08, rel=0.02)  # the bias adds one
    assert got.centred_top / got.baseline < 0.2
    assert got.condition > 500 * got.centred_condition / got.baseline


@pytest.mark.parametrize(("n", "expected"), [(1000, 271), (2000, 18.9), (10_000, 3.16), (100_000, 1.43)])
def test_marchenko_pastur_baselines(n, expected):
    assert c.marchenko_pastur_condition(n, 784) == pytest.approx(expected, rel=5e-3)


def test_white_data_shows_its_baseline():
    got = c.spectrum(np.random.default_rng(1).normal(size=(2000, 784)))
    assert got.centred_condition == pytest.approx(18.2, rel=0.03)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("loss", "outputs"), [("mse", 1), ("mse", 4), ("bce", 1), ("cross_entropy", 5)])
def test_gradient_descent_converges_just_below_the_ceiling_and_diverges_just_above(loss, outputs, momentum):
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(200, 6, generator=gen, dtype=torch.float64) * 2 + 1
    curvature = c.curvature_multiplier(loss, outputs) * c.top_eigenvalue(x.numpy())
    x1 = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], 1)

    def objective(w):
        z = x1 @ w
        if loss == "mse":
            return torch.nn.functional.mse_loss(z, torch.zeros_like(z))
        if loss == "bce":
            return torch.nn.functional.binary_cross_entropy_with_logits(z, torch.full_like(z, 0.5))
        return -(torch.log_softmax(z, 1) / outputs).sum(1).mean()  # uniform targets: the optimum is at zero logits

    def travelled(factor):
        lr = factor * c.step_ceiling(curvature, momentum)
        w = 1e-6 * torch.randn(7, outputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        start, v = w.norm(), torch.zeros_like(w)
        for _ in range(2000):
            w = w.detach().requires_grad_()
            (grad,) = torch.autograd.grad(objective(w), w)
            v = momentum * v + grad
            w = w.detach() - lr * v
            if w.norm() > 100 * start:
                break
        return float(w.norm() / start)

    assert travelled(0.99) < 2
    assert travelled(1.01) > 100


@pytest.mark.parametrize(
    ("s", "expected"),
    [(0.192, 2.3194), (0.5, 2.4132), (1, 2.7294), (2, 3.7743), (5, 7.955), (10, 15.51), (49.3, 75.87)],
)
def test_initial_loss_table(s, expected):
    assert c.initial_loss(s, 10) == pytest.approx(expected, rel=2e-3)


def test_initial_loss_limits():
    assert c.initial_loss(0.0, 7) == math.log(7)
    assert c.initial_loss(0.1, 7) == pytest.approx(math.log(7) + 0.005 * (1 - 1 / 7), rel=1e-4)
    assert c.initial_loss(100.0, 10) == pytest.approx(153.875, rel=1e-3)


def test_initial_loss_agrees_with_simulation():
    z = 3 * np.random.default_rng(5).normal(size=(200_000, 4))
    assert c.initial_loss(3.0, 4) == pytest.approx(np.log(np.exp(z).sum(1)).mean(), abs=0.02)


def test_default_linear_spread_agrees_with_torch():
    torch.manual_seed(0)
    x = torch.rand(64, 100) * 3
    layers = torch.nn.Linear(100, 4000)
    got = c.default_logit_spread(float((x**2).sum(1).mean()), 100)
    assert got == pytest.approx(float(layers(x).std().detach()), rel=0.05)


def test_published_mnist_numbers():
    assert pytest.approx(87.81, abs=0.01) == 784 * (0.1307**2 + 0.3081**2)
    assert c.step_ceiling(87.81 / 10) == pytest.approx(0.228, abs=5e-4)
    assert c.step_ceiling(5.71e6 / 10) == pytest.approx(3.5e-6, rel=2e-3)
    raw = np.full((2, 784), 0.1307 * 255)
    assert c.sign_step_reach(raw, 1e-3) == pytest.approx(26.13, abs=0.01)


def test_scaling_by_255_scales_curvature_by_its_square():
    x = np.random.default_rng(2).random((500, 20))
    assert c.top_eigenvalue(255 * x, bias=False) == pytest.approx(65025 * c.top_eigenvalue(x, bias=False), rel=1e-9)


def test_wide_data_uses_the_gram_matrix_and_large_data_lanczos():
    x = np.random.default_rng(4).random((40, 3000))
    assert c.top_eigenvalue(x, bias=False) == pytest.approx(np.linalg.norm(x, 2) ** 2 / 40, rel=1e-9)
    y = np.random.default_rng(4).random((1300, 1400))
    assert c.top_eigenvalue(y, bias=False) == pytest.approx(np.linalg.norm(y, 2) ** 2 / 1300, rel=1e-6)


def test_constant_and_empty_data_are_not_determined():
    assert math.isnan(c.spectrum(np.ones((5, 3))).condition)
    assert math.isnan(c.spectrum(np.ones((0, 3))).top)
    assert c.step_ceiling(0.0) == math.inf
    with pytest.raises(ValueError, match="hinge"):
        c.curvature_multiplier("hinge", 2)
