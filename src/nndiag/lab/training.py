"""A few seeded steps of training, watched. On a private copy: the caller hands over what may be trained."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nndiag.core.errors import NndiagError
from nndiag.lab.borrow import seeded
from nndiag.lab.objective import loss_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import nn

    from nndiag.core.subject import Batch
    from nndiag.lab.objective import Objective


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """The loss before each step, and how the training ended."""

    losses: tuple[float, ...]
    steps: int  # optimizer steps taken
    ended: str  # steps | diverged | budget | until | data
    grad_norms: tuple[float, ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether a loss became NaN or infinite."""
        return self.ended == "diverged"


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a callback sees after each optimizer step."""

    step: int  # 1 after the first update
    loss: float
    model: nn.Module
    optimizer: torch.optim.Optimizer


def micro_train(  # noqa: PLR0913 - a training run has these parts
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    seed: int = 0,
    on_step: Callable[[StepInfo], bool | None] | None = None,
    until: float | None = None,
    seconds: float | None = None,
) -> TrainingCurve:
    """Train for some steps in the model's present mode, and return the curve.

    Args:
        model: Trained in place; take it from `ModelSource.make()`. Its mode flags are left as they are.
        batches: Repeated from the beginning when they run out.
        objective: The loss.
        optimizer: Over this model's parameters.
        steps: How many updates at most.
        seed: Seeds dropout and the like; the caller's random state is untouched.
        on_step: Called after each update; returning True ends the training ("until").
        until: End as soon as the loss is at or below this value.
        seconds: End when this much time has passed ("budget").

    Returns:
        The losses, one per forward: the value at step k was taken before update k + 1. After the last update the
        loss is not measured again.

    Raises:
        NndiagError: When there is no batch, or the loss cannot be differentiated.
    """
    losses: list[float] = []
    norms: list[float] = []
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    ended, taken = "steps", 0
    with seeded(seed), torch.enable_grad():
        for batch in itertools.islice(_again(batches), steps):
            loss = _step(model, batch, objective, optimizer)
            losses.append(loss)
            if not math.isfinite(loss):
                ended = "diverged"
                break
            norms.append(_norm(model))
            optimizer.step()
            taken += 1
            if on_step is not None and on_step(StepInfo(taken, loss, model, optimizer)):
                ended = "until"
                break
            if until is not None and loss <= until:
                ended = "until"
                break
            if time.monotonic() > deadline:
                ended = "budget"
                break
    if not losses:
        raise NndiagError("the data yielded no batch", hint="yield at least one (inputs, targets)")
    return TrainingCurve(tuple(losses), taken, ended, tuple(norms))


def _step(model: nn.Module, batch: Batch, objective: Objective, optimizer: torch.optim.Optimizer) -> float:
    """Leave gradients of the loss on the model; return the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss, _ = loss_of(model, batch, objective)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    elif any(item.requires_grad for item in model.parameters()):
        raise NndiagError("the loss does not depend on any parameter", hint="is the output detached, or a constant?")
    return float(loss.detach())


def _norm(model: nn.Module) -> float:
    """Return the Euclidean norm of all gradients."""
    grads = [item.grad for item in model.parameters() if item.grad is not None]
    parts = [(grad.coalesce().values() if grad.is_sparse else grad).double().norm() for grad in grads]
    return float(torch.stack([part.cpu() for part in parts]).norm()) if parts else 0.0


def _again(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches for ever; a one-shot iterator is remembered."""
    if iter(batches) is batches:
        batches = tuple(batches)
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            return
