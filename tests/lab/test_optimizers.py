"""The optimizer that the user named, over what can be trained."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Training
from nndiag.lab.optimizers import known_optimizers, make_optimizer, optimizer_name


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam", "adamax", "Adam_W"])
def test_optimizers_of_torch_go_by_their_names(name):
    made = make_optimizer(Training(optimizer=name, lr=0.25), nn.Linear(2, 2))
    assert type(made) is known_optimizers()[name.lower().replace("_", "")]
    assert made.param_groups[0]["lr"] == 0.25


def test_arguments_may_have_dashes_and_lists():
    args = {"weight-decay": 0.1, "betas": [0.8, 0.9]}
    group = make_optimizer(Training(optimizer="adamw", optimizer_args=args), nn.Linear(2, 2)).param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.1, (0.8, 0.9))


def test_an_unknown_name_or_argument_is_a_usage_error_with_a_suggestion():
    with pytest.raises(UsageError) as name:
        make_optimizer(Training(optimizer="adamm"), nn.Linear(2, 2))
    assert "adam" in name.value.hint
    with pytest.raises(UsageError) as argument:
        make_optimizer(Training(optimizer="sgd", optimizer_args={"momentun": 0.9}), nn.Linear(2, 2))
    assert "momentum" in argument.value.hint


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(requires_grad=False)
    held = make_optimizer(Training(), model).param_groups[0]["params"]
    assert {id(item) for item in held} == {id(item) for item in model[1].parameters()}


def test_a_model_without_parameters_cannot_be_trained():
    with pytest.raises(NndiagError, match="no trainable parameter"):
        make_optimizer(Training(), nn.ReLU())


def test_the_users_function_builds_it_and_a_rate_scales_its_groups():
    def build(params):
        params = list(params)
        return torch.optim.SGD([{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}], lr=0.1)

    made = make_optimizer(Training(optimizer=build), nn.Linear(2, 2), lr=0.5)
    assert [group["lr"] for group in made.param_groups] == [0.5, 1.0]
    assert optimizer_name(Training(optimizer=build)) == "build"


def test_a_function_that_wants_the_model_gets_it():
    made = make_optimizer(
        Training(optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1.0)), nn.Linear(2, 2)
    )
    assert len(made.param_groups[0]["params"]) == 2


def test_a_function_that_returns_something_else_is_an_error():
    with pytest.raises(NndiagError, match="returned int"):
        make_optimizer(Training(optimizer=lambda params: 3), nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lbfgs"])
def test_steps_are_bit_for_bit_those_of_torch_and_do_not_import_its_compiler(name):
    script = f"""
import sys, torch
from nndiag.core.subject import Training
from nndiag.lab.optimizers import known_optimizers, make_optimizer

def run(build):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)), torch.randn(8, 3)
    optimizer = build(model)
    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss
    for _ in range(4):
        if {name!r} == "lbfgs":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return torch.cat([item.flatten() for item in model.parameters()])

ours = run(lambda model: make_optimizer(Training(optimizer={name!r}, lr=0.05), model))
assert "torch._dynamo" not in sys.modules or {name!r} == "lbfgs"
theirs = run(lambda model: known_optimizers()[{name!r}](model.parameters(), lr=0.05))
assert torch.equal(ours, theirs)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_scheduler_drives_it():
    optimizer = make_optimizer(Training(optimizer="sgd", lr=1.0), nn.Linear(2, 2))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.25]
