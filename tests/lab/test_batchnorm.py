"""Running statistics against exact ones."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from nndiag.core.subject import Batch, Training
from nndiag.lab import batchnorm as bn
from nndiag.lab.objective import resolve_objective

X = 3 + 2 * torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(300) % 2


def batches(size=50):
    return [Batch(X[start : start + size], Y[start : start + size]) for start in range(0, 300, size)]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def test_exact_statistics_are_those_of_all_rows():
    first, second = bn.remembered(net(), batches())
    assert (first.name, second.name) == ("0", "2")
    assert first.mean.tolist() == pytest.approx(X.double().mean(0).tolist())
    assert first.var.tolist() == pytest.approx(X.double().var(0, unbiased=False).tolist())
    assert first.per_batch == 50


def test_the_divergence_is_that_of_two_gaussians():
    first = bn.remembered(net(), batches())[0]
    expected = kl_divergence(
        Normal(first.mean, (first.var + first.eps).sqrt()),
        Normal(first.running_mean, (first.running_var + first.eps).sqrt()),
    )
    assert first.kl.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("updates", "left"), [(0, 1.0), (10, 0.349), (22, 0.098), (44, 0.0097)])
def test_how_much_of_the_start_is_left(updates, left, counted):
    model = net()
    for _ in range(updates):
        model[0](X)
    if not counted:  # as in weights that come from Keras
        model[0].num_batches_tracked.zero_()
    first = bn.remembered(model, batches())[0]
    assert (first.updates is None) == (not counted and updates > 0)
    assert first.start_left == pytest.approx(left, abs=5e-4 if counted else 5e-3)
    assert counted or first.steps == pytest.approx(updates, rel=0.15)


def test_the_first_layer_recognises_its_own_data():
    model = net()
    for _ in range(100):
        model(X)
    assert bn.first_fit(model, Batch(X, Y), lambda b: b).kl < 0.01
    assert bn.first_fit(model, Batch(X, Y), lambda b: Batch(b.inputs * 255, b.targets)).kl > 100
    assert bn.first_fit(nn.Linear(4, 2), Batch(X, Y), lambda b: b) is None


def test_losses_of_both_modes_leave_the_statistics_alone():
    model = net()
    before = model[0].running_mean.clone()
    objective = resolve_objective(Training(), model, Batch(X, Y))
    losses = bn.mode_losses(model, batches(), objective)
    assert losses.evaluation != losses.training
    assert torch.equal(model[0].running_mean, before)
    assert model[0].momentum == 0.1
