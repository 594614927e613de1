"""Every specimen of the zoo runs forward and backward, in training and in evaluation."""

from __future__ import annotations

import time

import pytest
import torch

from nndiag.core.subject import Training
from nndiag.lab.borrow import fingerprint
from nndiag.lab.objective import loss_of, resolve_objective
from zoo import healthy

SPECIMENS = list(healthy())


def test_there_are_more_than_forty_five_of_them_with_names_of_their_own():
    assert len(SPECIMENS) > 45
    assert len({found.name for found in SPECIMENS}) == len(SPECIMENS)


@pytest.mark.filterwarnings("ignore")  # other people's models warn of what they like
@pytest.mark.parametrize("found", SPECIMENS, ids=lambda found: found.name)
def test_a_specimen_learns_in_training_and_runs_in_evaluation(found):
    model = found.make()
    objective = resolve_objective(Training(), model, found.batch)
    frozen = [module for module in model.modules() if not module.training]
    loss, _ = loss_of(model, found.batch, objective)
    assert torch.isfinite(loss)
    loss.backward()
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)
    assert all(not module.training for module in frozen)
    model.eval()
    with torch.no_grad():
        assert torch.isfinite(loss_of(model, found.batch, objective)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "found", [found for found in SPECIMENS if found.name in ("gpt2", "resnet", "fixup", "unet")], ids=lambda f: f.name
)
def test_a_specimen_is_the_same_at_every_making_and_made_in_a_moment(found):
    first = fingerprint(found.make())
    begun = time.perf_counter()
    assert fingerprint(found.make()) == first
    assert time.perf_counter() - begun < 2
