"""Making the private copy that the short trainings run on, in the precision that it runs in."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Batch
from nndiag.lab.bench import Bench, one_line, state_of
from nndiag.lab.forward import batch_rows, in_precision, mapped, take, unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.subject import ModelSource, Training

FEW_ROWS = 4
LEAST_ROWS = 2  # of a step that is shortened to fit the budget
FLOAT64_LIMIT = 60_000_000  # parameters: above, the copy keeps its own precision to bound memory


def build_bench(  # noqa: PLR0913 - what is run, on what, how
    source: ModelSource,
    batches: Sequence[Batch],
    training: Training,
    *,
    seed: int,
    device: str,
    exact: bool = True,
    seconds: float = math.inf,
) -> Bench:
    """Make the private copy, in float64 where the model runs in it.

    Args:
        source: Gives a fresh model.
        batches: What it is trained on, over and over.
        training: Loss and optimizer.
        seed: Of everything random.
        device: Where it runs.
        exact: Try float64; otherwise the model's own precision.
        seconds: That one step should take at most: slower ones get fewer rows.

    Raises:
        NndiagError: When the model cannot run on the batches at all.
    """
    choices = [(torch.float64, "eval"), (None, "eval"), (None, "train")] if exact else [(None, "eval"), (None, "train")]
    first: NndiagError | None = None
    unsteady: Bench | None = None
    for dtype, mode in choices:
        try:
            bench = _bench(source, batches, training, seed=seed, device=device, dtype=dtype, mode=mode)
            finite = _tried(bench, seconds)
            bench.choose_loss()
        except UsageError:
            raise
        except (NndiagError, RuntimeError, TypeError) as error:  # hard-coded float32, or in-place tricks of eval mode
            if dtype is None and first is None:
                first = (
                    error
                    if isinstance(error, NndiagError)
                    else NndiagError(f"the backward pass failed: {one_line(error)}")
                )
            continue
        if finite:
            return bench
        unsteady = unsteady or bench
    if unsteady is not None:
        return unsteady
    raise first or NndiagError("the model cannot be run")


def _bench(  # noqa: PLR0913 - the parts of a bench, all by name
    source: ModelSource,
    batches: Sequence[Batch],
    training: Training,
    *,
    seed: int,
    device: str,
    dtype: torch.dtype | None,
    mode: str,
) -> Bench:
    """Return a bench that has not run yet."""
    model = unwrapped(source.make()).to(device)
    if dtype is not None and sum(_size(item) for item in model.parameters()) > FLOAT64_LIMIT:
        dtype = None
    if dtype is not None:
        model = in_precision(model, dtype)
    own = next((item.dtype for item in model.parameters() if item.is_floating_point()), torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # dense gradients: every optimizer takes them
    norms = {name: item for name, item in model.named_modules() if isinstance(item, _BatchNorm | _InstanceNorm)}
    any_training = any(module.training for module in model.modules())
    frozen = frozenset(name for name, item in norms.items() if any_training and not item.training)

    def here(item: Tensor) -> Tensor:
        return item.to(device)

    def aimed(item: Tensor) -> Tensor:
        return item.to(device, dtype if item.is_floating_point() else None)

    feed = [Batch(mapped(item.inputs, here), mapped(item.targets, aimed), item.whole) for item in batches]
    start = {name: item.detach().clone() for name, item in state_of(model).items()}
    return Bench(model, feed, None, "", training, seed, own, start, frozen, quiet_mode=mode)


def _tried(bench: Bench, seconds: float) -> bool:
    """Run forward and backward on a few rows, then on as many as the time allows; return whether all is finite.

    Twice, because some models keep what evaluation mode computed, and with it a graph used up.
    """
    try:
        few = [take(bench.batches[0], FEW_ROWS)]
    except NndiagError:
        few = list(bench.batches)  # inputs without rows
    finite = _probed(bench, few)
    rows = batch_rows(bench.batches[0]) / batch_rows(few[0]) if few[0] is not bench.batches[0] else 1.0
    bench.seconds *= rows
    if bench.seconds > seconds:
        with contextlib.suppress(NndiagError):
            bench.shorten(seconds, LEAST_ROWS)
        return _probed(bench, few) and finite
    return _probed(bench, bench.batches) and finite


def _probed(bench: Bench, batches: Sequence[Batch]) -> bool:
    """One forward and backward; a batch too small for its own statistics goes by the running ones."""
    whole, known = bench.batches, bench.seconds
    bench.batches = batches
    try:
        return bench.probe()
    except NndiagError as error:
        if "more than 1" not in f"{error.message} {error.__cause__}":
            raise
        bench.frozen_norms = frozenset(
            name for name, item in bench.model.named_modules() if isinstance(item, _BatchNorm | _InstanceNorm)
        )
        return bench.probe()
    finally:
        if batches is not whole:
            bench.seconds = known or bench.seconds
        bench.batches = whole


def _size(item: Tensor) -> int:
    return 0 if isinstance(item, nn.UninitializedParameter) else item.numel()
