"""Closed forms of schedules against torch's and transformers' own, and what counts as a rebound."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from nndiag.science import schedules
from nndiag.science.schedules import Curve


def stepped(make, steps):
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the optimizer was not stepped
        scheduler = make(optimizer)
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in range(steps):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("curve", "make"),
    [
        (Curve("cosine", total=50), lambda o: lr_scheduler.CosineAnnealingLR(o, 50)),
        (Curve("linear", total=50), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 50)),
        (Curve("step", decay=7, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
        (
            Curve("multistep", milestones=(5, 20, 60), gamma=0.1),
            lambda o: lr_scheduler.MultiStepLR(o, [5, 20, 60], 0.1),
        ),
        (Curve("exponential", gamma=0.95), lambda o: lr_scheduler.ExponentialLR(o, 0.95)),
        (Curve("cosine-restarts", cycle=13), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 13)),
    ],
    ids=lambda item: getattr(item, "name", ""),
)
def test_a_closed_form_is_the_torch_scheduler_also_past_its_end(curve, make):
    executed = stepped(make, 120)
    assert [curve.factor(s) for s in range(121)] == pytest.approx(executed, abs=1e-9)


@pytest.mark.parametrize(
    ("curve", "name"),
    [
        (Curve("linear", total=50, warmup=10), "linear"),
        (Curve("cosine", total=50, warmup=10), "cosine"),
        (Curve("constant", warmup=10), "constant_with_warmup"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_closed_form_is_the_transformers_scheduler(curve, name):
    transformers = pytest.importorskip("transformers")
    executed = stepped(lambda o: transformers.get_scheduler(name, o, num_warmup_steps=10, num_training_steps=50), 80)
    assert [curve.factor(s) for s in range(81)] == pytest.approx(executed, abs=1e-9)


def test_cosine_over_1000_steps_stepped_four_times_per_update_climbs_back_to_its_peak():
    curve = Curve("cosine", total=1000)
    rates = {u: 0.1 * curve.factor(4 * u) for u in (125, 250, 500)}
    assert rates[125] == pytest.approx(0.05)
    assert rates[250] == pytest.approx(0.0, abs=1e-12)
    assert rates[500] == pytest.approx(0.1)
    x = schedules.grid(1000, 1001)
    y = [curve.factor(4 * u) for u in x]
    back = schedules.rebound(x, y)
    assert back.low_at == pytest.approx(250, abs=1)
    assert back.rise == pytest.approx(1.0, abs=1e-5)
    assert sum(y) / len(y) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("points", [301, 4001, 4003])
def test_of_rebounds_that_are_alike_the_first_is_told(points):
    curve = Curve("cosine", total=1000)
    x = schedules.grid(7812, points)
    back = schedules.rebound(x, [curve.factor(u) for u in x])
    assert back.low_at == pytest.approx(1000, abs=30)
    assert back.high_at == pytest.approx(2000, abs=30)


def test_a_warm_up_is_no_rebound():
    curve = Curve("cosine", total=100, warmup=30)
    x = schedules.grid(100)
    assert schedules.rebound(x, [curve.factor(s) for s in x]) is None


@pytest.mark.parametrize("y", [[], [0.0, 0.0], [1.0], [1.0, 1.0, 1.0]])
def test_degenerate_curves_have_no_rebound(y):
    assert schedules.rebound(list(range(len(y))), y) is None


def test_the_rate_arrives_where_it_first_falls_to_a_hundredth():
    curve = Curve("linear", total=100)
    x = schedules.grid(200)
    assert schedules.arrival(x, [curve.factor(s) for s in x]) == pytest.approx(99, abs=1)
    assert schedules.arrival([0, 1], [1.0, 1.0]) is None


@pytest.mark.parametrize(
    ("per", "expected"), [("optimizer", 1.0), ("micro-batch", 4.0), ("process", 8.0), ("epoch", 1 / 25)]
)
def test_steps_per_update_of_each_habit(per, expected):
    rate = schedules.steps_per_update(per, devices=8, accumulation=4, updates_per_epoch=25)
    assert rate == pytest.approx(expected)


def test_accelerates_split_batches_steps_once():
    assert schedules.steps_per_update("process", devices=8, accumulation=1, updates_per_epoch=None, split=True) == 1


def test_a_step_per_epoch_needs_the_size_of_an_epoch():
    assert schedules.steps_per_update("epoch", devices=8, accumulation=1, updates_per_epoch=None) is None


@pytest.mark.parametrize(
    ("unit", "sharded", "samples"),
    [("optimizer", False, 512), ("dataloader", False, 32), ("dataloader", True, 256), ("epoch", False, 50_000)],
)
def test_samples_behind_one_count(unit, sharded, samples):
    found = schedules.samples_per_count(unit, per_device=32, devices=8, accumulation=2, sharded=sharded, samples=50_000)
    assert found == samples


def test_the_accelerated_scheduler_really_steps_once_per_process():
    accelerate = pytest.importorskip("accelerate")
    source = __import__("inspect").getsource(accelerate.scheduler.AcceleratedScheduler.step)
    assert "num_processes" in source
