"""Does float32 stop a training before float64 does? The same start, the same optimizer, two precisions."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from nndiag.lab.borrow import seeded
from nndiag.lab.forward import call, in_precision, main_output, move
from nndiag.lab.optimizers import make_optimizer
from nndiag.science.entropy import kl, log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from nndiag.core.subject import Training

FLOAT32, MIXED, FLOAT64 = "float32", "float32, loss in float64", "float64"
STEPS = 300
STALLED = 2.0  # within this factor of its best, a run has stalled
PATIENCE = 30  # steps without a tenth of progress that end a run
# torch's L-BFGS drops curvature pairs with y's <= 1e-10, whatever the scale of the loss; a power of two rounds nothing
LIFT = 2.0**40


@dataclass(frozen=True, slots=True)
class PrecisionRun:
    """One training, measured in float64 whatever it ran in."""

    kind: str
    excess: tuple[float, ...]  # KL over the floor at the weights before each step, nats
    logged: tuple[float, ...]  # the loss that the run itself saw
    ended: str  # steps | diverged | budget | stalled

    @property
    def best(self) -> float:
        """The least excess."""
        return min((value for value in self.excess if math.isfinite(value)), default=math.nan)

    @property
    def stall(self) -> int:
        """The first step within a factor of two of the best."""
        best = self.best
        return next((i for i, value in enumerate(self.excess) if value <= STALLED * best), 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is trained on: one full batch."""

    make: Callable[[], nn.Module]  # identical at every call
    inputs: Any
    targets: Tensor  # (rows, classes), sums to one


def regression(x: Tensor, targets: Tensor) -> Problem:
    """Softmax regression from zero weights on standardised inputs.

    Args:
        x: Inputs (rows, features), float64.
        targets: Label rows (rows, classes), float64.
    """
    spread = x.std(0, correction=0)
    x = (x - x.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    features, classes = x.shape[1], targets.shape[1]

    def make() -> nn.Module:
        layer = nn.Linear(features, classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    return Problem(make, x, targets)


def train_in(  # noqa: PLR0913 - a training run has these parts
    problem: Problem, kind: str, training: Training, steps: int, *, seed: int, seconds: float
) -> PrecisionRun:
    """Train in one precision and measure the excess in float64 before every step.

    The models run in eval mode, so that nothing but rounding differs between the runs.
    """
    dtype = torch.float64 if kind == FLOAT64 else torch.float32
    deadline = time.monotonic() + seconds
    excess: list[float] = []
    logged: list[float] = []
    ended = ""
    with seeded(seed), torch.enable_grad():
        model = in_precision(problem.make(), dtype).eval()
        inputs, targets = move(problem.inputs, "cpu", dtype), problem.targets.to(dtype)
        aims = problem.targets if kind == MIXED else targets
        optimizer = _optimizer(training, model)
        for _ in range(steps):
            with torch.no_grad():
                logits = _logits(model, inputs)
                excess.append(_excess(logits, problem.targets))
                logged.append(float(_loss(logits, aims)))
            ended = _end(excess, deadline)
            if ended:
                break
            _step(optimizer, model, inputs, aims)
    return PrecisionRun(kind, tuple(excess), tuple(logged), ended or "steps")


def _end(excess: list[float], deadline: float) -> str:
    """Why the run ends here, if it does."""
    if not math.isfinite(excess[-1]):
        return "diverged"
    if len(excess) > 2 * PATIENCE and min(excess[-PATIENCE:]) > 0.9 * min(excess[:-PATIENCE]):
        return "stalled"
    return "budget" if time.monotonic() > deadline else ""


def _optimizer(training: Training, model: nn.Module) -> torch.optim.Optimizer:
    """L-BFGS with its own stopping rules off, or the user's optimizer."""
    if training.optimizer is not None and training.optimizer != "lbfgs":
        return make_optimizer(training, model)
    return torch.optim.LBFGS(
        [item for item in model.parameters() if item.requires_grad],
        lr=1.0, max_iter=1, max_eval=40, history_size=50,
        tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip


def _step(optimizer: torch.optim.Optimizer, model: nn.Module, inputs: Any, aims: Tensor) -> None:
    lift = LIFT if isinstance(optimizer, torch.optim.LBFGS) else 1.0

    def closure() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(_logits(model, inputs), aims) * lift
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)


def _logits(model: nn.Module, inputs: Any) -> Tensor:
    output = main_output(call(model, inputs))
    return output.reshape(-1, output.shape[-1])


def _loss(logits: Tensor, aims: Tensor) -> Tensor:
    """Cross-entropy in the precision of the labels: float64 labels lift float32 logits."""
    return functional.cross_entropy(logits.to(aims.dtype), aims)


def _excess(logits: Tensor, targets: Tensor) -> float:
    """Mean KL in float64, exact to 1e-16 whatever dtype the logits have."""
    return float(kl(targets.numpy(), log_softmax(logits.numpy())).mean())
