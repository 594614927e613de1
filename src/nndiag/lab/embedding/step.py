"""What does one training step of a table cost, alone? Forward, backward and optimizer of one small enough to try."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from nndiag.lab.clock import Timing, threads, time_call
from nndiag.lab.embedding.look import TRY_BYTES, Trial
from nndiag.lab.uncompiled import lightened, uncompiled
from nndiag.science.roofline import Line, fit_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

HOLD_BYTES = 2**30  # everything a trial may hold at once
QUICK, BLOCK = 0.02, 3  # a step of fewer seconds may live in the caches: this many in a row
FRESH_RATE = 1.5e9  # bytes per second into fresh memory, about: what it takes to set up a large trial
FRESH_BYTES = 33 * 2**20  # from here on glibc maps fresh pages for every temporary


@dataclass(frozen=True, slots=True)
class StepTiming:
    """Seconds of one step of one table, by part."""

    rows: int
    forward: Timing
    backward: Timing  # zero-fill and scatter; for sparse gradients only the rows
    optimizer: Timing
    total: Timing


def time_table(trial: Trial, rows: int, *, repeats: int = 5, seconds: float = 1.5) -> StepTiming:
    """Time one size by itself: see `time_sizes`."""
    return time_sizes(trial, [rows], repeats=repeats, seconds=seconds)[0]


def time_sizes(trial: Trial, sizes: Sequence[int], *, repeats: int = 5, seconds: float = 3.0) -> list[StepTiming]:
    """Time forward, backward and optimizer step of tables of several sizes, on one thread when on a CPU.

    The sizes take turns, so that whatever else the machine does meanwhile hits all of them alike. All are held at once;
    where time runs short the first and the last are enough.

    Args:
        trial: The table.
        sizes: V of each.
        repeats: Repetitions of each step that are enough.
        seconds: Time to spend, about: a third of it at least; one repetition of each is made at least.

    Returns:
        The parts and their sum at each size.
    """
    _settle_allocator()
    plain = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
    with threads(1), uncompiled(), plain:
        _Step(trial, 16)()  # torch imports half of itself at the first step of an optimizer
        begun = time.perf_counter()
        trial.weight(max(sizes))
        steps: list[_Step] = []
        for place, rows in enumerate(sizes):
            late = time.perf_counter() - begun > seconds / 2
            if late and 0 < place < len(sizes) - 1:  # two sizes make a line, too
                continue
            steps.append(_Step(trial, rows))
            steps[-1].warm(seconds / 4 / len(sizes))
        while _goes_on(len(steps[-1].parts), (time.perf_counter() - begun) / seconds, repeats):
            for step in steps:
                step.turn()
        found = [step.timing() for step in steps]
    for step in steps:
        step.release()
    return found


def _goes_on(made: int, spent: float, repeats: int) -> bool:
    """Whether another turn is due, after so many and so large a share of the time."""
    if made >= repeats:
        return spent < 1 / 3  # quick steps outlast what disturbs them
    return made == 0 or spent < (1 if made >= 3 else 2)


def _settle_allocator() -> None:
    """Free one large block, as any training does in its first step.

    glibc raises the size from which it maps fresh pages to that of the largest mapped block freed so far, at most
    32 MiB: before, temporaries of some megabytes would cost page faults that no later step pays.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8).fill_(1)


class _Step:
    """One training step of one table, timed in three parts."""

    def __init__(self, trial: Trial, rows: int) -> None:
        self._trial = trial
        self._module = trial.module(rows)
        self._batches = [ids.to(trial.device) for ids in trial.ids.batches(max(rows, trial.frozen))]
        self._parameters = list(self._module.parameters())
        self._optimizer = lightened(trial.make(self._parameters))
        self._rows = rows
        self._turn = 0
        self._fastest = float("inf")
        self._upstream: Tensor | None = None
        self.parts: list[tuple[float, float, float]] = []

    def __call__(self) -> None:
        forward = backward = 0.0
        for left in reversed(range(self._trial.accumulation)):
            ids = self._batches[self._turn % len(self._batches)]
            self._turn += 1
            shaped = ids.view(-1, self._trial.pooled) if self._trial.pooled else ids
            out: list[Tensor] = []
            with self._alone(last=left == 0):
                forward += self._once(lambda: out.append(self._module(shaped)))  # noqa: B023 - called at once
                if self._upstream is None:
                    self._upstream = torch.full_like(out[0], 1e-3)
                upstream = self._upstream
                backward += self._once(lambda: torch.autograd.backward(out[0], upstream))  # noqa: B023 - likewise
            out.clear()
        self.parts.append((forward, backward, self._once(self._update)))

    def _alone(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Data-parallel gradients are reduced with the last micro-batch only."""
        held = self._trial.buckets and not last
        alone: contextlib.AbstractContextManager[None] = (
            self._module.no_sync() if held else contextlib.nullcontext()  # type: ignore[operator]
        )
        return alone

    def warm(self, seconds: float) -> None:
        """Create the optimizer's state, and touch the rows of every batch, as long as there is time for it."""
        begun = time.perf_counter()
        for _ in self._batches:
            self()
            if time.perf_counter() - begun > seconds:
                break
        self._fastest = min(sum(row) for row in self.parts)
        self.parts.clear()

    def turn(self) -> None:
        """Make some steps; a first quick one only brings back what another table drove from the caches."""
        self()
        self._fastest = min(self._fastest, sum(self.parts[-1]))
        if self._fastest < QUICK:
            self.parts.pop()
            for _ in range(BLOCK):
                self()

    def timing(self) -> StepTiming:
        """What the steps since the last warm-up took."""
        forward, backward, optimizer = (Timing.of([row[i] for row in self.parts]) for i in range(3))
        return StepTiming(self._rows, forward, backward, optimizer, Timing.of([sum(row) for row in self.parts]))

    def release(self) -> None:
        """Give the memory back at once: looking for cycles among all that torch imports takes longer than a step."""
        self._optimizer.state.clear()
        for parameter in self._parameters:
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)
        if self._trial.buckets:  # the buckets of DistributedDataParallel hang in a cycle
            del self._module
            gc.collect()

    def _once(self, call: Callable[[], object]) -> float:
        return time_call(call, device=self._trial.device, repeats=1, warmup=0).low

    def _update(self) -> None:
        if self._trial.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._trial.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=self._trial.set_to_none)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Step time at a size that was or was not tried."""

    trial: Trial
    rows: int
    loads: tuple[float, ...]
    tried: tuple[StepTiming, ...]
    measured: StepTiming | None = None  # at the full size, where it was tried

    @property
    def seconds(self) -> float:
        """The line at the full size."""
        return self.at(self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % prediction interval at the full size."""
        return self.interval_at(self.rows)

    @property
    def line(self) -> Line:
        """Seconds of the whole step against the load."""
        noise = max(item.total.deviation / item.total.repeats**0.5 for item in self.tried)
        return fit_line(self.loads, [item.total.typical for item in self.tried], noise=noise)

    def at(self, rows: float) -> float:
        """Seconds of a step of the same table with so many rows."""
        return self.line.at(self.trial.load(rows))

    def interval_at(self, rows: float) -> tuple[float, float]:
        """95 % prediction interval of a step of the same table with so many rows."""
        return self.line.interval(self.trial.load(rows))

    def part(self, name: str) -> float:
        """Seconds of one part of the step at the full size: forward, backward or optimizer."""
        if self.measured is not None:
            return float(getattr(self.measured, name).typical)
        values = [getattr(item, name).typical for item in self.tried]
        if len(values) < 2:
            return float(values[0])
        return fit_line(self.loads, values).at(self.trial.load(self.rows))


def sizes_to_try(rows: int, row_bytes: int, copies: float, *, sparse: bool = False) -> tuple[int, ...]:
    """Choose three smaller sizes for T = a + bV: as near to V as memory and time allow.

    Near, because a CPU table changes its price where it outgrows the cache and where the allocator starts to map fresh
    pages (32 MiB): a line through sizes on the other side of that step predicts nothing. With sparse gradients the rows
    in use miss the caches the more often the farther they lie apart, so the sizes are larger.

    Args:
        rows: V.
        row_bytes: Bytes per row.
        copies: Table-sized tensors alive at once.
        sparse: Only the rows of the batch are touched.

    Returns:
        Increasing numbers of rows, all below V; fewer than three where V is tiny.
    """
    if sparse:
        top = min(0.85 * rows, 2 * TRY_BYTES / row_bytes, HOLD_BYTES / (2 * copies) / row_bytes)
        return _between(0.3 * top, top)
    top = min(0.85 * rows, TRY_BYTES / row_bytes, HOLD_BYTES / copies / row_bytes)
    low = 0.5 * top
    if rows * row_bytes > FRESH_BYTES:  # stay on the same side of the allocator's step where there is room
        low = min(max(low, FRESH_BYTES / row_bytes), 0.9 * top)
    return _between(low, top)


def _between(low: float, top: float) -> tuple[int, ...]:
    return tuple(sorted({max(int(low + share * (top - low)), 1) for share in (0.0, 0.5, 1.0)}))


def forecast(  # noqa: PLR0913 - budgets, by name
    trial: Trial,
    rows: int,
    *,
    copies: float = 6,
    seconds: float = 4.0,
    repeats: int = 5,
    full: bool = False,
    ends: bool = False,
) -> Forecast:
    """Predict the step of a table of V rows from smaller ones, and measure it where that is cheap.

    Args:
        trial: The table.
        rows: V.
        copies: Table-sized tensors alive at once: weight, gradient, state and temporaries.
        seconds: Time to spend on the smaller sizes, about.
        repeats: Repetitions at each size.
        full: Also measure at V, where it fits.
        ends: V alone where it is small, else only the smallest and the largest of the sizes: enough for a line.

    Returns:
        The line through the smaller sizes, its value and interval at V, and the measurement if there is one.
    """
    row_bytes = trial.dim * trial.dtype.itemsize
    if ends and rows * row_bytes * copies <= HOLD_BYTES and rows * row_bytes <= TRY_BYTES:
        measured = time_table(trial, rows, repeats=repeats, seconds=seconds)
        return Forecast(trial, rows, (trial.load(rows),), (measured,), measured)
    sizes = sizes_to_try(rows, row_bytes, copies, sparse=trial.sparse)
    if ends:
        sizes = tuple(sorted({sizes[0], sizes[-1]}))
    begun = time.perf_counter()
    share = seconds * len(sizes) / (len(sizes) + full)
    tried = tuple(time_sizes(trial, sizes, repeats=repeats, seconds=share))
    found = Forecast(trial, rows, tuple(trial.load(item.rows) for item in tried), tried)
    left = seconds - (time.perf_counter() - begun)
    held = rows * row_bytes * copies
    takes = 4 * found.seconds + held / FRESH_RATE
    if not full or held > HOLD_BYTES or takes > max(left, 0.3 * seconds):
        return found
    return replace(found, measured=time_table(trial, rows, repeats=repeats, seconds=max(left, 0.1)))
