"""Schedulers of the user's own, really stepped."""

from __future__ import annotations

import math

import pytest
from torch.optim import lr_scheduler

from nndiag.core.errors import NndiagError
from nndiag.lab.schedule_run import record


def warm_cosine(total, warmup=10):
    def factor(s):
        return s / warmup if s < warmup else 0.5 * (1 + math.cos(math.pi * min(1, (s - warmup) / (total - warmup))))

    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


def test_a_lambda_scheduler_shows_warm_up_and_end():
    seen = record(warm_cosine(100), 0.1, 150)
    assert seen.warmup == 10
    assert seen.end == pytest.approx(100, abs=2)
    assert len(seen.rates) == 151


def test_counts_of_torchs_own_schedulers_are_read():
    assert dict(record(lambda o: lr_scheduler.CosineAnnealingLR(o, 50), 0.1, 5).counts) == {
        "name": "cosine",
        "total_steps": 50,
    }
    stones = dict(record(lambda o: lr_scheduler.MultiStepLR(o, [30, 60]), 0.1, 5).counts)
    assert stones["milestones"] == (30.0, 60.0)


def test_one_cycle_raises_past_its_end_and_that_is_recorded():
    seen = record(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=100), 0.1, 400)
    assert "total steps is 100" in seen.raised
    assert len(seen.rates) <= 101


def test_a_constant_rate_has_no_end():
    assert record(lambda o: lr_scheduler.LambdaLR(o, lambda s: 1.0), 0.1, 20).end is None


def test_a_factory_that_raises_is_the_users_fault_with_his_line():
    def broken(optimizer):
        raise ValueError("no total steps")

    with pytest.raises(NndiagError, match="no total steps"):
        record(broken, 0.1, 5)


def test_a_factory_that_returns_no_scheduler_is_refused():
    with pytest.raises(NndiagError, match="not a scheduler"):
        record(lambda optimizer: 3, 0.1, 5)
