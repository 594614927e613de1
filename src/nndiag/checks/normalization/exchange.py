"""What if the model is trained on one scale and served on the other?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.normalization.cure import range_name
from nndiag.checks.normalization.trial import changed, trial
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Measurement, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch

SURE = 0.999  # of a softmax that is saturated


def examine_exchange(bench: Bench, view: View, lr: float, steps: int) -> Iterator[Observation]:
    """Train on x/255 and serve x, and the other way round: accuracy, logits, saturated and dead units."""
    top = float(view.profile.moments.high.max())
    pixels = range_name(view.profile) == "0-255 pixel values"
    unit = view.profile.moments.low.min() >= 0 and 0.5 < top <= 1.0
    if bench.classes is None or not (pixels or unit) or bench.subject.run.seconds_left < 3:
        return
    by = (1 / 255, 1.0) if pixels else (1.0, 255.0)
    rows = []
    for trained, served, name in ((by[0], by[1], "x/255 -> x"), (by[1], by[0], "x -> x/255")):
        batches = tuple(changed(batch, _times(trained), None) for batch in bench.batches)
        others = tuple(changed(batch, _times(served), None) for batch in bench.batches)
        try:
            done = trial(bench, batches, lr=lr, steps=steps, prior=1.0, seconds=bench.subject.run.seconds_left / 8)
            home, away = _served(done.model, batches), _served(done.model, others)
        except NndiagError:
            return
        one, other = name.split(" -> ")
        for fed, ends, where in ((one, home, "as_trained"), (other, away, "on_other_scale")):
            rows.append((one, fed, ends.accuracy, ends.logits, ends.flat, ends.sure))
            yield Measurement(f"accuracy_{where}", ends.accuracy, "share", name)
            yield Measurement(f"logits_{where}", ends.logits, "", name)
            yield Measurement(f"certain_answers_{where}", ends.sure, "share", name)
            if ends.flat is not None:
                yield Measurement(f"flat_units_{where}", ends.flat, "share", name)
    yield Table(
        "trained on one scale, served on the other",
        ("trained on", "served", "accuracy", "|logit|", "flat units", "p > 0.999"),
        rows,
    )


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x.float() * factor


@dataclass(frozen=True)
class Served:
    """How a trained model answers."""

    accuracy: float
    logits: float  # mean size of the largest one
    flat: float | None  # share of saturated and dead units; None without any that could be
    sure: float  # share of the answers whose softmax is saturated


def _served(model: nn.Module, batches: tuple[Batch, ...]) -> Served:
    """What a model answers in eval mode."""
    import torch

    from nndiag.lab.firstlayer_units import flat_units
    from nndiag.lab.forward import as_tensors, call, main_output

    model.eval()
    hits, total, size, sure = 0, 0, 0.0, 0
    with torch.no_grad():
        for batch in batches:
            logits, y = main_output(call(model, batch.inputs)), as_tensors(batch.targets)
            axis = -1 if logits.shape[:-1] == y.shape else 1
            hits += int((logits.argmax(dim=axis) == y).sum())
            sure += int((logits.double().softmax(dim=axis).amax(dim=axis) > SURE).sum())
            total += y.numel()
            size += float(logits.abs().amax(dim=-1).double().mean())
    units = list(flat_units(model, batches[0]).values())
    many = sum(count for _, count in units)
    return Served(
        round(hits / max(total, 1), 4),
        float(f"{size / max(len(batches), 1):.4g}"),
        round(sum(flat for flat, _ in units) / many, 4) if many else None,
        round(sure / max(total, 1), 4),
    )
