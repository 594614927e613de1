"""Making the private copy that the short trainings run on, in the precision that it runs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Batch
from nndiag.lab.bench import Bench, one_line, state_of
from nndiag.lab.forward import mapped, unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.subject import ModelSource, Training

FLOAT64_LIMIT = 60_000_000  # parameters: above, the copy keeps its own precision to bound memory


def build_bench(  # noqa: PLR0913 - what is run, on what, how
    source: ModelSource, batches: Sequence[Batch], training: Training, *, seed: int, device: str, exact: bool = True
) -> Bench:
    """Make the private copy, in float64 where the model runs in it.

    Args:
        source: Gives a fresh model.
        batches: What it is trained on, over and over.
        training: Loss and optimizer.
        seed: Of everything random.
        device: Where it runs.
        exact: Try float64; otherwise the model's own precision.

    Raises:
        NndiagError: When the model cannot run on the batches at all.
    """
    choices = [(torch.float64, "eval"), (None, "eval"), (None, "train")] if exact else [(None, "eval"), (None, "train")]
    first: NndiagError | None = None
    unsteady: Bench | None = None
    for dtype, mode in choices:
        try:
            bench, finite = _bench(source, batches, training, seed=seed, device=device, dtype=dtype, mode=mode)
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
) -> tuple[Bench, bool]:
    """Return a bench that has run once forward and backward, and whether all was finite."""
    model = unwrapped(source.make()).to(device)
    if dtype is not None and sum(_size(item) for item in model.parameters()) > FLOAT64_LIMIT:
        dtype = None
    if dtype is not None:
        model = model.to(dtype)
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
    bench = Bench(model, feed, None, "", training, seed, own, start, frozen, quiet_mode=mode)
    try:
        finite = bench.probe()
    except NndiagError as error:
        if "more than 1" not in f"{error.message} {error.__cause__}":
            raise
        bench.frozen_norms = frozenset(norms)  # a batch too small for its own statistics
        finite = bench.probe()
    if mode == "eval":
        bench.probe_again()
    bench.choose_loss()
    return bench, finite


def _size(item: Tensor) -> int:
    return 0 if isinstance(item, nn.UninitializedParameter) else item.numel()
