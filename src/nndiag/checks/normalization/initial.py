"""Does the loss start where a model that knows nothing should start?"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from nndiag.checks.normalization.bench import rows_in, standardiser
from nndiag.checks.normalization.calm import comes_down
from nndiag.checks.normalization.cure import cure_for
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Observation
    from nndiag.lab.firstlayer import Start

UNCURED = "standardising the inputs does not cure it"
EXCESS = 1.0  # nats above ln C
SAME = 1e-3  # of the loss
PARTS, FEW = 6, 4  # parts of the batch that tell how sure its loss is, rows in each at least


def gradients(raw: Start, scaled: Start) -> Iterator[Series]:
    """Gradient norm per weight matrix, raw beside standardised."""
    names = [name for name in raw.gradients if name in scaled.gradients and name.endswith("weight")][:24]
    for label, one in (("raw", raw), ("standardised", scaled)):
        yield Series(
            label,
            tuple(range(len(names))),
            tuple(one.gradients[name] for name in names),
            "",
            group="gradient norm per layer at the start",
            kind="bar",
            labels=tuple(names),
        )


def flat_units(bench: Bench, view: View, reason: str) -> Iterator[Measurement]:
    """Saturated and dead units with raw and with standardised inputs."""
    from nndiag.lab.firstlayer import with_input
    from nndiag.lab.firstlayer_units import saturated

    sides = [("", bench.batch)]
    if not reason:
        sides.append(("_standardised", with_input(bench.batch, standardiser(view.profile))))
    for suffix, batch in sides:
        for name, share in list(saturated(bench.make(training=False), batch).items())[:3]:
            yield Measurement(f"flat_units{suffix}", share, "share", name)


def examine_start(bench: Bench, view: View, raw: Start, scaled: Start | None) -> Iterator[Observation]:
    """NRM105."""
    from nndiag.science.conditioning import initial_loss

    if bench.classes is None:
        yield Skip("NRM105", "for classification only")
        return
    if loaded(bench):
        yield Skip("NRM105", "the model is trained already")
        return
    if not math.isfinite(raw.loss):
        yield Skip("NRM105", "the loss at the start is not finite")
        return
    yield Judged("NRM105")
    floor = math.log(bench.classes)
    helped = scaled is not None and scaled.loss - floor < 0.5 * (raw.loss - floor)
    limit = floor + max(EXCESS, 0.25 * floor) * (1 if helped else 2)  # wide logits by design are common
    calm = _undisturbed(bench, raw) if raw.loss > limit else raw
    spread = _spread(calm)
    predicted = initial_loss(spread, bench.classes) if math.isfinite(spread) else math.nan
    yield Measurement("logit_spread", spread, "")
    yield Measurement("loss_predicted_from_spread", predicted, "nats")
    if calm.loss <= limit:
        return
    cause = f"with standardised inputs it is {scaled.loss:.4g}" if helped and scaled is not None else UNCURED
    gone = not helped and comes_down(bench, limit, calm.loss)
    yield found(
        "NRM105",
        f"the loss starts at {calm.loss:.4g} where {bench.classes} equally likely classes give ln {bench.classes} = "
        f"{floor:.4g}; {cause}",
        evidence=Evidence(
            calm.loss,
            "nats",
            _interval(bench, calm.loss, training=calm is raw),
            threshold=limit,
            n={"samples": rows_in(bench.batch)},
            seed=bench.subject.run.seed,
            detail=f"logits have sd {spread:.3g}, which predicts {predicted:.4g}",
        ),
        means="the fresh model is confidently wrong: the first steps only undo that, at the price of large gradients"
        + ("; a short training is rid of it at once (a scaled cosine head starts high by design)" if gone else ""),
        fix=cure_for(view.profile)
        if helped
        else "shrink the last layer's initial weights (nn.init.normal_(head.weight, std=0.02)) or normalise its inputs",
        severity=Severity.NOTE if gone else None,
    )


def _undisturbed(bench: Bench, raw: Start) -> Start:
    """The start in eval mode where that is lower: strong dropout inflates the loss of a sane start."""
    from nndiag.lab.firstlayer import start

    assert bench.objective is not None
    quiet = start(bench.make(training=False), bench.batch, bench.objective)
    return quiet if quiet.loss < raw.loss else raw


def _spread(one: Start) -> float:
    """Standard deviation of the logits over classes."""
    if not one.output.numel():
        return 0.0
    axis = 1 if one.output.dim() == 2 else -1
    return float(one.output.double().var(dim=axis, unbiased=False).mean().sqrt())


def _interval(bench: Bench, loss: float, *, training: bool) -> tuple[float, float] | None:
    """95 % of the mean loss, from the losses of parts of the batch; None where the batch is small."""
    import numpy as np

    from nndiag.lab.firstlayer import start
    from nndiag.lab.forward import rows_of

    assert bench.objective is not None
    rows = rows_in(bench.batch)
    if rows < PARTS * FEW:
        return None
    ends = np.linspace(0, rows, PARTS + 1).astype(int)
    try:
        parts = [rows_of(bench.batch, low, high) for low, high in itertools.pairwise(ends.tolist())]
    except NndiagError:
        return None
    losses = [start(bench.make(training=training), part, bench.objective).loss for part in parts]
    reach = 1.96 * float(np.std(losses, ddof=1)) / math.sqrt(PARTS)
    return (loss - reach, loss + reach) if math.isfinite(reach) else None


def loaded(bench: Bench) -> bool:
    """Whether the weights are those of a trained model, as far as can be told."""
    from nndiag.lab.batchnorm import layers, moved

    if "weights" in str(getattr(bench.subject.model, "note", "")):
        return True
    return any(
        moved(module) or (module.num_batches_tracked is not None and int(module.num_batches_tracked) > 0)
        for _, module in layers(bench.make())
    )


def constant_loss(bench: Bench) -> float | None:
    """The loss of the better of two constants, the targets' mean and median; None where it takes no constant."""
    import torch

    from nndiag.lab.forward import as_tensors
    from nndiag.lab.objective import sample_output

    assert bench.objective is not None
    aims, output = as_tensors(bench.batch.targets), sample_output(bench.make(training=False), bench.batch)
    plain = isinstance(aims, torch.Tensor) and isinstance(output, torch.Tensor)
    if not plain or not aims.is_floating_point() or aims.shape != output.shape or len(aims) < 2:
        return None
    y = aims.to(output.dtype)
    guesses = (y.mean(dim=0, keepdim=True), y.median(dim=0, keepdim=True).values)
    try:
        losses = [float(bench.objective.fn(guess.expand_as(y).clone(), y).detach()) for guess in guesses]
    except Exception:  # noqa: BLE001 - a user's loss may want more than outputs and targets
        return None
    least = min(losses)
    return least if math.isfinite(least) and least > 0 else None


def distance_at_start(bench: Bench) -> float | None:
    """How far the model's answers are from real-valued targets, as root mean square; None where they do not fit."""
    import torch

    from nndiag.lab.forward import as_tensors, main_output
    from nndiag.lab.losses import fit_regression
    from nndiag.lab.objective import sample_output

    aims = as_tensors(bench.batch.targets)
    if not isinstance(aims, torch.Tensor) or not aims.is_floating_point():
        return None
    output = main_output(sample_output(bench.make(training=False), bench.batch)).detach().double()
    fitted = fit_regression(output, aims)
    away = math.nan if fitted is None else float((output - fitted).square().mean().sqrt())
    return away if math.isfinite(away) else None


def loss_has_no_scale(bench: Bench) -> bool:
    """Whether the loss, at the model's own answers, stays what it is when all targets are multiplied by a number.

    It does for SI-SNR and for correlations: nothing has a distance to travel then. One factor brings the targets to
    the answers' own size, where any loss that measures a distance changes. Targets that the loss never reads say
    nothing: the model may have its own.
    """
    import torch

    from nndiag.lab.borrow import seeded
    from nndiag.lab.forward import as_tensors, main_output
    from nndiag.lab.objective import sample_output

    aims = as_tensors(bench.batch.targets)
    if bench.objective is None or not isinstance(aims, torch.Tensor) or not aims.is_floating_point():
        return False
    output = sample_output(bench.make(training=False), bench.batch)
    size, length = (float(one.detach().double().square().mean().sqrt()) for one in (main_output(output), aims))
    fit = size / length if length > 0 else math.nan
    factors = (1.0, 0.5, 2.0, *((fit, 3 * fit) if math.isfinite(fit) and fit > 0 else ()))
    foreign = aims.std() * torch.randn(aims.shape, generator=torch.Generator().manual_seed(0)).to(aims)
    losses = []
    for fed in (foreign, *(aims * factor for factor in factors)):
        try:
            with seeded(0), torch.no_grad():
                losses.append(float(bench.objective(output, fed)))
        except Exception:  # noqa: BLE001 - a user's loss may refuse other targets: their scale then means something
            return False
    other, own, *rest = losses
    return not _equal(other, own) and all(_equal(one, own) for one in rest)


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME**2)
