"""What does a longer training reach, identical start or not?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nndiag.lab.forward import as_tensors, call, main_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.subject import Batch
    from nndiag.lab.bench import Bench, Trial


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a longer training reached."""

    losses: tuple[float, ...]
    right: float | None  # share of right classes; None where targets are no classes
    rows: int  # judged on so many
    held_out: bool  # rows that were not trained on

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self.losses)


def outcome(bench: Bench, steps: int, seconds: float) -> Outcome:
    """Train for some steps or seconds, and count right classes on a quarter of the batches kept aside."""
    kept = len(bench.batches) // 4
    feed, aside = (bench.batches[:-kept], bench.batches[-kept:]) if kept else (bench.batches, bench.batches)
    end = time.monotonic() + seconds
    found: dict[str, Any] = {}

    def last(trial: Trial) -> bool:
        done = trial.steps >= steps or time.monotonic() > end or not trial.finite
        if done:
            found["share"], found["rows"] = _right(bench, aside)
        return done

    trial = bench.run(steps, until=last, batches=feed)
    return Outcome(tuple(trial.losses), found.get("share"), found.get("rows", 0), bool(kept))


def _right(bench: Bench, batches: Sequence[Batch]) -> tuple[float | None, int]:
    right = total = 0
    with torch.no_grad():
        for batch in batches:
            targets = as_tensors(batch.targets)
            answer = main_output(call(bench.model, batch.inputs))
            if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or answer.dim() != 2:
                return None, 0
            if targets.shape != answer.shape[:1] or answer.shape[1] < 2:
                return None, 0
            right += int((answer.argmax(1) == targets.to(answer.device)).sum())
            total += int(targets.numel())
    return (right / total if total else None), total
