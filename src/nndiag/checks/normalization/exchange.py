"""What if the model is trained on one scale and served on the other?"""

from __future__ import annotations

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


def examine_exchange(bench: Bench, view: View, lr: float, steps: int) -> Iterator[Observation]:
    """Train on x/255 and serve x, and the other way round: logits and accuracy."""
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
        rows.append((name, *home, *away))
        yield Measurement("accuracy_as_trained", home[0], "share", name)
        yield Measurement("accuracy_on_other_scale", away[0], "share", name)
        yield Measurement("logits_on_other_scale", away[1], "", name)
    yield Table(
        "trained on one scale, served on the other",
        ("trained -> served", "accuracy", "|logit|", "served acc.", "served |logit|"),
        rows,
    )


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x.float() * factor


def _served(model: nn.Module, batches: tuple[Batch, ...]) -> tuple[float, float]:
    """Accuracy and the largest logit's mean size in eval mode."""
    import torch

    from nndiag.lab.forward import as_tensors, call, main_output

    model.eval()
    hits, total, size = 0, 0, 0.0
    with torch.no_grad():
        for batch in batches:
            logits, y = main_output(call(model, batch.inputs)), as_tensors(batch.targets)
            guess = logits.argmax(dim=-1 if logits.shape[:-1] == y.shape else 1)
            hits += int((guess == y).sum())
            total += y.numel()
            size += float(logits.abs().amax(dim=-1).double().mean())
    return round(hits / max(total, 1), 4), float(f"{size / max(len(batches), 1):.4g}")
