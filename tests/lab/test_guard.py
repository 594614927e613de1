"""A trial forward ends before it takes the machine's memory or too long."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.lab.guard import Guard, TooMuchError

LARGE = {
    "a factory": lambda: torch.ones(1 << 20, 1 << 20),
    "a range": lambda: torch.arange(10**10),
    "a product": lambda: torch.ones(100_000, 1) @ torch.ones(1, 100_000),
    "a sum that broadcasts": lambda: torch.ones(100_000, 1) + torch.ones(1, 100_000),
    "a copy of what was expanded": lambda: torch.zeros(1, 1).expand(100_000, 100_000).contiguous(),
    "an enlarged table of positions": lambda: functional.interpolate(torch.ones(1, 1, 2, 2), scale_factor=40_000.0),
    "padding": lambda: functional.pad(torch.ones(1, 4), (10**9, 10**9)),
    "repetition": lambda: torch.ones(10).repeat(10**9),
    "distances": lambda: torch.cdist(torch.ones(100_000, 1), torch.ones(100_000, 1)),
    "one-hot columns": lambda: functional.one_hot(torch.tensor([10**9])),
}


@pytest.mark.parametrize("name", LARGE)
def test_an_operation_of_gigabytes_is_refused_before_it_allocates(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooMuchError, match="GiB"), Guard(60), torch.no_grad():
        LARGE[name]()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_ordinary_operations_run_and_are_counted_with_what_they_produce():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with Guard(60) as guard, torch.no_grad():
        inside = model(torch.ones(4, 8))
    assert torch.equal(inside, model(torch.ones(4, 8)))
    assert guard.operations >= 3
    assert guard.produced >= 4 * (4 * 16 + 4 * 16 + 4 * 4)


def test_a_forward_that_goes_on_for_too_long_ends():
    def forever():
        total = torch.zeros(())
        while True:
            total += 1

    with pytest.raises(TooMuchError, match="too long"), Guard(0.05):
        forever()


def test_the_guard_does_not_import_the_compiler():
    code = (
        "import sys, torch; from nndiag.lab.guard import Guard\n"
        "with Guard(60): torch.nn.Linear(3, 4)(torch.ones(2, 3))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
