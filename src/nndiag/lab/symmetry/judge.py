"""Do identical units come apart, and what tells them apart? Established by running it, and by running it otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nndiag.lab.bench import OutOfTimeError
from nndiag.lab.bench_parts import RandomTargets
from nndiag.lab.objective_fit import USERS
from nndiag.lab.symmetry.groups import Mirror, Twins, meet, mirrors_of, still_mirrored, still_together, twins_of
from nndiag.lab.symmetry.rounding import rounding
from nndiag.lab.symmetry.runs import Counterfactuals, healed, noise_of, under_noise
from nndiag.lab.symmetry.verdict import DROPOUT, STUCK, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nndiag.core.subject import Batch
    from nndiag.lab.bench import Bench, Trial
    from nndiag.lab.units.layers import UnitView

FIRST_STEPS = 5
MOST_STEPS = 25  # a chain of zero factors wakes one per step
ROUNDING_STEPS = 100


@dataclass(slots=True)
class Judgement:
    """Everything the dynamic runs said."""

    trial: Trial
    views: list[UnitView]
    verdicts: list[Verdict] = field(default_factory=list)
    mirrors: list[Mirror] = field(default_factory=list)
    loosened: list[Mirror] = field(default_factory=list)  # mirrored at the start, not locked
    unfinished: tuple[str, ...] = ()  # layers with twins that the time did not suffice for


def first_steps(bench: Bench, loss: Callable[..., Tensor] | None = None) -> Trial:
    """Train until no further parameter wakes up: at least five steps, one more per zero factor in series."""

    def settled(trial: Trial) -> bool:
        last = trial.steps - 1
        fresh = any(trial.first_arrival(name) in {last, last - 1} for name in trial.arrival)
        return trial.steps >= FIRST_STEPS and not (fresh and last > 1)

    return bench.run(MOST_STEPS, loss, until=settled)


def judge(  # noqa: PLR0913 - an experiment has these knobs, all by name
    bench: Bench,
    views: Sequence[UnitView],
    *,
    tables: Sequence[UnitView] = (),
    tolerance: float,
    own: Callable[[], Bench | None] = lambda: None,
    steps: int = ROUNDING_STEPS,
    most: int | None = None,
    head: Sequence[str] = (),
) -> Judgement:
    """Run the first steps, and for what stays together the runs that say why.

    Args:
        bench: The private copy, float64 where possible.
        views: The layers.
        tables: What is no layer's weight; spoken of where all its rows start equal and stay so, positions, labels and
            inputs whatever they are.
        tolerance: Relative distance of displacements below which two units are one.
        own: Makes a copy in the model's own precision for the long run, unless there is no time for it.
        steps: Length of the long run.
        most: Its length where rounding is about to part what is stuck.
        head: Parameters of the output layer.

    Raises:
        OutOfTimeError: When not even the first steps were finished.
    """
    trial = first_steps(bench)
    result = Judgement(trial, list(views))
    pairs = (mirrors_of(view, bench.start) for view in views if _learns(view, trial))
    for mirror in (item for item in pairs if item is not None):
        locked = still_mirrored(mirror, trial, tolerance)
        (result.mirrors if locked else result.loosened).append(locked or mirror)
    groups = [found for view in tables if (found := _one_row(view, bench, trial, tolerance))]
    groups += [
        found for view in views if _learns(view, trial) and (found := twins_of(view, bench.start, tolerance, trial))
    ]
    rest = {id(item): still_together(item, trial, tolerance) for item in groups}
    try:
        if any(rest.values()) and bench.objective is not None:
            rest = _beyond_labels(bench, groups, rest, trial.steps, tolerance)
        stuck = [left for left in rest.values() if left is not None]
        noisy = under_noise(bench, stuck, tolerance) if stuck else {}
    except OutOfTimeError:
        result.unfinished = tuple(item.view.label for item in groups if rest[id(item)] is not None)
        groups = [item for item in groups if rest[id(item)] is None]
        noisy = {}
    otherwise = Counterfactuals(bench, trial, tolerance, tuple(head))
    for item in groups:
        left = rest[id(item)]
        if item.view.kind == "table" and (left is None or left.width > 1):
            continue
        if left is None:
            result.verdicts.append(otherwise.verdict(item))
            continue
        width = noisy.get(id(left))
        kind = DROPOUT if width == left.view.units else STUCK
        runs = ((noise_of(bench.model), width),) if width is not None else ()
        result.verdicts.append(Verdict(item, kind, left, trial.steps, runs=runs))
    if any(item.kind == STUCK for item in result.verdicts) and (rough := own()) is not None:
        result.verdicts = rounding(rough, bench, result.verdicts, steps, most)
    result.verdicts = healed(bench, result.verdicts, trial.steps, tolerance, head)
    return result


def _one_row(view: UnitView, bench: Bench, trial: Trial, tolerance: float) -> Twins | None:
    """All the rows of a table, where they start equal: of some of them the data may be why (equal padding, say)."""
    if not _learns(view, trial):
        return None
    twins = twins_of(view, bench.start, tolerance)
    return twins if twins is not None and twins.width == 1 else None


def _learns(view: UnitView, trial: Trial) -> bool:
    return all(name in trial.before for name in view.weights)


def _beyond_labels(
    bench: Bench, groups: Sequence[Twins], rest: dict[int, Twins | None], steps: int, tolerance: float
) -> dict[int, Twins | None]:
    """Keep what other targets do not part either: classes absent from the batch are no symmetry."""
    drawn = _drawn_anew(bench)
    other = bench.run(steps, batches=drawn) if drawn else bench.run(steps, RandomTargets(bench.seed + 1))
    return {
        id(item): meet(left, still_together(left, other, tolerance)) if (left := rest[id(item)]) is not None else None
        for item in groups
    }


def _drawn_anew(bench: Bench) -> list[Batch]:
    """The batches with numbers in their range as targets, for a loss of the user's own; empty where that says nothing.

    What his loss makes of several outputs (a mixture, a mean over heads) may be one number however the targets are, so
    targets at every single output would be another loss than his. Class ids stay out: those absent are not in range.
    """
    if bench.objective is None or bench.objective.how != USERS:
        return []
    batches = []
    for index, batch in enumerate(bench.batches):
        aims = batch.targets
        if not isinstance(aims, Tensor) or not aims.is_floating_point() or not bool(torch.isfinite(aims).all()):
            return []
        source = torch.Generator().manual_seed(bench.seed + index)
        share = torch.rand(aims.shape, generator=source, dtype=torch.float64).to(aims.device, aims.dtype)
        batches.append(replace(batch, targets=aims.min() + share * (aims.max() - aims.min())))
    return batches
