"""Train a fresh copy for some steps, with its dropout or with none."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from nndiag.lab.borrow import seeded
from nndiag.lab.dropout.meeting import bare
from nndiag.lab.dropout.ops import dial_of, is_dropout, with_rate
from nndiag.lab.objective import loss_of, resolve_objective, with_labels
from nndiag.lab.optimizers import make_optimizer
from nndiag.lab.training import micro_train

if TYPE_CHECKING:
    from torch import nn

    from nndiag.core.subject import Batch, Subject
    from nndiag.lab.objective import Objective
    from nndiag.lab.training import StepInfo


@dataclass(frozen=True)
class Fit:
    """Where a short training led."""

    losses: tuple[float, ...]
    start: float  # eval loss before
    half: float  # eval loss half way
    end: float  # eval loss after
    ended: str
    loss: str


class NoDropout(TorchFunctionMode):
    """Switches torch's dropouts off wherever they are called; hand-written masks go on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take p out of the call."""
        kwargs = kwargs or {}
        op = bare(str(getattr(func, "__name__", "")))
        dial = dial_of(op, args, kwargs)
        if dial is None or not dial.acts:
            return func(*args, **kwargs)
        if is_dropout(op):
            return args[0] if args else kwargs["input"]
        args, kwargs = with_rate(op, args, kwargs, 0.0)
        return func(*args, **kwargs)


def fit(subject: Subject, batch: Batch, *, steps: int, masks: int | None, seconds: float) -> Fit:
    """Train on one batch, over and over, from the model's own start.

    Args:
        subject: Recipe for model, loss and optimizer.
        batch: What is to be fitted.
        steps: Optimizer steps.
        masks: Which masks are drawn, as a number added to the seed; None trains without dropout.
        seconds: When to stop at the latest.
    """
    assert subject.model is not None
    model = subject.model.make().to(subject.run.device)
    training = subject.training if subject.training.optimizer else replace(subject.training, optimizer="adam")
    batch = with_labels(model, batch)
    objective = resolve_objective(training, model, batch)
    optimizer = make_optimizer(training, model)
    seed = subject.run.seed
    start = _eval_loss(model, batch, objective, seed)
    middle: list[float] = []

    def look(info: StepInfo) -> None:
        if info.step == steps // 2:
            middle.append(_eval_loss(model, batch, objective, seed))
            model.train()

    model.train()
    with NoDropout() if masks is None else contextlib.nullcontext():
        curve = micro_train(
            model, [batch], objective, optimizer, steps, seed=seed + (masks or 0), seconds=seconds, on_step=look
        )
    end = _eval_loss(model, batch, objective, seed)
    half = middle[0] if middle else start
    return Fit(curve.losses, start, half, end if math.isfinite(end) else math.inf, curve.ended, objective.name)


def _eval_loss(model: nn.Module, batch: Batch, objective: Objective, seed: int) -> float:
    model.eval()
    with seeded(seed), torch.no_grad():
        return float(loss_of(model, batch, objective)[0])
