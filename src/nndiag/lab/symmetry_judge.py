"""Do identical units come apart, and what tells them apart? Established by running it, and by running it otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.lab.bench_parts import RandomTargets, alike
from nndiag.lab.forward import call
from nndiag.lab.symmetry import (
    Mirror,
    Twins,
    gap,
    meet,
    mirrors_of,
    pulled_units,
    still_mirrored,
    still_together,
    twins_of,
)
from nndiag.lab.symmetry_dead import redraw
from nndiag.lab.symmetry_verdict import (
    DEAD,
    DROPOUT,
    HEAD,
    LABELS,
    OUTGOING,
    PATIENT,
    POSITION,
    ROUNDING,
    STUCK,
    Verdict,
)
from nndiag.lab.units import unit_views
from nndiag.lab.units_use import uses_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from nndiag.lab.bench import Bench, Trial
    from nndiag.lab.units import UnitView

FIRST_STEPS = 5
MOST_STEPS = 25  # a chain of zero factors wakes one per step
NOISE_STEPS = 10  # with a constant head the first step under dropout has no hidden gradient at all
ROUNDING_STEPS = 100
ROUNDING_GAP = 1e-3  # of the displacement, in the model's own precision
ROUNDING_RATIO = 10.0  # by which the gap shrinks in float64 when only rounding drives it


@dataclass(slots=True)
class Judgement:
    """Everything the dynamic runs said."""

    trial: Trial
    views: list[UnitView]
    verdicts: list[Verdict] = field(default_factory=list)
    mirrors: list[Mirror] = field(default_factory=list)
    loosened: list[Mirror] = field(default_factory=list)  # mirrored at the start, not locked
    unfinished: tuple[str, ...] = ()


def first_steps(bench: Bench, loss: Callable[..., Tensor] | None = None) -> Trial:
    """Train until no further parameter wakes up: at least five steps, one more per zero factor in series."""

    def settled(trial: Trial) -> bool:
        last = trial.steps - 1
        fresh = any(trial.first_arrival(name) in {last, last - 1} for name in trial.arrival)
        return trial.steps >= FIRST_STEPS and not (fresh and last > 1)

    return bench.run(MOST_STEPS, loss, until=settled)


def views_of(bench: Bench, pattern: Callable[[str], bool] = lambda _name: True) -> list[UnitView]:
    """Every layer's units, bare parameters turned as one forward uses them."""
    bench.restore()
    try:
        uses = uses_of(bench.model, lambda: call(bench.model.eval(), bench.batches[0].inputs))
    except (NndiagError, RuntimeError):
        uses = {}
    finally:
        bench.restore()
    return [view for view in unit_views(bench.model, uses) if pattern(view.module)]


def judge(  # noqa: PLR0913 - an experiment has these knobs, all by name
    bench: Bench,
    views: Sequence[UnitView],
    *,
    tolerance: float,
    own: Callable[[], Bench] | None = None,
    steps: int = ROUNDING_STEPS,
    time_left: Callable[[], bool] = lambda: True,
    head: Sequence[str] = (),
) -> Judgement:
    """Run the first steps, and for what stays together the runs that say why.

    Args:
        bench: The private copy, float64 where possible.
        views: The layers.
        tolerance: Relative distance of displacements below which two units are one.
        own: Makes a copy in the model's own precision, where a long run was asked for.
        steps: Length of the long run.
        time_left: Whether the budget allows another experiment.
        head: Parameters of the output layer.
    """
    trial = first_steps(bench)
    result = Judgement(trial, list(views))
    groups = [found for view in views if _learns(view, trial) and (found := twins_of(view, bench.start, tolerance))]
    pairs = (mirrors_of(view, bench.start) for view in views if _learns(view, trial))
    for mirror in (item for item in pairs if item is not None):
        locked = still_mirrored(mirror, trial, tolerance)
        (result.mirrors if locked else result.loosened).append(locked or mirror)
    if not groups:
        return result
    rest = {id(item): still_together(item, trial, tolerance) for item in groups}
    if any(rest.values()) and bench.objective is not None and time_left():
        rest = _beyond_labels(bench, groups, rest, trial.steps, tolerance)
    stuck = [item for item in groups if rest[id(item)] is not None]
    noisy = _apart_under_noise(bench, stuck, rest, tolerance) if stuck and time_left() else set()
    otherwise = _Counterfactuals(bench, trial.steps, tuple(head))
    for item in groups:
        left = rest[id(item)]
        if left is None:
            result.verdicts.append(
                Verdict(item, _breaker(otherwise, item, trial, tolerance, time_left), None, trial.steps)
            )
        else:
            kind = DROPOUT if id(item) in noisy else STUCK
            result.verdicts.append(Verdict(item, kind, left, trial.steps))
    if own is not None and any(item.kind == STUCK for item in result.verdicts) and time_left():
        result.verdicts = _rounding(bench, own, result.verdicts, steps)
    if time_left():
        result.verdicts = _healed(bench, result.verdicts, trial.steps, tolerance, head)
    return result


def _learns(view: UnitView, trial: Trial) -> bool:
    return all(name in trial.before for name in view.weights)


def _beyond_labels(
    bench: Bench, groups: Sequence[Twins], rest: dict[int, Twins | None], steps: int, tolerance: float
) -> dict[int, Twins | None]:
    """Keep what random targets at every output do not part either: classes absent from the batch are no symmetry."""
    other = bench.run(steps, RandomTargets(bench.seed + 1))
    return {
        id(item): meet(left, still_together(left, other, tolerance)) if (left := rest[id(item)]) is not None else None
        for item in groups
    }


def _apart_under_noise(
    bench: Bench, stuck: Sequence[Twins], rest: dict[int, Twins | None], tolerance: float
) -> set[int]:
    """Which of the stuck layers come apart when the training noise (dropout) is on."""
    try:
        trial = bench.run(NOISE_STEPS, dropout=True)
    except NndiagError:
        return set()  # training mode wants other inputs
    if not trial.finite:
        return set()
    apart = set()
    for item in stuck:
        left = rest[id(item)]
        if left is None:
            continue
        noisy = still_together(left, trial, tolerance)
        if noisy is None and any(name in trial.pull for name in left.view.weights):
            apart.add(id(item))
    return apart


@dataclass(slots=True)
class _Counterfactuals:
    """The runs that take one breaker away, each made once for all layers and only when asked for."""

    bench: Bench
    steps: int
    head: tuple[str, ...]
    _without_labels: Trial | None = None
    _flat_head: Trial | None = None

    def without_labels(self) -> Trial:
        """Every output is asked for the same."""
        if self._without_labels is None:
            self._without_labels = self.bench.run(self.steps, alike)
        return self._without_labels

    def flat_head(self) -> Trial:
        """The output layer treats all its inputs alike."""
        if self._flat_head is None:
            self._flat_head = self.bench.run(self.steps, alter=lambda model: _flatten(model, self.head))
        return self._flat_head


def _breaker(runs: _Counterfactuals, item: Twins, trial: Trial, tolerance: float, time_left: Callable[[], bool]) -> str:
    """What told the units apart: found by taking it away."""
    if still_together(Twins(item.view, item.groups), trial, tolerance) is None and not _pulled(item, trial):
        return DEAD
    if not time_left():
        return OUTGOING
    if still_together(item, runs.without_labels(), tolerance) is not None:
        return LABELS
    if (
        runs.head
        and not set(runs.head) & set(item.view.weights)
        and still_together(item, runs.flat_head(), tolerance) is not None
    ):
        return HEAD
    across = item.view.classes is not None or item.view.kind in {"attention", "embedding"}
    return POSITION if across else OUTGOING


def _pulled(item: Twins, trial: Trial) -> bool:
    pulled = pulled_units(item.view, trial)
    return any(bool(pulled[group].any()) for group in item.groups)


def _flatten(model: nn.Module, names: Sequence[str]) -> None:
    """Make an output layer treat all its inputs alike."""
    table = dict(model.named_parameters())
    for name in names:
        item = table[name]
        item.fill_(float(item.abs().mean()) if item.dim() >= 2 else 0.0)


def _rounding(bench: Bench, own: Callable[[], Bench], verdicts: Sequence[Verdict], steps: int) -> list[Verdict]:
    """Train on in the model's own precision and in float64: what only rounding drives apart moves with it."""
    rough = own()
    watched = [item for item in verdicts if item.kind == STUCK]
    coarse, fine = _gaps(rough, watched, steps), _gaps(bench, watched, steps)
    result = []
    for item in verdicts:
        if item.kind != STUCK:
            result.append(item)
            continue
        rows = coarse[id(item)]
        step = next((step for step, value in enumerate(rows) if value > ROUNDING_GAP), None)
        exact = fine[id(item)]
        small = exact[step] if step is not None and step < len(exact) else 0.0
        kind = ROUNDING if step is not None and rows[step] > ROUNDING_RATIO * small else STUCK
        last = (rows[step], small) if step is not None else (max(rows, default=0.0), max(exact, default=0.0))
        result.append(
            replace(
                item,
                kind=kind,
                gaps=last,
                gap_step=step or len(rows) - 1,
                dtype=str(rough.dtype).removeprefix("torch."),
            )
        )
    return result


def _gaps(bench: Bench, watched: Sequence[Verdict], steps: int) -> dict[int, list[float]]:
    """Largest gap inside each layer's groups, step by step."""
    before: dict[str, Tensor] = {}
    seen: dict[int, list[float]] = {id(item): [] for item in watched}

    def look(step: int, table: dict[str, nn.Parameter]) -> None:
        if step == 0:
            before.update({name: item.detach().clone() for name, item in table.items()})
        for item in watched:
            group = item.rest or item.twins
            seen[id(item)].append(gap(group, before, table) if step else 0.0)

    bench.run(steps, on_step=look)
    return seen


def _healed(
    bench: Bench, verdicts: Sequence[Verdict], steps: int, tolerance: float, head: Sequence[str]
) -> list[Verdict]:
    """Draw the stuck layers anew and run the same steps; try a random output layer alone as well."""
    sick = [item for item in verdicts if item.kind in PATIENT]
    if not sick:
        return list(verdicts)
    names = [name for item in sick for name in item.view.weights]
    cured = bench.run(steps, alter=lambda model: redraw(model, names, bench.seed))
    other = bench.run(steps, alter=lambda model: redraw(model, head, bench.seed)) if head else None
    result = []
    for item in verdicts:
        if item.kind not in PATIENT:
            result.append(item)
            continue
        fresh = twins_of(item.view, cured.before, tolerance)
        left = still_together(fresh, cured, tolerance) if fresh else None
        healed = left.width if left is not None else item.view.units
        helps: tuple[str, ...] = ()
        if other is not None and item.rest is not None and still_together(item.rest, other, tolerance) is None:
            helps = ("a random output layer",)
        result.append(replace(item, healed=healed, helps=helps))
    return result
