"""Does an optimizer keep the learning rate inside its momentum buffer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nndiag.lab.borrow import seeded
from nndiag.lab.optimizers import make_optimizer

if TYPE_CHECKING:
    from nndiag.core.subject import Training

STEPS, JUMP = 200, 8.0  # until momentum up to .98 has settled; then the rate is multiplied
FOLLOWS = 0.95  # share of the right update from which the rate counts as followed


def absorbs_rate(training: Training) -> bool | None:
    """Say whether the first update after a jump of the rate falls short of it: v ← m·v + lr·g remembers old rates.

    A constant gradient is fed until the updates are steady, then the rate jumps. torch.optim.SGD keeps the rate
    outside its buffer and follows at once (Goyal et al. 2017, 1706.02677, remark 2).

    Returns:
        None where the optimizer cannot be tried on a small layer, or takes no steps there.
    """
    layer = nn.Linear(2, 2, bias=False)
    try:
        with seeded(0), torch.enable_grad():
            optimizer = make_optimizer(training, layer, lr=1e-3)
            before = _steps(optimizer, layer.weight, STEPS)
            for group in optimizer.param_groups:
                group["lr"] *= JUMP
            after = _steps(optimizer, layer.weight, 1)
    except Exception:  # noqa: BLE001 - a user's optimizer may want what one small layer does not have
        return None
    if not before or not after:
        return None
    return after / before < FOLLOWS * JUMP


def _steps(optimizer: torch.optim.Optimizer, weight: Tensor, count: int) -> float:
    """Take steps under a gradient of ones; return the size of the last one."""
    moved = 0.0
    for _ in range(count):
        weight.grad = torch.ones_like(weight)
        before = weight.detach().clone()
        optimizer.step()
        moved = float((weight.detach() - before).norm())
    return moved
