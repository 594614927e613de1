"""How long does it really take? Repeated runs, the device waited for, the spread kept."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nndiag.science.roofline import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, repeated."""

    typical: float  # lowest tenth: what else runs on the machine only ever adds
    median: float
    low: float  # fastest
    high: float  # slowest
    repeats: int

    @classmethod
    def of(cls, taken: Sequence[float]) -> Timing:
        """Sum up repetitions."""
        tenths = statistics.quantiles(taken, n=10, method="inclusive") if len(taken) > 1 else [taken[0]]
        return cls(tenths[0], statistics.median(taken), min(taken), max(taken), len(taken))

    @property
    def deviation(self) -> float:
        """A standard deviation of one call, as of a normal law; at least 1 %, 10 % for one or two repetitions."""
        least = 0.01 if self.repeats > 2 else 0.1
        return max((self.median - self.typical) / 1.28, least * self.typical)


def wait(device: str | torch.device) -> None:
    """Wait until the device has done what was asked: an accelerator returns before the work is done."""
    if torch.device(device).type != "cpu" and torch.accelerator.is_available():
        torch.accelerator.synchronize(torch.device(device))  # this one, not the current one


def time_call(
    call: Callable[[], object], *, device: str = "cpu", repeats: int = 5, warmup: int = 1, seconds: float = 2.0
) -> Timing:
    """Time a call: warm up, then repeat.

    Args:
        call: What is timed; it must leave things as it found them.
        device: Where it runs.
        repeats: Wanted repetitions.
        warmup: Calls before the clock starts (first touches, lazy state, autotuning).
        seconds: No new repetition is begun once this much time is used; at least one is made.

    Returns:
        Lowest tenth, median, fastest and slowest.
    """
    begun = time.perf_counter()
    for _ in range(warmup):
        call()
    wait(device)
    taken: list[float] = []
    while len(taken) < repeats and (not taken or time.perf_counter() - begun < seconds):
        start = time.perf_counter()
        call()
        wait(device)
        taken.append(time.perf_counter() - start)
    return Timing.of(taken)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch's CPU operations on this many threads; afterwards on as many as before.

    In a container with a CPU quota every parallel operation can cost a flat several milliseconds, which hides
    everything else: clocks run on one thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_machine(device: str = "cpu", *, megabytes: int = 64) -> Machine:
    """Measure the three rates that bound a step.

    Bytes per second in place (`mul_`, a read and a write), into fresh memory (`zeros`, which on a CPU maps pages), and
    operations per second of a float32 matrix product.

    Args:
        device: Where.
        megabytes: Size of the tensor; larger than any cache, smaller than anything scarce.

    Returns:
        The machine, named after its device.
    """
    numel = megabytes * 2**20 // 4
    nbytes = 4.0 * numel
    tensor = torch.ones(numel, device=device)
    other = torch.ones(numel, device=device)
    two = time_call(lambda: tensor.mul_(1.0), device=device, repeats=3).typical
    three = time_call(lambda: torch.add(other, 1.0, out=tensor), device=device, repeats=3).typical
    fresh = time_call(lambda: torch.zeros(numel, device=device).fill_(0.0), device=device, repeats=3).typical
    blind = time_call(lambda: tensor.fill_(0.0), device=device, repeats=3).typical
    side = 512
    square = torch.ones(side, side, device=device)
    product = time_call(lambda: square @ square, device=device).typical
    stream = 2 * nbytes / min(two, three)
    # `zeros` writes once into new memory; the second fill is at the in-place rate and taken off
    return Machine(
        name=f"{device}, measured",
        stream=stream,
        fresh=min(nbytes / max(fresh - blind, 1e-9), stream),
        flops=2.0 * side**3 / product,
    )


def accelerator_memory(device: str) -> int | None:
    """Bytes of memory of an accelerator, None for a CPU."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return int(torch.cuda.get_device_properties(kind).total_memory)
    return None
