"""An optimizer that keeps the rate inside its buffer is told from one that does not."""

from __future__ import annotations

import pytest
import torch

from nndiag.core.subject import Training
from nndiag.lab.momentum import absorbs_rate
from nndiag.science.scaling import absorbed_momentum


class Absorbing(torch.optim.Optimizer):
    """v ← m·v + lr·g; w ← w - v, as Caffe, Chainer and Keras write momentum."""

    def __init__(self, params, lr=1e-3, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self):
        for group in self.param_groups:
            for item in group["params"]:
                state = self.state[item]
                before = state.get("v", torch.zeros_like(item))
                state["v"] = group["momentum"] * before + group["lr"] * item.grad
                with torch.no_grad():
                    item.sub_(state["v"])


class Refusing(torch.optim.Optimizer):
    def __init__(self, params):
        raise ValueError("only matrices of mine")


@pytest.mark.parametrize(
    ("optimizer", "absorbs"),
    [
        (Absorbing, True),
        (lambda params: Absorbing(params, momentum=0.0), False),
        (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), False),
        (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4), False),
        (lambda params: torch.optim.AdamW(params, lr=1e-3), False),
        (Refusing, None),
    ],
)
def test_the_first_update_after_a_jump_tells_where_the_rate_is_kept(optimizer, absorbs):
    assert absorbs_rate(Training(optimizer=optimizer)) is absorbs


def test_the_share_of_the_first_update_is_the_loops_own():
    velocity = torch.tensor(1.0 / (1 - 0.9))
    first = (0.9 * velocity + 32.0) / (32 * velocity)
    assert absorbed_momentum(32, 0.9)[0] == pytest.approx(float(first))
    assert absorbed_momentum(32, 0.9) == (pytest.approx(0.128, abs=5e-4), 22)
