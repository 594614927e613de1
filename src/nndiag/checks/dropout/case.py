"""Everything that was found out about the dropouts of one model, before anybody judges."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch, Subject
    from nndiag.lab.dropout.bench import Bench, EvalVerdict
    from nndiag.lab.dropout.flow import Flow, RowCollapse
    from nndiag.lab.dropout.graph import Seen
    from nndiag.lab.dropout.measure import Gauge, SiteLab
    from nndiag.lab.dropout.sites import Map, Site

# Words in names and switched-on flags by which people say that randomness in eval mode is meant.
ON_PURPOSE = frozenset(
    {"mc", "mcdropout", "montecarlo", "carlo", "bayes", "bayesian", "always", "uncertainty", "epistemic"}
)
PATH_WORDS = frozenset({"path", "stochastic", "depth", "survival", "layerdrop"})
REGRESSION, CLASSES, UNKNOWN = "regression", "classification", "unknown"
ROWS = 512
OPERATIONS = 1e11  # of all masked forwards together: seconds on one core


@dataclass
class Case:
    """What the judges look at."""

    subject: Subject
    bench: Bench
    verdict: EvalVerdict
    map: Map
    sites: list[Site]
    lab: SiteLab | None = None
    flow: Flow | None = None
    rows: list[RowCollapse] = field(default_factory=list)
    task: str = UNKNOWN
    loss_name: str = ""
    loss: Callable[[Any], float] | None = None
    main_output: int = -1  # id of the tensor a loss would be computed from
    masks: int = 16
    other_luck: str = ""  # what keeps training random with every known dropout off
    cut: str = ""  # before what the time budget ended
    measured: bool = True  # whether there was time for the masks
    settled: frozenset[str] = frozenset()  # batch norms whose running statistics were learned before we came

    def gauge(self, site: Site) -> Gauge | None:
        """What was measured at a site."""
        if self.lab is None:
            return None
        return next((item for item in self.lab.gauges if item.site is site), None)

    def or_late(self, reason: str) -> str:
        """Why a rule was not judged: for want of time, where there was none for the masks."""
        return reason if self.measured else "the time budget ended before any mask was drawn"

    @property
    def forwards(self) -> int:
        """About how many forwards the measurements take: modes, closed forms, masks for each site and for all."""
        return 10 + 2 * self.masks

    @property
    def acting(self) -> list[Site]:
        """Sites that drop something in training."""
        return [site for site in self.sites if site.seen.dial.acts]

    @property
    def n(self) -> dict[str, int]:
        """Sample sizes, for evidence."""
        return {"samples": self.bench.rows, "masks": self.masks}


def is_path(site: Site | Seen) -> bool:
    """Whether a site drops whole branches: stochastic depth, on purpose not a dropout of units."""
    from nndiag.lab.dropout.graph import Seen
    from nndiag.lab.dropout.ops import SAMPLE, WHOLE

    seen = site if isinstance(site, Seen) else site.seen
    whole = seen.dial.unit in {SAMPLE, WHOLE}
    return whole or (seen.handmade and bool(PATH_WORDS & seen.words) and "dropout" not in seen.words)


def on_purpose(site: Site) -> bool:
    """Whether names or flags around a site say that it is meant to stay on."""
    return bool(ON_PURPOSE & site.seen.words)


def is_augmentation(site: Site) -> bool:
    """Whether a hand-written mask on the raw input, not called dropout, is more likely noise added on purpose."""
    named = any("drop" in word for word in site.seen.words)
    return site.seen.handmade and site.feeder == "input" and not named


def investigate(subject: Subject, masks: int) -> Iterator[Observation | Case]:
    """Yield progress, and last the case."""
    from nndiag.core.findings import Step as Progress
    from nndiag.lab.dropout.bench import Bench
    from nndiag.lab.dropout.script import Script
    from nndiag.lab.dropout.sites import Map
    from nndiag.lab.forward import as_tensors, move, take

    if subject.model is None:
        raise NndiagError("check-dropout needs a model", hint="nndiag check-dropout models.py:build [DATA]")
    if subject.data is None:
        hint = "give DATA: nndiag check-dropout models.py:build data.py:loader"
        raise NndiagError("no inputs could be invented for this model", hint=hint)
    yield Progress("finding dropout", 0.0)
    model = subject.model.make().to(subject.run.device)
    batch = first_batch(subject)
    batch = take(move(as_tensors(batch), subject.run.device), ROWS)
    bench = Bench(model, batch, seed=subject.run.seed)
    settled = bench.settled()
    bench = fitted(bench, masks)
    verdict = bench.eval_verdict()
    try:
        film = bench.play(Script(), training=True, seed=subject.run.seed)
    except NndiagError as error:
        if not verdict.error:
            raise NndiagError(
                f"the model does not run in training mode: {error.message}", hint=error.hint or "train() it first"
            ) from error
        raise
    atlas = Map(film.film)
    case = Case(subject, bench, verdict, atlas, atlas.sites(), masks=masks, settled=settled)
    _name_luck(case)
    refuse_if_empty(case, model)
    _name_task(case, film.output)
    yield Progress("drawing masks", 0.3)
    _measure(case)
    yield case


def first_batch(subject: Subject) -> Batch:
    """The batch that everything is measured on."""
    assert subject.data is not None
    batch = next(iter(subject.data.batches(subject.training.batch_size or ROWS)), None)
    if batch is None:
        raise NothingApplicableError("the data is empty: nothing to run the model on", hint="yield at least one batch")
    return batch


def fitted(bench: Bench, masks: int) -> Bench:
    """Return the bench with fewer rows when the masks over the whole batch would cost too many operations."""
    from nndiag.lab.dropout.bench import Bench
    from nndiag.lab.forward import take

    small = Bench(bench.model, take(bench.batch, 8), seed=bench.seed) if bench.rows > 8 else bench
    each = small.work() / max(1, small.rows)
    bench.grad = small.grad
    rows = int(OPERATIONS / (2 * masks + 8) / max(each, 1.0))
    rows = max(min(bench.rows, 8), rows)
    if rows >= bench.rows:
        return bench
    cut = Bench(bench.model, take(bench.batch, rows), seed=bench.seed)
    cut.grad = small.grad
    return cut


def refuse_if_empty(case: Case, model: nn.Module) -> None:
    """Say where it was looked when there is no dropout at all."""
    from nndiag.lab.dropout.names import is_dropout_module

    modules = [m for m in model.modules() if is_dropout_module(m) or getattr(m, "dropout", 0.0) not in (0.0, None)]
    if case.sites or modules or case.verdict.acting:
        return
    if not case.verdict.same:
        return  # random without dropout: that is worth a report
    films = (
        f"{len(list(model.modules()))} modules and {len(case.map.film.steps)} function calls of one training forward"
    )
    other = f"; training is random for another reason: {case.other_luck}" if case.other_luck else ""
    raise NothingApplicableError(f"no dropout in {films}{other}", hint="is dropout switched off by p = 0 or a flag?")


def _name_luck(case: Case) -> None:
    """Name what is random in training besides dropout; a source that was not seen is said to be one."""
    chances = case.map.film.chances
    if chances:
        first = chances[0]
        at = f" at {first.where.file}:{first.where.line}" if first.where.file else ""
        inside = f" in '{first.where.module}'" if first.where.module else ""
        case.other_luck = f"{first.what}{inside}{at}"
    elif not case.map.film.sites or any(site.seen.variant == "mask" for site in case.sites):
        rates = {site.seen.key: 1 - site.p for site in case.sites if site.seen.handmade}
        if case.bench.rest_differs(rates):
            case.other_luck = "something that calls no torch function, as scripted modules and custom kernels do"


def _name_task(case: Case, output: Any) -> None:
    """Decide regression or classification from the loss, where there is one to go by."""
    from nndiag.lab.forward import main_output
    from nndiag.lab.objective import resolve_objective

    try:
        main = main_output(output)
        tag = getattr(main, "_nndiag_tag", None)
        case.main_output = tag[1].id if tag is not None else -1
    except NndiagError:
        return
    subject = case.subject
    invented = subject.data is not None and subject.data.synthetic and subject.training.loss == "auto"
    try:
        objective = resolve_objective(subject.training, case.bench.model, case.bench.batch)
    except NndiagError:
        return
    name = objective.name.lower()
    if invented and name not in {"own", "cross_entropy"}:
        return  # float targets that nobody gave say nothing about the task
    case.loss_name = name
    if any(word in name for word in ("mse", "l1", "huber", "mae", "squared", "regress")):
        case.task = REGRESSION
    elif any(word in name for word in ("cross_entropy", "bce", "nll", "focal", "entropy")):
        case.task = CLASSES

    def loss(answer: Any) -> float:
        return float(objective(answer, case.bench.batch.targets).detach())

    case.loss = loss


def _measure(case: Case) -> None:
    """Run the passes."""
    from nndiag.lab.dropout.flow import attention_rows, natural
    from nndiag.lab.dropout.measure import SiteLab

    if not case.acting:
        return
    seed = case.subject.run.seed
    run = case.subject.run
    lab = case.lab = SiteLab(case.bench, case.acting, seed=seed, late=lambda: run.seconds_left <= 0)
    if run.seconds_left > 0:
        lab.reference(training=bool(case.verdict.error))
        lab.silent()
    if run.seconds_left <= 0:
        case.cut, case.measured = "any mask was drawn", False
        return
    lab.draw(case.masks)
    if lab.drawn < case.masks:
        case.masks, case.cut = lab.drawn, f"all of the {case.masks} masks were drawn"
    _more_masks(case)
    if case.loss is not None and not _works(case):
        case.loss = None
    case.flow = natural(lab, case.masks, case.loss)
    case.rows = attention_rows(case.bench, case.acting, lab.rates, seed=seed)


def _works(case: Case) -> bool:
    assert case.loss is not None
    assert case.lab is not None
    try:
        return math.isfinite(case.loss(case.lab.eval_output))
    except Exception:  # noqa: BLE001 - no targets, or not the ones this loss wants
        return False


def _more_masks(case: Case) -> None:
    """Draw until a slope of 1 and one of 1-p are five standard errors apart wherever the scale is hand-written."""
    lab = case.lab
    assert lab is not None
    drawn = case.masks
    while drawn < 4 * case.masks and case.subject.run.seconds_left > 0:
        loose = [g for g in lab.gauges if (g.site.seen.handmade or g.site.anchor.scaled) and g.slopes]
        if all(5 * g.error <= g.site.p for g in loose):
            return
        lab.draw(case.masks, begin=drawn)
        drawn += case.masks
