"""The runs that say why: labels taken away or permuted, the output layer flattened or drawn anew, dropout on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.bench import OutOfTimeError
from nndiag.lab.bench_parts import RandomTargets, alike
from nndiag.lab.fed import NAMES
from nndiag.lab.symmetry.dead import redraw
from nndiag.lab.symmetry.groups import Twins, pulled_units, still_together, twins_of
from nndiag.lab.symmetry.verdict import (
    DEAD,
    HEAD,
    LABELS,
    OUTGOING,
    PATIENT,
    POSITION,
    UNASKED,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.lab.bench import Bench, Trial

NOISE_STEPS = 10  # with a constant head the first step under dropout has no hidden gradient at all


@dataclass(slots=True)
class Counterfactuals:
    """The runs that take one breaker away, each made once for all layers and only when asked for."""

    bench: Bench
    trial: Trial  # the run as it is
    tolerance: float
    head: tuple[str, ...]
    _without_labels: Trial | None = None
    _permuted: Trial | None = None
    _flat_head: Trial | None = None

    def verdict(self, item: Twins) -> Verdict:
        """What told a layer's units apart, found by taking it away."""
        steps = self.trial.steps
        if not self._pulled(item):
            return Verdict(item, DEAD, None, steps)
        try:
            kind, runs = self._breaker(item)
        except OutOfTimeError:
            return Verdict(item, UNASKED, None, steps)
        return Verdict(item, kind, None, steps, runs=runs)

    def _breaker(self, item: Twins) -> tuple[str, tuple[tuple[str, int], ...]]:
        if self._without_labels is None:
            self._without_labels = self.bench.run(self.trial.steps, alike)
        width, together = self._width(item, self._without_labels)
        runs = [("every output asked for the same", width)]
        if together:
            runs.append((self._what_permuted(), self._width(item, self._with_permuted_labels())[0]))
            return LABELS, tuple(runs)
        if self.head and not set(self.head) & set(item.view.weights):
            if self._flat_head is None:
                self._flat_head = self.bench.run(self.trial.steps, alter=lambda model: _flatten(model, self.head))
            width, together = self._width(item, self._flat_head)
            runs.append(("output layer constant", width))
            if together:
                return HEAD, tuple(runs)
        across = item.view.classes is not None or item.view.kind in {"attention", "embedding"}
        return POSITION if across else OUTGOING, tuple(runs)

    def _width(self, item: Twins, trial: Trial) -> tuple[int, bool]:
        """Distinct units after a run, and whether any are still together."""
        left = still_together(item, trial, self.tolerance)
        return (item.view.units if left is None else left.width), left is not None

    def _with_permuted_labels(self) -> Trial:
        """The user's labels dealt out to other rows; where there are none, other random targets."""
        if self._permuted is None:
            if self.bench.objective is None:
                self._permuted = self.bench.run(self.trial.steps, RandomTargets(self.bench.seed + 1))
            else:
                dealt = [_dealt(batch, self.bench.seed + index) for index, batch in enumerate(self.bench.batches)]
                self._permuted = self.bench.run(self.trial.steps, batches=dealt)
        return self._permuted

    def _what_permuted(self) -> str:
        return "labels permuted" if self.bench.objective is not None else "other random targets (no labels given)"

    def _pulled(self, item: Twins) -> bool:
        pulled = pulled_units(item.view, self.trial)
        return any(bool(pulled[group].any()) for group in item.groups)


def _dealt(batch: Batch, seed: int) -> Batch:
    """The batch with its targets dealt out to other rows, also those that a model takes as an input."""
    source = torch.Generator().manual_seed(seed)

    def deal(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.dim() == 0:
            return item
        return item[torch.randperm(item.shape[0], generator=source).to(item.device)]

    inputs = batch.inputs
    if isinstance(inputs, Mapping):
        inputs = {key: deal(value) if key in NAMES else value for key, value in inputs.items()}
    return Batch(inputs, deal(batch.targets), batch.whole)


def _flatten(model: nn.Module, names: Sequence[str]) -> None:
    """Make an output layer treat all its inputs alike."""
    table = dict(model.named_parameters())
    for name in names:
        item = table[name]
        item.fill_(float(item.abs().mean()) if item.dim() >= 2 else 0.0)


def noise_of(model: nn.Module) -> str:
    """What tells units apart in training mode: a dropout layer where there is one."""
    drops = any(getattr(item, "p", 0) and "drop" in type(item).__name__.lower() for item in model.modules())
    between = any(isinstance(item, nn.RNNBase) and item.dropout for item in model.modules())
    return "dropout on" if drops or between else "in training mode"


def under_noise(bench: Bench, stuck: Sequence[Twins], tolerance: float) -> dict[int, int]:
    """Distinct units, by layer, of what is left together after steps with the training noise (dropout) on.

    Layers that came apart have as many as units. Empty where training mode cannot be run.
    """
    try:
        trial = bench.run(NOISE_STEPS, dropout=True)
    except NndiagError:
        return {}  # training mode wants other inputs
    if not trial.finite:
        return {}
    widths = {}
    for item in stuck:
        noisy = still_together(item, trial, tolerance)
        if noisy is not None:
            widths[id(item)] = noisy.width
        elif any(name in trial.pull for name in item.view.weights):
            widths[id(item)] = item.view.units
    return widths


def healed(
    bench: Bench, verdicts: Sequence[Verdict], steps: int, tolerance: float, head: Sequence[str]
) -> list[Verdict]:
    """Draw the stuck layers anew and run the same steps; try a random output layer alone as well."""
    sick = [item for item in verdicts if item.kind in PATIENT]
    if not sick:
        return list(verdicts)
    names = [name for item in sick for name in item.view.weights]
    try:
        cured = bench.run(steps, alter=lambda model: redraw(model, names, bench.seed))
        other = bench.run(steps, alter=lambda model: redraw(model, head, bench.seed)) if head else None
    except OutOfTimeError:
        return list(verdicts)
    result = []
    for item in verdicts:
        if item.kind not in PATIENT or item.rest is None:
            result.append(item)
            continue
        fresh = twins_of(item.view, {**bench.start, **cured.before}, tolerance)  # a bias may be frozen
        left = still_together(fresh, cured, tolerance) if fresh else None
        width = left.width if left is not None else item.view.units
        helps: tuple[str, ...] = ()
        runs = item.runs
        if other is not None:
            kept = still_together(item.rest, other, tolerance)
            helps = ("a random output layer",) if kept is None else ()
            runs = (*runs, ("output layer drawn anew", item.view.units if kept is None else kept.width))
        result.append(replace(item, healed=width, helps=helps, runs=runs))
    return result
