"""Parts of a model that stay in eval mode while the model trains, and whether they learn there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nndiag.core.errors import NndiagError
from nndiag.lab.borrow import seeded
from nndiag.lab.forward import tensors_in
from nndiag.lab.optimizers import make_optimizer

if TYPE_CHECKING:
    from torch import nn

    from nndiag.core.subject import Training
    from nndiag.lab.dropout.bench import Bench


def asleep_around(model: nn.Module, name: str) -> str | None:
    """The outermost part around a module that is in eval mode though the model is in training mode.

    Args:
        model: After `train()`.
        name: Dotted name of the module.

    Returns:
        The dotted name of that part, "" for the model itself; None where everything around the module trains.
    """
    parts = name.split(".") if name else []
    for n in range(len(parts) + 1):
        part = ".".join(parts[:n])
        if not model.get_submodule(part).training:
            return part
    return None


def put_to_sleep(bench: Bench, name: str) -> str:
    """The outermost part around a module that a training forward leaves in eval mode; else what holds the module."""
    bench.training_output()
    part = asleep_around(bench.model, name)
    bench.model.train()
    return name.rpartition(".")[0] if part is None else part


def learns(bench: Bench, part: str, training: Training) -> bool:
    """Whether a step of training would move the weights of a part: a frozen one, or one behind `no_grad`, stays.

    A part without weights of its own has nothing to freeze, and counts as learning with the model around it.
    """
    inside = list(bench.model.get_submodule(part).parameters())
    if not inside:
        return True
    able = [item for item in inside if item.requires_grad]
    if training.optimizer is not None and able:
        try:
            moved = {
                id(item) for group in make_optimizer(training, bench.model).param_groups for item in group["params"]
            }
        except NndiagError:
            moved = {id(item) for item in able}
        able = [item for item in able if id(item) in moved]
    return bool(able) and _reached(bench, able)


def _reached(bench: Bench, able: list[nn.Parameter]) -> bool:
    before, bench.grad = bench.grad, True
    try:
        with seeded(bench.seed), torch.enable_grad():
            outputs = [item for item in tensors_in(bench.training_output()) if item.requires_grad]
            if not outputs:
                return False
            total = sum(item.abs().double().sum() if item.is_complex() else item.double().sum() for item in outputs)
            assert isinstance(total, torch.Tensor)
            grads = torch.autograd.grad(total, able, allow_unused=True)
    except (NndiagError, RuntimeError):
        return True  # what cannot be differentiated here is not known to be frozen
    finally:
        bench.grad = before
    return any(grad is not None for grad in grads)
