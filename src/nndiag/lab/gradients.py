"""Gradients of shards against the gradient of the whole batch.

Names of axes: P coordinates of the gradient (all trainable parameters, or a sketch of them), S shards.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.borrow import seeded
from nndiag.lab.forward import batch_rows, in_precision, mapped, move, rows_of
from nndiag.lab.objective import loss_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nndiag.core.subject import DataSource
    from nndiag.lab.objective import Objective

SKETCH = 1 << 22  # coordinates kept of a longer gradient
HELD = 1 << 27  # coordinates held at once: one gigabyte in float64
ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-4}  # relative distance that finite precision explains


@dataclass(frozen=True, slots=True)
class Sums:
    """What a set of shards says about the whole batch's gradient."""

    weights: Tensor | None  # (S,) with Σ w_s g_s = whole; None when no weights do: the batch matters as a batch
    residual: float  # relative distance of the best sum
    uniform: bool  # whether all weights are equal


def flat_gradient(model: nn.Module, sketch: int = SKETCH, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return all gradients in one vector; a long one is sketched, in float64.

    The sketch adds coordinates with fixed random signs into `sketch` buckets (Charikar et al. 2002). It is linear, so
    sums and factors hold exactly, and inner products hold without bias.

    Returns:
        (P,)
    """
    pieces = [
        _coordinates(torch.zeros_like(item) if item.grad is None else item.grad)
        for item in model.parameters()
        if item.requires_grad
    ]
    if not pieces:
        raise NndiagError("the model has no trainable parameter", hint="there is no gradient to compare")
    total = sum(piece.numel() for piece in pieces)
    if total <= sketch:
        return torch.cat([piece.to(dtype).cpu() for piece in pieces])
    bins = torch.zeros(sketch, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    at = 0
    for piece in pieces:
        signs = torch.randint(0, 2, piece.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
        values = piece.double().cpu() * signs  # a copy: the gradient itself may still be accumulating
        for part in torch.split(values, sketch):
            first = min(len(part), sketch - at)
            bins[at : at + first] += part[:first]
            bins[: len(part) - first] += part[first:]
            at = (at + len(part)) % sketch
    return bins


def room_for(gradients: int) -> int:
    """Return how many coordinates each of so many gradients may keep."""
    return max(SKETCH, HELD // gradients)


def _coordinates(grad: Tensor) -> Tensor:
    """Return a gradient dense and real: both parts of a complex one."""
    grad = (grad.to_dense() if grad.is_sparse else grad).detach()
    return (torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad).flatten()


def gradient_of(  # noqa: PLR0913 - a measurement has these parts
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    *,
    seed: int = 0,
    sketch: int = SKETCH,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return the gradient of the loss on one batch, in the model's present mode.

    Returns:
        (P,) of `dtype`

    Raises:
        NndiagError: The loss depends on no parameter, or is not finite.
    """
    model.zero_grad(set_to_none=True)
    with seeded(seed), torch.enable_grad():
        loss, _ = loss_of(model, batch, objective)
        if not loss.requires_grad:
            raise NndiagError(
                "the loss does not depend on any parameter", hint="is the output detached, or a constant?"
            )
        if not bool(torch.isfinite(loss)):
            raise NndiagError(f"the loss is {float(loss.detach())}", hint="its gradient says nothing: check the data")
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as failed:  # such as an in-place change of what the backward pass needs
            said = str(failed).splitlines()[0] if str(failed) else type(failed).__name__
            raise NndiagError(
                f"the backward pass failed: {said[:160]}", hint="does one training step work?"
            ) from failed
    found = flat_gradient(model, sketch, dtype)
    model.zero_grad(set_to_none=True)
    return found


def unrest(model: nn.Module, batch: Batch, objective: Objective, *, seed: int = 0) -> float:
    """Return how far two equal calls under different seeds are apart, relative: 0 when losses and gradients are still.

    Gradients tell of noise that a factor of zero keeps from the loss: StyleGAN's starts so.
    """
    found = []
    for turn in (seed, seed + 1):
        with seeded(turn), torch.no_grad():
            found.append(float(loss_of(model, batch, objective)[0]))
    apart = abs(found[0] - found[1]) / max(abs(found[1]), 1e-300)
    with contextlib.suppress(NndiagError):  # a few rows may give no gradient where the whole batch does
        one, other = (gradient_of(model, batch, objective, seed=turn) for turn in (seed, seed + 1))
        apart = max(apart, relative(one, other)[0] if float(other.norm()) else 0.0)
    return apart


def whole_batch(data: DataSource, rows: int, device: str = "cpu") -> Batch | None:
    """Return up to `rows` rows of the data in one batch; None when there are none."""
    parts: list[Batch] = []
    held = 0
    for batch in data.batches(rows):
        size = batch_rows(batch)
        if parts and not _alike(parts[0], batch):
            break  # padded to another length: one batch alone must do
        parts.append(batch)
        held += size
        if held >= rows:
            break
    if not parts:
        return None
    joined = parts[0] if len(parts) == 1 else joined_batches(parts)
    whole: Batch = move(rows_of(joined, 0, min(rows, batch_rows(joined))), device)
    return whole


def _alike(first: Batch, other: Batch) -> bool:
    def shapes(batch: Batch) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []

        def note(item: Tensor) -> Tensor:
            found.append(tuple(item.shape[1:]))
            return item

        mapped(batch, note)
        return found

    return shapes(first) == shapes(other)


def _kept(kept: list[Tensor], item: Tensor) -> Tensor:
    kept.append(item)
    return item


def joined_batches(parts: Sequence[Batch]) -> Batch:
    """Return batches of one make end to end."""
    queues: list[list[Tensor]] = []
    for part in parts:
        found: list[Tensor] = []
        mapped(part, partial(_kept, found))
        queues.append(found)
    columns = iter([torch.cat(column) if column[0].dim() else column[0] for column in zip(*queues, strict=True)])
    joined: Batch = mapped(parts[0], lambda _item: next(columns))
    return joined


def split_rows(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Return consecutive shards of these sizes."""
    shards, start = [], 0
    for size in sizes:
        shards.append(rows_of(batch, start, start + size))
        start += size
    return shards


def shard_gradients(  # noqa: PLR0913 - as gradient_of
    model: nn.Module,
    shards: Iterable[Batch],
    objective: Objective,
    *,
    seed: int = 0,
    sketch: int = SKETCH,
    dtype: torch.dtype = torch.float64,
) -> Iterator[Tensor]:
    """Yield the gradient of each shard's own loss, (P,) each."""
    for shard in shards:
        yield gradient_of(model, shard, objective, seed=seed, sketch=sketch, dtype=dtype)


def explain_sum(parts: Tensor, whole: Tensor, counts: Sequence[Sequence[float]], tolerance: float) -> Sums:
    """Find weights w with Σ w_s g_s = whole, the plainest first: equal, by known counts, any.

    Args:
        parts: (S, P) gradients of shards.
        whole: (P,) gradient of the whole batch.
        counts: Candidates for what the weights are proportional to: samples, tokens.
        tolerance: Relative distance that rounding explains.
    """
    size = float(whole.norm())
    if size == 0:
        return Sums(None, 0.0, uniform=False)
    best = Sums(None, float("inf"), uniform=False)
    for shape in ([1.0] * len(parts), *counts):
        raw = torch.tensor(shape, dtype=torch.float64)
        direction = raw.to(parts.dtype) @ parts
        scale = float(direction @ whole) / max(float(direction @ direction), 1e-300)
        residual = float((scale * direction - whole).norm()) / size
        if residual <= tolerance:
            return Sums(scale * raw, residual, uniform=len(set(shape)) == 1)
        best = best if best.residual <= residual else Sums(None, residual, uniform=False)
    if len(parts) * 4 > len(whole):
        return best  # so few coordinates that some weights would always fit
    weights = torch.linalg.lstsq(parts.T, whole[:, None], driver="gelsd").solution[:, 0]  # (S,)
    residual = float((weights @ parts - whole).norm()) / size
    if residual <= tolerance:
        return Sums(weights.double(), residual, uniform=False)
    return Sums(None, min(residual, best.residual), uniform=False)


def scatter(parts: Tensor, whole: Tensor) -> float:
    """Return the standard error of the mean of the shards' gradients over the size of the whole batch's.

    That is how far another draw of the batch would move its gradient: sqrt(tr(Σ)/B) / |G|, from the shards.
    """
    count = len(parts)
    if count < 2:
        return 0.0
    apart = parts - parts.mean(0)
    return float(apart.norm()) / math.sqrt(count * (count - 1)) / max(float(whole.norm()), 1e-300)


def token_counts(shard: Batch) -> int:
    """Return how many targets count in this shard: -100 is ignored, as torch does."""
    targets = shard.targets
    if targets is None and isinstance(shard.inputs, dict):
        targets = shard.inputs.get("labels")
    if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() >= 1:
        return int((targets != -100).sum())
    return batch_rows(shard)


@contextlib.contextmanager
def precise(model: nn.Module) -> Iterator[nn.Module]:
    """Lend a model in float64, the oracle that rounding is told apart with; raises where it has no such kernels."""
    yield in_precision(model, torch.float64)


def still(model: nn.Module, *, batchnorm: bool = False) -> nn.Module:
    """Switch off what is random in training; `batchnorm` keeps batch norms normalising by the batch."""
    model.eval()
    if batchnorm:
        for module in batch_statistics(model):
            module[1].train()
    return model


def batch_statistics(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the batch norms that would normalise by the batch in training."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, _BatchNorm) and any(item.requires_grad for item in module.parameters() or []))
        or (isinstance(module, _BatchNorm) and not list(module.parameters()))
    ]


def relative(found: Tensor, right: Tensor) -> tuple[float, float]:
    """Return relative error and cosine of a gradient against the right one."""
    size = float(right.norm())
    other = float(found.norm())
    error = float((found - right).norm()) / size if size else float("inf")
    cosine = float(found @ right) / (size * other) if size and other else 0.0
    return error, cosine
