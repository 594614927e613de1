"""Gaussian means of activations, against adaptive integration."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from scipy import integrate

from nndiag.science import activation_moments as am

CLOSED = {
    "relu": (torch.relu, am.relu_mean),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), lambda m, s: am.leaky_mean(m, s, 0.2)),
    "hardtanh": (F.hardtanh, am.clamp_mean),
    "relu6": (F.relu6, lambda m, s: am.clamp_mean(m, s, 0.0, 6.0)),
    "elu": (F.elu, am.elu_mean),
    "celu": (lambda x: F.celu(x, 0.7), lambda m, s: am.celu_mean(m, s, 0.7)),
    "selu": (F.selu, am.selu_mean),
    "gelu": (F.gelu, am.gelu_mean),
}
SMOOTH = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu, "softplus": F.softplus, "mish": F.mish}


def integral(f, mu, s):
    """Adaptive quadrature, split at the kinks."""

    def body(u):
        value = f(torch.tensor(mu + s * u, dtype=torch.float64)).item()
        return value * math.exp(-u * u / 2) / math.sqrt(2 * math.pi)

    kinks = sorted({max(-9.9, min(9.9, (k - mu) / s)) for k in (-1, 0, 1, 6)})
    return integrate.quad(body, -10, 10, points=kinks, limit=200)[0]


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(("mu", "s"), [(0.0, 1.0), (-1.3, 0.4), (2.0, 3.0), (5.0, 0.1)])
def test_closed_forms_agree_with_adaptive_integration(name, mu, s):
    f, form = CLOSED[name]
    assert form(mu, s).item() == pytest.approx(integral(f, mu, s), abs=2e-7)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("mu", "s"), [(0.0, 1.0), (-1.3, 0.4), (2.0, 4.0)])
def test_quadrature_agrees_with_adaptive_integration(name, mu, s):
    assert am.quadrature(SMOOTH[name], mu, s).item() == pytest.approx(integral(SMOOTH[name], mu, s), abs=1e-7)


def test_quadrature_of_a_kink_is_good_to_a_thousandth_of_s():
    mu = torch.linspace(-3, 3, 61)
    error = (am.quadrature(torch.relu, mu, 1.0) - am.relu_mean(mu, 1.0)).abs().max()
    assert error < 2e-4


@pytest.mark.parametrize(("t", "bias"), [(0, 0.398942), (0.5, 0.197797), (1, 0.083315), (2, 0.008491), (3, 0.000382)])
def test_relu_bias_has_the_published_values(t, bias):
    assert am.relu_bias(float(t), 1.0).item() == pytest.approx(bias, abs=6e-7)
    assert am.relu_bias(-float(t), 1.0).item() == pytest.approx(bias, abs=6e-7)


@pytest.mark.parametrize("t", [5, 10, 20, 30])
def test_relu_bias_keeps_its_digits_far_out(t):
    mpmath.mp.dps = 60
    exact = mpmath.npdf(t) - t * mpmath.ncdf(-t)
    assert am.relu_bias(float(t), 1.0).item() == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(("t", "chance"), [(0, 0.5), (0.5, 0.308538), (1, 0.158655), (2, 0.02275), (3, 0.00135)])
def test_the_chance_of_crossing_has_the_published_values(t, chance):
    assert am.crossing(float(t), 1.0).item() == pytest.approx(chance, abs=5e-7)


def test_second_moment_of_relu_agrees_with_integration():
    for mu, s in ((0.0, 1.0), (1.5, 0.7), (-2.0, 2.0)):
        assert am.relu_second(mu, s).item() == pytest.approx(integral(lambda x: torch.relu(x) ** 2, mu, s), abs=1e-7)


def test_no_spread_gives_the_function_itself():
    mu = torch.tensor([-1.5, 0.0, 2.0])
    for f, form in CLOSED.values():
        assert torch.allclose(form(mu, torch.zeros(3)), f(mu).double(), atol=1e-7)


def test_a_huge_spread_overflows_nothing():
    mu, s = torch.tensor([0.0, 50.0, -50.0]), torch.tensor([40.0, 60.0, 80.0])
    assert torch.isfinite(am.elu_mean(mu, s)).all()
    assert torch.isfinite(am.selu_mean(mu, s)).all()


def test_tanh_keeps_a_zero_mean_and_not_its_second_moment():
    tanh = am.Activation("tanh", torch.tanh)
    assert tanh.mean(0.0, 1.0).item() == pytest.approx(0, abs=1e-12)
    assert tanh.second(0.0, 1.0).item() == pytest.approx(integral(lambda x: torch.tanh(x) ** 2, 0.0, 1.0), abs=1e-7)
