"""The outputs of a model on its data, as if they had been saved: logits or probabilities, and the labels."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NothingApplicableError, UsageError
from nndiag.core.findings import Fact, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch, Subject

SQUASHING = ("Softmax", "Softmax2d", "LogSoftmax", "Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid")
MOST_NUMBERS = 30_000_000  # outputs held at once
SAME = 1e-4  # relative: two ways of computing one loss


@dataclass(frozen=True)
class FirstBatch:
    """The first batch and the recipe of the model, for micro-training."""

    make: Callable[[], Any]
    inputs: Any
    rows: int
    end: tuple[str | None, str | None] = (None, None)  # the module that squashes the outputs, where one does
    untrained: bool = False  # the factory draws its weights at random


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
    with torch.no_grad():
        for batch in data.batches(subject.training.batch_size or 256):
            if batch.targets is None and material.get("labels") is None:
                raise NothingApplicableError(f"{data.name} has no labels", hint="yield (inputs, labels)")
            if not given:
                with torch.enable_grad():
                    objective = resolve_objective(subject.training, model, batch)
                if objective.name in ("mse", "l1", "smooth_l1", "huber"):
                    raise NothingApplicableError(
                        "the targets are real numbers: no entropy floor", hint="labels are needed"
                    )
                yield Fact("objective", objective.name, f"loss {objective.name} ({objective.how})")
            with _watched(model, enabled=not given) as called:
                main = main_output(call(model, move(batch.inputs, subject.run.device))).detach().cpu().double()
            aims = None if batch.targets is None else torch.as_tensor(batch.targets).detach().cpu()
            if aims is not None and main.dim() == 3 and predicts_next(model):
                main, aims = main[:, :-1], aims[:, 1:]
            if not given:
                given = "predictions" if _are_probabilities(objective, main, aims, batch) else "logits"
                first = FirstBatch(
                    model_source.make, batch.inputs, len(main), _end_of(called), _untrained(model_source)
                )
            outputs.append(main.numpy())
            if aims is not None:
                labels.append(aims.numpy())
            held += main.numel()
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


def _untrained(source: Any) -> bool:
    """Whether the source says that its weights are fresh; one that cannot tell is taken at its word."""
    asked = getattr(source, "untrained", None)
    return bool(asked()) if asked is not None else False


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


def _end_of(called: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """The last module that ran, if it bounds what the model returns."""
    return called[-1] if called and called[-1][1] in SQUASHING else (None, None)


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


def _are_probabilities(objective: Any, main: Any, aims: Any, batch: Batch) -> bool:
    """Whether the loss takes this output for probabilities: then only that reading gives its value."""
    from torch.nn import functional

    del batch
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
