"""How long does the user's real step take: forward, loss, backward, clipping, optimizers?"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.borrow import seeded
from nndiag.lab.clock import Timing, threads, wait
from nndiag.lab.embedding.shrink import shrink, smaller_tables
from nndiag.lab.embedding.tables import recipe_of
from nndiag.lab.forward import call, main_output, move
from nndiag.lab.objective import own_loss, resolve_objective
from nndiag.lab.uncompiled import uncompiled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nndiag.core.subject import ModelSource, Training


@dataclass(frozen=True, slots=True)
class ModelTiming:
    """Seconds of one real training step."""

    total: Timing
    forward: float
    backward: float
    optimizer: float  # clipping included


@dataclass(frozen=True, slots=True)
class Loop:
    """What a training loop does around forward and backward."""

    accumulation: int = 1  # micro-batches per step
    set_to_none: bool = True


def build(source: ModelSource, rows: Mapping[int, int], seed: int = 0, bare: Sequence[str] = ()) -> nn.Module:
    """Build the model, with fewer rows where asked.

    Args:
        source: The recipe.
        rows: V -> rows to build instead; empty for the model as it is.
        seed: Of the construction.
        bare: Names of parameters that are tables without a module of their own.
    """
    if not rows:
        return source.make()
    recipe = recipe_of(source) or source.make
    with seeded(seed), smaller_tables(rows):
        model = recipe()
    shrink(model, rows, bare)  # an instance or a checkpoint came with all its rows
    return model


def loss_function(model: nn.Module, batch: Batch, training: Training) -> Callable[[Any], Tensor]:
    """Return the loss of an output: the user's where targets exist, otherwise the mean square of the output.

    For a clock it hardly matters which, as long as every output gets a gradient.
    """
    if batch.targets is not None:
        try:
            objective = resolve_objective(training, model, batch)
        except NndiagError:
            objective = None
        if objective is not None:
            return lambda output: objective(output, batch.targets)

    def square(output: Any) -> Tensor:
        mine = own_loss(output)
        return mine if mine is not None else main_output(output).float().square().mean()

    return square


def training_step(  # noqa: PLR0913 - one step's parts, by name
    model: nn.Module,
    batch: Batch,
    loss: Callable[[Any], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    clip: float | None = None,
    loop: Loop | None = None,
) -> tuple[float, float, float]:
    """Make one step and return the seconds of its three parts."""
    loop = loop or Loop()
    device = next(model.parameters()).device
    forward = backward = 0.0
    for _ in range(loop.accumulation):
        wait(device)
        begun = time.perf_counter()
        value = loss(call(model, batch.inputs))
        wait(device)
        after_forward = time.perf_counter()
        value.backward()  # type: ignore[no-untyped-call]
        wait(device)
        after_backward = time.perf_counter()
        forward, backward = forward + after_forward - begun, backward + after_backward - after_forward
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=loop.set_to_none)
    wait(device)
    return forward, backward, time.perf_counter() - after_backward


def time_model(  # noqa: PLR0913 - budgets, by name
    model: nn.Module,
    batch: Batch,
    training: Training,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    clip: float | None = None,
    loop: Loop | None = None,
    seconds: float = 4.0,
    repeats: int = 5,
) -> ModelTiming:
    """Time the real step of a private model, on one thread when on a CPU.

    Args:
        model: Private: it is trained.
        batch: One batch on its device.
        training: For the loss.
        optimizers: Over its parameters.
        clip: Norm to clip to.
        loop: Micro-batches and zero_grad.
        seconds: Time to spend, about; two steps are made at least.
        repeats: Wanted repetitions.

    Raises:
        NndiagError: The model cannot be run or trained on this batch.
    """
    device = next(model.parameters()).device
    batch = replace(batch, targets=move(batch.targets, device) if batch.targets is not None else None)
    model.train()
    taken: list[tuple[float, float, float]] = []
    plain = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
    with threads(1), seeded(0), uncompiled(), plain:
        loss = loss_function(model, batch, training)
        begun = time.perf_counter()
        _guarded(model, batch, loss, optimizers, clip, loop)
        first = time.perf_counter() - begun
        while len(taken) < repeats and (not taken or time.perf_counter() - begun + first < seconds):
            taken.append(_guarded(model, batch, loss, optimizers, clip, loop))
    gc.collect()
    total = Timing.of([sum(parts) for parts in taken])
    return ModelTiming(total, *min(taken, key=lambda parts: abs(sum(parts) - total.typical)))


def _guarded(  # noqa: PLR0913, PLR0917 - one step's parts, in its order
    model: nn.Module,
    batch: Batch,
    loss: Callable[[Any], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    clip: float | None,
    loop: Loop | None,
) -> tuple[float, float, float]:
    try:
        return training_step(model, batch, loss, optimizers, clip=clip, loop=loop)
    except NndiagError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise NndiagError(
            f"a training step raised {type(error).__name__}: {said[:200]}", hint="run one step of it by itself"
        ) from error
