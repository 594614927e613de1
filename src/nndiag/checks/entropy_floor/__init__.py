"""How low can this loss go on these labels, and can the dtype still show the rest of the way?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from nndiag.checks.entropy_floor.layout import ROWS, as_source
from nndiag.core.errors import NothingApplicableError, UsageError
from nndiag.core.findings import Answer, Fact, Judged, Severity, Skip, Where

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from nndiag.checks.entropy_floor.layout import Source
    from nndiag.checks.entropy_floor.levels import Levels
    from nndiag.checks.entropy_floor.measure import Measured, Recipe
    from nndiag.checks.entropy_floor.predictions import Origin
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject

LOSSES = ("auto", "cross_entropy", "bce", "kl")
ABOUT_A_LOSS = ("ENT002", "ENT003", "ENT004", "ENT005", "ENT006")


@dataclass(frozen=True)
class EntropyFloor:
    """Floor, class prior and ln C of labels, and where predictions or a loss curve stand between them."""

    classes: int | None = None
    label_smoothing: float = 0.0
    smoothing_style: str = "torch"  # torch: epsilon/C on every class; fairseq: epsilon/(C-1) on the wrong ones
    temperature: float = 1.0
    alpha: float = 0.5  # with a teacher: alpha CE(labels) + (1 - alpha) T² KL(teacher || student)
    ignore_index: int = -100
    units: str = "nats"  # of the curve
    tail: str = "10%"

    name: ClassVar[str] = "entropy-floor"

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Yield levels, findings and the answer."""
        from nndiag.checks.entropy_floor.report import facts, levels_seen

        recipe = self._recipe(subject)
        material = dict(subject.inputs)
        if subject.model is not None:
            from nndiag.checks.entropy_floor.model import outputs_of

            material.update((yield from outputs_of(subject, material)))
        labels = as_source(material["labels"], "labels") if material.get("labels") is not None else None
        if labels is not None and material.get("teacher") is not None:
            from nndiag.checks.entropy_floor.distilled import Paired

            labels = Paired(labels, as_source(material["teacher"], "teacher"))
        given = "logits" if material.get("logits") is not None else "predictions"
        predictions = as_source(material[given], given) if material.get(given) is not None else None
        curve = material.get("curve")
        if labels is None:
            yield from self._without_labels(recipe, predictions, curve)
            return
        measured, levels = yield from self._labels(labels, predictions, given, recipe)
        if levels is None:
            return
        seen = material["model"] if subject.model is not None else None
        yield from facts(measured, levels, labels)
        yield from levels_seen(measured, levels)
        yield from self._weights(measured)
        levels = yield from self._contradictions(subject, material, labels, measured, levels)
        yield from self._losses(measured, levels, predictions, curve, seen and seen.origin)
        yield from self._training(subject, material, measured)

    def _recipe(self, subject: Subject) -> Recipe:
        """Check the options against each other."""
        from nndiag.checks.entropy_floor.measure import Recipe

        loss = subject.training.loss
        weights = subject.inputs.get("class_weights")
        if not isinstance(loss, str) or ":" in loss:
            name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
            raise NothingApplicableError(
                f"what the loss '{name}' can reach is not known", hint="--loss cross_entropy, bce or kl, if it is one"
            )
        if loss not in LOSSES:
            raise UsageError(
                f"there is no entropy floor under the loss '{loss}'", hint=f"--loss is one of {', '.join(LOSSES)}"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UsageError(f"--label-smoothing {self.label_smoothing} is not in [0, 1)", hint="0.1 is usual")
        if self.smoothing_style not in ("torch", "fairseq"):
            raise UsageError(f"--smoothing-style {self.smoothing_style} is unknown", hint="torch or fairseq")
        if self.units not in ("nats", "bits"):
            raise UsageError(f"--units {self.units} is unknown", hint="nats or bits")
        if not self.temperature > 0.0 or not math.isfinite(self.temperature):
            raise UsageError(
                f"--temperature {self.temperature} is not positive", hint="1 leaves the labels as they are"
            )
        if not 0.0 <= self.alpha < 1.0:
            raise UsageError(
                f"--alpha {self.alpha} is not in [0, 1)", hint="the weight of the labels beside the teacher"
            )
        if self.classes is not None and self.classes < 2:
            raise UsageError(f"--classes {self.classes} leaves nothing to learn", hint="at least 2")
        return Recipe(
            loss, self.classes, self.label_smoothing, self.smoothing_style, self.temperature, self.ignore_index,
            None if weights is None else tuple(float(weight) for weight in weights), self.alpha,
        )  # fmt: skip

    def _without_labels(self, recipe: Recipe, predictions: Source | None, curve: Any) -> Iterator[Observation]:
        """A curve and a number of classes: certain labels are assumed, and said to be."""
        from nndiag.checks.entropy_floor.curve import judge_curve
        from nndiag.checks.entropy_floor.levels import levels_of_classes, structures_of
        from nndiag.checks.entropy_floor.standing import standing_of

        if predictions is not None or recipe.classes is None or recipe.loss == "bce":
            raise UsageError("missing LABELS", hint="nndiag entropy-floor labels.npy, or --classes C for hard labels")
        levels = levels_of_classes(recipe.classes, recipe)
        smoothing = f", label smoothing {recipe.epsilon:g}" if recipe.epsilon else ""
        yield Fact("labels", "none", f"no labels: {recipe.classes} certain classes assumed{smoothing}")
        yield Fact("classes", recipe.classes, "")
        for code in ("ENT001", "ENT007", "ENT008", "ENT201"):
            yield Skip(code, "needs labels")
        if curve is None:
            yield from (Skip(code, "needs predictions or a curve") for code in (*ABOUT_A_LOSS, "ENT009"))
            yield Answer(f"with {recipe.classes} certain classes{smoothing} the floor is {levels.floor:.6g} nats")
            return
        at = standing_of(curve, self.units, self.tail)
        yield from judge_curve(at, levels, structures_of(None, levels, recipe), 1, labelled=False)

    def _labels(self, labels: Source, predictions: Source | None, given: str, recipe: Recipe) -> Any:
        """Read everything once; say which rows are no labels. Returns what was measured and the levels."""
        from nndiag.checks.entropy_floor.invalid import invalid_labels
        from nndiag.checks.entropy_floor.levels import levels_of
        from nndiag.checks.entropy_floor.measure import measure

        measured = measure(labels, predictions, given, recipe)
        yield Judged("ENT001")
        broken = list(invalid_labels(measured, labels.name))
        yield from broken
        levels = levels_of(measured)
        grave = next((item for item in broken if item.severity >= Severity.WARNING), None)
        if grave is not None and levels is not None:
            yield Answer(f"{grave.message}; what follows is computed from the usable rows as they stand")
        if levels is None:
            yield Fact("labels", labels.name, labels.name)
            ignored = measured.ids.ignored if measured.ids else 0
            why = f"all {ignored} labels are ignored" if ignored and not broken else "no label row is usable"
            yield from (Skip(f"ENT{code:03d}", why) for code in (*range(2, 10), 201))
            yield Answer(f"{why}: there is no floor")
        return measured, levels

    def _weights(self, measured: Measured) -> Iterator[Observation]:
        from nndiag.checks.entropy_floor.weights import weighted_optimum

        if measured.recipe.weights is None:
            yield Skip("ENT007", "no class weights are given")
            return
        yield Judged("ENT007")
        yield from weighted_optimum(measured)

    def _contradictions(
        self, subject: Subject, material: dict[str, Any], labels: Source, measured: Measured, levels: Levels
    ) -> Generator[Observation, None, Levels]:
        """ENT008; returns the levels with the floor that equal inputs leave."""
        from nndiag.checks.entropy_floor.contradictions import why_not
        from nndiag.checks.entropy_floor.report import contradictory

        if material.get("x") is None:
            yield Skip("ENT008", "needs the inputs: an npz with x and y")
            return levels
        if not subject.run.wants("ENT008"):
            return levels
        x = as_source(material["x"], "x")
        reason = why_not(x, labels, measured)
        if reason:
            yield Skip("ENT008", reason)
            return levels
        yield Judged("ENT008")
        rise = yield from contradictory(x, labels, measured, levels)
        return replace(levels, rise=rise)

    def _losses(
        self,
        measured: Measured,
        levels: Levels,
        predictions: Source | None,
        curve: Any,
        origin: Origin | None,
    ) -> Iterator[Observation]:
        from nndiag.checks.entropy_floor.curve import judge_curve
        from nndiag.checks.entropy_floor.levels import structures_of
        from nndiag.checks.entropy_floor.predictions import Origin, judge_predictions, loss_dtype
        from nndiag.checks.entropy_floor.report import headline, losses_seen
        from nndiag.checks.entropy_floor.standing import standing_of

        judged = predictions is not None or curve is not None
        structures = structures_of(measured, levels, measured.recipe) if judged else {}
        if predictions is not None:
            dtype = loss_dtype(predictions.dtype, predictions.decimals)
            yield from losses_seen(measured, levels)
            origin = origin or Origin(Where(file=predictions.name))
            yield from judge_predictions(measured, levels, structures, dtype, origin)
        if curve is not None:
            tokens = measured.layout.columns if measured.layout.kind != ROWS else 1
            at = standing_of(curve, self.units, self.tail)
            yield from judge_curve(at, levels, structures, tokens, labelled=True)
        else:
            yield Skip("ENT009", "needs a curve")
        if not judged:
            yield from (Skip(code, "needs predictions or a curve") for code in ABOUT_A_LOSS)
            yield headline(measured, levels)

    def _training(self, subject: Subject, material: dict[str, Any], measured: Measured) -> Iterator[Observation]:
        if not subject.run.train:
            yield Skip("ENT201", "needs --train")
            return
        if not subject.run.wants("ENT201"):
            return
        from nndiag.checks.entropy_floor.training import precision_limits

        yield from precision_limits(subject, material, measured)
