"""A borrowed model comes back bit for bit, whatever happened and wherever it stopped."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Training
from nndiag.lab.borrow import borrow, fingerprint, seeded
from nndiag.lab.objective import loss_of, resolve_objective
from nndiag.lab.optimizers import make_optimizer
from nndiag.lab.snapshot import same_bits
from nndiag.lab.watch.sites import trace
from zoo import healthy

EVERY_THIRD = list(healthy())[::3]


class StoppedError(Exception):
    pass


def small():
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


def mischief(model, stop_at):
    """Do to a model, one after another, what checks may do; stop after `stop_at` of them."""
    steps = [
        model.eval,
        model.train,
        model.half,
        model.float,
        lambda: [weight.data.add_(1) for weight in model.parameters()],
        lambda: [setattr(weight, "data", torch.zeros_like(weight)) for weight in model.parameters()],
        lambda: [weight.requires_grad_(requires_grad=False) for weight in model.parameters()],
        lambda: model.zero_grad(set_to_none=True),
        lambda: [setattr(weight, "grad", torch.ones_like(weight)) for weight in model.parameters()],
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: next(model.parameters()).requires_grad_().register_hook(lambda grad: grad),
        lambda: model.add_module("guest", nn.Linear(1, 1)),
        lambda: setattr(model, "note", [1, 2]),
        lambda: model.register_buffer("more", torch.zeros(1)),
        lambda: [setattr(m, "running_mean", torch.full_like(m.running_mean, 7.0)) for m in model.modules() if isinstance(m, nn.BatchNorm1d)],
        lambda: [module.register_parameter("weight", nn.Parameter(torch.zeros(1))) for module in model.modules() if isinstance(module, nn.Linear)],
        lambda: [torch.rand(3), np.random.rand(3), random.random()],
        lambda: torch.set_grad_enabled(False),
        lambda: torch.set_default_dtype(torch.float64),
    ]  # fmt: skip
    for number, step in enumerate(steps):
        if number == stop_at:
            raise StoppedError
        step()
    return len(steps)


@pytest.mark.parametrize("stage", range(20))
def test_a_model_comes_back_from_an_exception_at_every_stage(stage):
    model = small()
    model(torch.randn(6, 4)).sum().backward()
    model[1].eval()
    model[4].weight.requires_grad_(requires_grad=False)
    before, draws = fingerprint(model), (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    objects = [id(item) for item in (*model.parameters(), *model.buffers(), *model.modules())]
    try:
        with borrow(model) as lent:
            assert lent is model
            mischief(lent, stage)
    except StoppedError:
        assert stage < 19
    assert fingerprint(model) == before
    assert [id(item) for item in (*model.parameters(), *model.buffers(), *model.modules())] == objects
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert np.array_equal(np.random.get_state()[1], draws[1])
    assert random.getstate() == draws[2]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
    assert not hasattr(model, "note")


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_an_optimizer_comes_back_with_its_state_and_groups(kind):
    model = small()
    optimizer = make_optimizer(Training(optimizer=kind, optimizer_args={"weight_decay": 0.1}), model)
    for _ in range(2):
        model(torch.randn(6, 4)).sum().backward()
        optimizer.step()
    before = fingerprint(model, optimizer)
    with borrow(model, optimizer):
        optimizer.zero_grad()
        model(torch.randn(6, 4)).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 9.0
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert fingerprint(model, optimizer) == before
    assert len(optimizer.param_groups) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("found", EVERY_THIRD, ids=lambda found: found.name)
def test_models_of_other_people_come_back_from_tracing_and_training(found):
    model = found.make()
    objective = resolve_objective(Training(), model, found.batch)
    loss_of(model, found.batch, objective)[0].backward()  # gradients of the user's own
    before = fingerprint(model)
    with borrow(model) as lent:
        optimizer = make_optimizer(Training(), lent)
        optimizer.zero_grad()
        loss_of(lent, found.batch, objective)[0].backward()
        optimizer.step()
        assert fingerprint(lent) != before
    assert fingerprint(model) == before
    trace(model, found.batch, training=True)
    assert fingerprint(model) == before


STAGES = ("at once", "eval", "hooked", "frozen", "forward", "backward", "step", "halved", "grown")


def disturb(model, optimizer, found, objective, stage):
    """Do what checks do, in their order, and stop with an exception at one of the stages, in mid-forward too."""

    def stop(*_):
        raise StoppedError

    def reached(name):
        if name == stage and name not in {"forward", "backward"}:
            raise StoppedError

    reached("at once")
    model.eval()
    reached("eval")
    leaves = [module for module in model.modules() if not list(module.children())]
    [module.register_forward_hook(lambda *_: None) for module in leaves]
    reached("hooked")
    next(model.parameters()).requires_grad_(requires_grad=False)
    [torch.rand(2), np.random.rand(2), random.random()]
    reached("frozen")
    model.train()
    if stage == "forward":
        leaves[len(leaves) // 2].register_forward_pre_hook(stop)
        model.register_forward_hook(stop)
    if stage == "backward":
        [item.register_hook(stop) for item in model.parameters() if item.requires_grad]
    optimizer.zero_grad()
    loss_of(model, found.batch, objective)[0].backward()
    optimizer.step()
    reached("step")
    model.half()
    reached("halved")
    model.add_module("guest", nn.Linear(1, 1))
    optimizer.add_param_group({"params": list(model.guest.parameters())})
    torch.set_grad_enabled(False)
    raise StoppedError


def randomness():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("found", EVERY_THIRD, ids=lambda found: found.name)
def test_dozens_of_models_come_back_from_an_exception_at_every_stage(found):
    model = found.make()
    objective = resolve_objective(Training(), model, found.batch)
    optimizer = make_optimizer(Training(optimizer="adam"), model)
    loss_of(model, found.batch, objective)[0].backward()
    optimizer.step()
    list(model.modules())[-1].eval()
    before, drawn = fingerprint(model, optimizer), randomness()
    names = [sorted(vars(module)) for module in model.modules()]
    for stage in STAGES:
        with pytest.raises((StoppedError, NndiagError)), borrow(model, optimizer):
            disturb(model, optimizer, found, objective, stage)
        assert fingerprint(model, optimizer) == before, stage
        assert [sorted(vars(module)) for module in model.modules()] == names, stage
        assert randomness() == drawn, stage
        assert torch.is_grad_enabled(), stage


def test_the_rest_comes_back_when_one_part_cannot(monkeypatch):
    model = small()
    optimizer = make_optimizer(Training(optimizer="adam"), model)
    drawn = randomness()

    def fails(_):
        raise MemoryError

    monkeypatch.setattr("nndiag.lab.snapshot.TensorSnapshot.restore", fails)

    def change():
        with borrow(model, optimizer):
            optimizer.param_groups[0]["lr"] = 9.0
            torch.rand(3)
            torch.set_grad_enabled(False)

    with pytest.raises(MemoryError):
        change()
    assert optimizer.param_groups[0]["lr"] != 9.0
    assert randomness() == drawn
    assert torch.is_grad_enabled()


def test_a_copy_lent_without_the_values_of_its_weights_has_all_else_back():
    model = small()
    before = fingerprint(model)
    with borrow(model, weights=False), torch.no_grad():
        model.train()
        model(torch.randn(6, 4))
        model.half()
        model.register_forward_hook(lambda *_: None)
    assert fingerprint(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.bool, torch.int8, torch.complex128])  # fmt: skip
def test_bits_are_compared_and_not_values(dtype):
    one = torch.zeros(3, 4, dtype=dtype).t()
    assert same_bits(one, one.clone())
    other = one.clone()
    other[1, 2] = -0.0 if dtype.is_floating_point else 1
    assert not same_bits(one, other)


def test_a_lazy_model_is_lazy_again():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    before = fingerprint(model)
    with borrow(model):
        model(torch.randn(3, 5))
        assert not isinstance(model[0].weight, nn.UninitializedParameter)
    assert fingerprint(model) == before
    assert model(torch.randn(3, 7)).shape == (3, 4)


def test_a_nan_keeps_its_payload_and_zero_its_sign():
    model = nn.Linear(2, 1, bias=False)
    payload = torch.tensor([[0x7FC0BEEF, -0x80000000]], dtype=torch.int32)
    model.weight.data.copy_(payload.view(torch.float32))
    with borrow(model):
        model.weight.data.fill_(1)
    assert torch.equal(model.weight.data.view(torch.int32), payload)


def test_shared_weights_stay_shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with borrow(model):
        model[1].weight = nn.Parameter(torch.zeros(4, 4))
    assert model[1].weight is model[0].weight


def test_what_a_forward_keeps_in_attributes_is_as_it_was():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.seen = []
            self.count = 0
            self.last = torch.zeros(2)

        def forward(self, x):
            self.count += 1
            self.seen.append(x)
            self.last += 1
            return self.layer(x)

    model = Remembers()
    with borrow(model):
        model(torch.ones(1, 2))
    assert (model.count, model.seen, model.last.tolist()) == (0, [], [0.0, 0.0])


def test_a_model_without_parameters_and_one_with_sparse_gradients_come_back():
    with borrow(nn.ReLU()) as lent:
        lent.eval()
    assert lent.training
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    before = fingerprint(table)
    with borrow(table):
        table.weight.grad = None
    assert fingerprint(table) == before
    assert table.weight.grad.is_sparse


def test_seeding_leaves_no_trace():
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    with seeded(7):
        first = (torch.rand(1).item(), np.random.rand(), random.random())
    with seeded(7):
        assert (torch.rand(1).item(), np.random.rand(), random.random()) == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].weight.data[0, 0].add_(1e-7),
        lambda m: m[1].eval(),
        lambda m: setattr(m[0].weight, "grad", torch.zeros_like(m[0].weight)),
        lambda m: m[0].weight.requires_grad_(requires_grad=False),
        lambda m: m[1].running_var.mul_(2),
        lambda m: m.register_forward_hook(lambda *_: None),
    ],
)
def test_a_fingerprint_sees_every_kind_of_change(change):
    model = small()
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) != before
