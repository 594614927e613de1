"""Are the inputs on the scale that model and learning rate assume, in training as in serving?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from nndiag.checks.normalization.alone import MAX_SCALE, examine_scale, examine_values
from nndiag.checks.normalization.bench import prepare, seen_by_first
from nndiag.checks.normalization.checkpoint import examine_weights
from nndiag.checks.normalization.cure import brief_cure, cure_for
from nndiag.checks.normalization.experiment import examine_training
from nndiag.checks.normalization.fed import examine_fed, holds_normaliser
from nndiag.checks.normalization.initial import UNCURED, distance_at_start, loss_has_no_scale
from nndiag.checks.normalization.inside import examine_inside
from nndiag.checks.normalization.precision import examine_precision, overflowing_forward
from nndiag.checks.normalization.served_targets import examine_served_targets
from nndiag.checks.normalization.serving import PAIR_CODES, examine_pair
from nndiag.checks.normalization.stale import examine_batchnorm
from nndiag.checks.normalization.summary import answer, facts, input_numbers, normalised_twice
from nndiag.checks.normalization.targets import examine_targets
from nndiag.checks.normalization.view import View, ids_reason
from nndiag.core.errors import NothingApplicableError
from nndiag.core.findings import Answer, Fact, Finding, Measurement, Severity, Skip, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.core.findings import Observation
    from nndiag.core.subject import DataSource, Subject
    from nndiag.lab.scale import Seen
    from nndiag.science.moments_profile import Profile

SCALE_CODES = ("NRM001", "NRM002", "NRM003")
MODEL_CODES = ("NRM101", "NRM102", "NRM103", "NRM104", "NRM105", "NRM201")


@dataclass(frozen=True)
class CheckNormalization:
    """The axis that holds features, and the length of the experiments; thresholds stand beside their rules."""

    name: ClassVar[str] = "check-normalization"
    feature_axis: int | None = None
    steps: int = 60  # of micro-training

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Data alone, then serving, then the model."""
        if subject.data is None:
            raise NothingApplicableError("no data to look at", hint="nndiag check-normalization train.npy")
        yield Step("reading the inputs")
        bench = prepare(subject) if subject.model is not None else None
        seen = self._look(subject, subject.data, _axis(bench, self.feature_axis))
        yield from facts(seen)
        if left := getattr(getattr(subject.data, "inputs", None), "left_out", ()):
            yield Fact("left_out", ", ".join(left), f"columns left out (no numbers): {', '.join(left)}")
        ids = ids_reason(seen)
        if bench is not None and bench.first is not None and bench.first.kind == "embedding":
            ids = ids or f"'{bench.first.name}' looks them up"
        view = View(seen.inputs, columns=tuple(getattr(subject.data, "columns", ())))
        told = Told(subject, (view.profile, *((seen_by_first(bench, view).profile,) if bench is not None else ())))
        yield from told.through(self._all(subject, seen, view, bench, ids))
        if bench is not None:
            yield from told.through(self._with_model(bench, seen, view, told.alarms))
            if holds_normaliser(bench):  # behind which the weights' scale, and so this bound, means nothing
                told.numbers.pop("learning_rate_ceiling", None)
        yield from told.held_back()
        yield from input_numbers(seen, view, ids)
        yield Answer(answer(seen, told.findings, told.numbers, ids))

    def _all(self, subject: Subject, seen: Seen, view: View, bench: Bench | None, ids: str) -> Iterator[Observation]:
        """What the numbers say by themselves, and against serving."""
        yield from examine_values(seen, view)
        if ids:
            yield from (Skip(code, f"the inputs are ids: {ids}") for code in (*SCALE_CODES, "NRM013"))
        else:
            if subject.data is not None and subject.data.synthetic:
                yield from (Skip(code, "the inputs are invented") for code in SCALE_CODES)
            else:
                yield from _scale(bench, view)
                yield from examine_inside(bench) if bench else ()
            yield from examine_precision(seen.inputs, bench.dtype if bench else "")
        yield from normalised_twice(seen, view, ids)
        outputs = (bench.classes or bench.outputs) if bench else None
        loss = bench.objective.name if bench is not None and bench.objective is not None else None
        regression = None if loss is None else loss in {"mse", "l1", "smooth_l1", "huber"}
        asked = subject.training.loss not in {None, "auto"}
        away = distance_at_start(bench) if bench is not None else None
        yield from examine_targets(
            seen.targets,
            outputs=outputs,
            regression=regression,
            asked=asked,
            away=away,
            scaleless=lambda: bench is not None and loss_has_no_scale(bench),
        )
        yield from self._serving(subject, seen, view, ids, regression=regression)
        if bench is None:
            why = "weights without a model: name its factory and give --weights" if subject.weights else "no model"
            yield from (Skip(code, why) for code in MODEL_CODES if code != "NRM104" or subject.weights is None)
        if subject.weights is not None:
            yield from examine_weights(subject, view, subject.weights)

    def _with_model(self, bench: Bench, seen: Seen, view: View, alarms: dict[str, Finding]) -> Iterator[Observation]:
        """What needs the model."""
        first = bench.first
        if first is not None and first.normaliser:
            yield Fact("begins_with", first.normaliser, f"begins with {first.normaliser}: scale-free in training")
        yield Step("measuring the start")
        if "NRM005" in alarms:
            yield from (Skip(code, "the inputs are not finite") for code in MODEL_CODES)
            return
        run = bench.subject.run
        yield from overflowing_forward(bench)
        if run.wants("NRM102", "NRM103", "NRM104"):
            yield from examine_batchnorm(bench, seen, view)
        if run.wants("NRM101", "NRM105"):
            yield from examine_fed(bench, view, sane=not alarms.keys() & set(SCALE_CODES))
        yield from examine_training(bench, seen, view, alarms, bench.subject.training.steps or self.steps)

    def _serving(
        self, subject: Subject, seen: Seen, view: View, ids: str, *, regression: bool | None
    ) -> Iterator[Observation]:
        if subject.serve is None:
            yield from (Skip(code, "no serving data (--serve)") for code in PAIR_CODES if code != "NRM008")
            return
        yield Step("comparing with serving")
        served = self._look(subject, subject.serve, seen.inputs.layout.axis if len(seen.inputs.shape) < 3 else None)
        if ids:
            yield from (Skip(code, f"the inputs are ids: {ids}") for code in PAIR_CODES)
        else:
            yield from examine_pair(seen, served, view)
        yield from examine_served_targets(seen, served, regression=regression)

    def _look(self, subject: Subject, source: DataSource, axis: int | None) -> Seen:
        from nndiag.lab.scale import look

        return look(source, axis, seconds=lambda: subject.run.seconds_left)


class Told:
    """What has been said so far. Findings about scale wait until training has shown what the scale does."""

    def __init__(self, subject: Subject, profiles: tuple[Profile, ...]) -> None:
        """Begin with nothing said; the cures of these profiles need saying once."""
        self._run = subject.run
        self._cures = {cure_for(one): brief_cure(one) for one in profiles}
        self._said: dict[str, str] = {}  # cure -> code that spelled it out
        self.findings: list[Finding] = []
        self.numbers: dict[str, float] = {}
        self._waiting: list[Finding] = []
        self._harmless = False

    @property
    def alarms(self) -> dict[str, Finding]:
        """The findings so far by their code, those that wait included."""
        return {item.rule.code: item for item in (*self.findings, *self._waiting)}

    def through(self, observations: Iterator[Observation]) -> Iterator[Observation]:
        """Pass on all but the findings that wait."""
        for item in observations:
            if isinstance(item, Finding) and item.rule.code in (*SCALE_CODES, "NRM105"):
                self._waiting.append(item)
                continue
            if isinstance(item, Finding):
                item = self._once(item)  # noqa: PLW2901 - the same finding, with a shorter fix
                self.findings.append(item)
            elif isinstance(item, Measurement):
                self.numbers.setdefault(item.name, item.value)
            elif isinstance(item, Fact) and (item.key, item.value) == ("normalising", "no difference"):
                self._harmless = True
            yield item

    def _once(self, item: Finding) -> Finding:
        """The finding; a cure that another one has spelled out is only named."""
        for cure, brief in self._cures.items():
            if cure not in item.fix:
                continue
            if cure in self._said:
                return replace(
                    item, fix=item.fix.replace(cure, f"{brief} (constants and code under {self._said[cure]})")
                )
            if self._run.wants(item.rule.code):
                self._said[cure] = item.rule.code
        return item

    def held_back(self) -> Iterator[Finding]:
        """Yield what waited; as a note where a short training was no worse for it, or has a finding of its own.

        One cause has one headline: where NRM201 measured what the scale does to training, the rules that only saw the
        scale, or the loss that it starts with, stand below it. NRM003 names a place and keeps its own voice.
        """
        inside = any(item.rule.code == "NRM008" and "already" in item.message for item in self.findings)
        headline = next(
            (item for item in self.findings if item.rule.code == "NRM201" and item.severity > Severity.NOTE), None
        )
        foreign = any(item.rule.code == "NRM104" for item in self.findings)
        for item in self._waiting:
            if inside and item.rule.code in SCALE_CODES:
                continue  # what the first layer reads is small or off because it is prepared twice
            said = self._once(item)
            if self._harmless and UNCURED not in item.message:
                said = _noted(said, "a short training of this model was no worse for it")
            elif foreign and item.rule.code in SCALE_CODES:
                said = _noted(said, "which scale the checkpoint was trained on is told under NRM104")
            elif headline is not None and item.rule.code != "NRM003" and UNCURED not in item.message:
                said = _noted(said, "what that does to training is measured under NRM201")
            self.findings.append(said)
            yield said


def _noted(item: Finding, why: str) -> Finding:
    return replace(item, severity=Severity.NOTE, means=f"{item.means}; {why}")


def _scale(bench: Bench | None, view: View) -> list[Observation]:
    """The scale of what the first layer reads; of the data, where only these tell which columns make it large.

    A tokenizer of numbers spreads every column over all features that the first layer reads: they are large alike,
    and the columns that made them so are seen in the data alone.
    """
    if bench is None:
        return list(examine_scale(view))
    read = seen_by_first(bench, view)
    told = list(examine_scale(read))
    if read is view or bench.first is None or bench.first.normaliser or _codes(told) != {"NRM001"}:
        return told
    if not (read.profile.moments.rms > MAX_SCALE).any():
        return told  # small
    fed = list(examine_scale(view))
    return fed if "NRM003" in _codes(fed) else told


def _codes(told: list[Observation]) -> set[str]:
    return {item.rule.code for item in told if isinstance(item, Finding)}


def _axis(bench: Bench | None, given: int | None) -> int | None:
    """The feature axis: the user's word, else what the first layer of the model reads as channels."""
    if given is not None or bench is None or bench.first is None or not bench.first.raw:
        return given
    from nndiag.lab.forward import as_tensors, main_input

    main = main_input(as_tensors(bench.batch.inputs))
    same = main is not None and main.dim() == bench.first.values.dim() and main.dim() >= 3
    return bench.first.axis if same else None


__all__ = ["CheckNormalization"]
