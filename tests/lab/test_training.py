"""A few seeded steps, watched."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch, Training
from nndiag.lab.borrow import seeded
from nndiag.lab.objective import Objective
from nndiag.lab.training import micro_train

MSE = Objective("mse", "given", functional.mse_loss)


def setup(lr=0.1):
    with seeded(0):
        model = nn.Linear(3, 1)
        x = torch.randn(16, 3)
    return model, [Batch(x, x.sum(1, keepdim=True))], torch.optim.SGD(model.parameters(), lr=lr)


def test_the_curve_is_that_of_a_loop_written_by_hand():
    model, batches, optimizer = setup()
    curve = micro_train(model, batches, MSE, optimizer, 5)
    twin, _, other = setup()
    by_hand = []
    for _ in range(5):
        other.zero_grad()
        loss = functional.mse_loss(twin(batches[0].inputs), batches[0].targets)
        by_hand.append(loss.item())
        loss.backward()
        other.step()
    assert curve.losses == tuple(by_hand)
    assert torch.equal(model.weight, twin.weight)
    assert (curve.steps, curve.ended) == (5, "steps")


def test_equal_seeds_give_equal_curves_with_dropout():
    def run():
        with seeded(1):
            model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        return micro_train(model, setup()[1], MSE, torch.optim.Adam(model.parameters()), 4, seed=3).losses

    assert run() == run()


def test_divergence_ends_the_training():
    model, batches, optimizer = setup(lr=1e30)
    curve = micro_train(model, batches, MSE, optimizer, 50)
    assert curve.diverged
    assert curve.steps < 50


def test_a_callback_sees_the_model_after_each_step_and_may_end_it():
    model, batches, optimizer = setup()
    seen = []
    curve = micro_train(
        model, batches, MSE, optimizer, 50, on_step=lambda info: seen.append(info.model is model) or info.step == 3
    )
    assert seen == [True] * 3
    assert (curve.steps, curve.ended) == (3, "until")


def test_a_loss_that_is_good_enough_ends_the_training():
    model, batches, optimizer = setup()
    curve = micro_train(model, batches, MSE, optimizer, 500, until=0.1)
    assert curve.losses[-1] <= 0.1 < curve.losses[-2]


def test_the_budget_ends_the_training():
    model, batches, optimizer = setup()
    assert micro_train(model, batches, MSE, optimizer, 50, seconds=-1.0).ended == "budget"


def test_a_generator_of_batches_begins_again():
    model, batches, optimizer = setup()
    assert micro_train(model, iter(batches), MSE, optimizer, 3).steps == 3


def test_no_batch_and_a_constant_loss_are_errors():
    model, batches, optimizer = setup()
    with pytest.raises(NndiagError, match="no batch"):
        micro_train(model, [], MSE, optimizer, 3)
    with pytest.raises(NndiagError, match="does not depend on any parameter"):
        micro_train(model, batches, Objective("c", "", lambda o, t: t.mean()), optimizer, 3)


def test_mode_flags_stay_as_the_caller_set_them():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[1].eval()
    micro_train(model, setup()[1], MSE, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    assert [module.training for module in model] == [True, False, True]
    assert Training().steps is None
