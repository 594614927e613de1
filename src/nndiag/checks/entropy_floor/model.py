"""The outputs of a model on its data, as if they had been saved: logits or probabilities, and the labels."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.predictions import Origin
from nndiag.core.errors import NothingApplicableError, UsageError
from nndiag.core.findings import Fact, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch, Subject
    from nndiag.lab.training_step import LossCall

SQUASHING = ("Softmax", "Softmax2d", "LogSoftmax", "Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid")
MOST_NUMBERS = 30_000_000  # outputs held at once
SAME = 1e-4  # relative: two ways of computing one loss


@dataclass(frozen=True)
class FirstBatch:
    """The first batch and the recipe of the model, for micro-training."""

    make: Callable[[], Any]
    inputs: Any
    rows: int
    origin: Origin


def outputs_of(  # noqa: C901 - one pass with its refusals
    subject: Subject, material: dict[str, Any]
) -> Generator[Observation, None, dict[str, Any]]:
    """Run the model in eval mode over its data; return labels, and logits or predictions, as arrays."""
    import torch

    from nndiag.lab.forward import call, main_output, move
    from nndiag.lab.objective import predicts_next, resolve_objective

    model_source, data = subject.model, subject.data
    if model_source is None or data is None or data.synthetic:
        raise UsageError("--model needs --data", hint="--data x.npz, with labels; invented data has no floor")
    model = model_source.make().to(subject.run.device).eval()
    outputs: list[Any] = []
    labels: list[Any] = []
    held, given, first = 0, "", None
    own: LossCall | None = None
    for batch in data.batches(subject.training.batch_size or 256):
        if batch.targets is None and material.get("labels") is None:
            raise NothingApplicableError(f"{data.name} has no labels", hint="yield (inputs, labels)")
        with _watched(model, enabled=not given) as called, torch.set_grad_enabled(not given):
            main = main_output(call(model, move(batch.inputs, subject.run.device)))
        if (not given and subject.training.loss == "auto") or own is not None:
            own = _handed(model, batch, main)
        scores = (main if own is None else own.scores).detach().cpu().double()
        aims = None if batch.targets is None else torch.as_tensor(batch.targets).detach().cpu()
        if aims is not None and scores.dim() == 3 and predicts_next(model):
            scores, aims = scores[:, :-1], aims[:, 1:]
        if not given:
            objective = resolve_objective(subject.training, model, batch)
            if own is None and objective.name in ("mse", "l1", "smooth_l1", "huber"):
                raise NothingApplicableError("the targets are real numbers: no entropy floor", hint="labels are needed")
            yield _objective(objective, own)
            given = "predictions" if _are_probabilities(objective, scores, aims, own) else "logits"
            origin = _origin(model_source, main, called, own, asked=subject.training.loss != "auto")
            first = FirstBatch(model_source.make, batch.inputs, len(main), origin)
        outputs.append(scores.numpy())
        if aims is not None:
            labels.append(aims.numpy())
        held += scores.numel()
        yield Step("running the model", None)
        if held > MOST_NUMBERS or subject.run.seconds_left < 0.3 * subject.run.max_seconds:
            yield Fact("truncated", held, "first batches only")
            break
    if not outputs:
        raise NothingApplicableError(f"{data.name} has no batches", hint="was it consumed before?")
    found: dict[str, Any] = {given: _joined(outputs), "model": first}
    if material.get("labels") is None:
        found["labels"] = _joined(labels)
    return found


def _learnt(source: Any) -> bool | None:
    """Whether the source's weights were trained; one that cannot tell is taken at its word."""
    asked = getattr(source, "learnt", None)
    return asked() if asked is not None else True


def _handed(model: Any, batch: Batch, main: Any) -> LossCall | None:
    """The first loss in the model's own training_step that takes scores of its outputs' shape; an axis of 1 may go."""
    from nndiag.lab.training_step import step_losses

    def sizes(scores: Any) -> list[int]:
        return [size for size in scores.shape if size != 1]

    calls = [item for item in step_losses(model, batch) if item.name != "nll"]
    own = next((item for item in calls if sizes(item.scores) == sizes(main)), None)
    return own and replace(own, scores=own.scores.reshape(main.shape))


def _objective(objective: Any, own: LossCall | None) -> Fact:
    """The loss, and how it was come by."""
    if own is None:
        return Fact("objective", objective.name, f"loss {objective.name} ({objective.how})")
    place = f"{own.where.file}:{own.where.line}" if own.where.file else "called"
    return Fact("objective", own.name, f"loss {own.name} (in training_step, {place})")


def _origin(source: Any, main: Any, called: list[tuple[str, str]], own: LossCall | None, *, asked: bool) -> Origin:
    """What bounds the outputs and where: a module that ran last, or a line of the model's own training_step."""
    from nndiag.lab.objective_fit import ends_with

    end, cls = called[-1] if called and called[-1][1] in SQUASHING else (None, None)
    place = replace(source.where, module=end, cls=cls)
    if own is None:
        return Origin(place, _learnt(source), ends_with(main) if asked else "")
    return Origin(place if own.scores.equal(main) else own.where, _learnt(source), own.squash)


def _noting(called: list[tuple[str, str]], name: str) -> Callable[[Any, Any, Any], None]:
    """A hook that appends the module it is on."""
    return lambda module, _inputs, _output: called.append((name, type(module).__name__))


@contextmanager
def _watched(model: Any, *, enabled: bool) -> Iterator[list[tuple[str, str]]]:
    """Note the name and class of every leaf module that runs."""
    called: list[tuple[str, str]] = []
    leaves = [(name, module) for name, module in model.named_modules() if enabled and not any(module.children())]
    handles = [module.register_forward_hook(_noting(called, name)) for name, module in leaves]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: list[Any]) -> Any:
    """One array of the batches; padded batches of different lengths are flattened to rows first."""
    import numpy as np

    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    width = parts[0].ndim
    longest = max(part.shape[1] for part in parts)
    whole = parts[0].dtype.kind in "iu"
    padded = []
    for part in parts:
        room = [(0, 0)] * width
        room[1] = (0, longest - part.shape[1])
        padded.append(np.pad(part, room, constant_values=-100 if whole else 0.0))
    return np.concatenate(padded)


def _are_probabilities(objective: Any, main: Any, aims: Any, own: LossCall | None) -> bool:
    """Whether the loss takes this output for probabilities: then only that reading gives its value."""
    from torch.nn import functional

    if own is not None:
        return own.name == "binary_cross_entropy"
    if main.dim() < 2 or main.shape[-1] < 2 or aims is None:
        return bool(objective.name == "bce" and "sigmoid" in objective.how)
    sums = main.sum(-1)
    if main.min() < 0 or float((sums - 1.0).abs().max()) > 1e-3:
        return False
    try:
        asked = float(objective(main.float(), aims))
        logs = main.clamp_min(1e-30).log()
        as_probabilities = float(functional.cross_entropy(logs.reshape(-1, logs.shape[-1]), _aims(aims, logs)))
    except Exception:  # noqa: BLE001 - a user's loss may want the model's own output
        return False
    return math.isclose(asked, as_probabilities, rel_tol=SAME, abs_tol=SAME)


def _aims(aims: Any, logs: Any) -> Any:
    """Targets in the shape that cross_entropy takes."""
    if aims.is_floating_point() and aims.shape == logs.shape:
        return aims.reshape(-1, logs.shape[-1]).to(logs.dtype)
    return aims.reshape(-1).long()
