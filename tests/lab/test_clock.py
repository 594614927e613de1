"""Clocks: medians, budgets, and nothing left changed."""

import contextlib
import time

import torch

from nndiag.lab.clock import measure_machine, threads, time_call


def test_a_call_of_known_length_is_timed():
    timing = time_call(lambda: time.sleep(0.02), repeats=3)
    assert 0.02 <= timing.median < 0.2
    assert timing.low <= timing.median <= timing.high


def test_the_budget_ends_the_repetitions_but_one_is_made():
    assert time_call(lambda: time.sleep(0.01), repeats=1000, seconds=0.0).repeats == 1


def test_threads_are_given_back_also_after_an_error():
    before = torch.get_num_threads()
    with contextlib.suppress(ValueError), threads(1):
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == before


def test_the_machine_has_rates():
    machine = measure_machine(megabytes=8)
    assert machine.stream >= machine.fresh > 0
    assert machine.flops > 0
