"""The least value of a loss of labels and a teacher: closed form at T = 1, autograd's zero gradient elsewhere."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch.nn import functional

from nndiag.science.distillation import Mixture

RNG = np.random.RandomState(0)


def rows(classes, n=50, spread=2.0, temperature=1.0):
    y = np.eye(classes)[RNG.randint(0, classes, n)]
    return y, softmax(RNG.randn(n, classes) * spread / temperature, axis=1)


def test_at_temperature_one_the_floor_is_an_entropy_less_an_entropy():
    y, q = rows(10)
    mixture = Mixture(0.3, 1.0)
    expected = entropy(0.3 * y + 0.7 * q, axis=1) - 0.7 * entropy(q, axis=1)
    assert mixture.loss(mixture.optimum(y, q), y, q) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "temperature", "alpha"), [(2, 4.0, 0.5), (10, 4.0, 0.1), (10, 0.5, 0.9), (300, 8.0, 0.3)]
)
def test_the_gradient_of_torchs_loss_vanishes_at_the_optimum(classes, temperature, alpha):
    y, q = rows(classes, spread=3.0, temperature=temperature)
    mixture = Mixture(alpha, temperature)
    best = mixture.optimum(y, q)
    z = torch.tensor(best, requires_grad=True)
    kl = functional.kl_div(functional.log_softmax(z / temperature, 1), torch.from_numpy(q), reduction="none").sum(1)
    loss = (
        alpha * functional.cross_entropy(z, torch.from_numpy(y), reduction="none") + (1 - alpha) * temperature**2 * kl
    )
    loss.sum().backward()
    assert mixture.loss(best, y, q) == pytest.approx(loss.detach().numpy(), rel=1e-10)
    assert float(z.grad.abs().max()) < 1e-7


def test_the_excess_is_the_difference_of_losses_without_its_rounding():
    y, q = rows(10, temperature=4.0)
    mixture = Mixture(0.3, 4.0)
    best = mixture.optimum(y, q)
    z = best + 0.1 * RNG.randn(*best.shape)
    assert mixture.excess(z, best) == pytest.approx(mixture.loss(z, y, q) - mixture.loss(best, y, q), rel=1e-7)
    nudged = mixture.excess(best + 1e-6 * RNG.randn(*best.shape), best)
    assert (nudged > 0).all()
    assert nudged.max() < 1e-10


def test_without_labels_the_teacher_is_reached():
    y, q = rows(5, temperature=4.0)
    mixture = Mixture(0.0, 4.0)
    assert np.abs(mixture.loss(mixture.optimum(y, q), y, q)).max() < 1e-12
