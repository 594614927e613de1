"""The model with its data, ready for the rules that need both."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.checks.normalization.cure import range_name
from nndiag.checks.normalization.view import View
from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from nndiag.core.subject import Subject
    from nndiag.lab.firstlayer import FirstLayer, Standardiser
    from nndiag.lab.objective import Objective
    from nndiag.science.moments_profile import Profile

ROWS = 512  # looked at with the model
GROUP = 64


@dataclass(frozen=True)
class Bench:
    """Private models, a few batches, the loss, and the first layer with weights."""

    subject: Subject
    batches: tuple[Batch, ...]
    objective: Objective | None
    no_loss: str  # why there is no objective
    first: FirstLayer | None
    classes: int | None  # of a classifier
    outputs: int | None  # width of the answer
    dtype: str  # of the parameters

    def make(self, *, training: bool = True) -> nn.Module:
        """A private model in the given mode."""
        from nndiag.lab.watch.sites import set_mode

        assert self.subject.model is not None
        model = self.subject.model.make()
        set_mode(model, training=training)
        return model

    @property
    def batch(self) -> Batch:
        """The first batch, of at most 128 rows."""
        from nndiag.lab.forward import take

        return take(self.batches[0], 128)  # type: ignore[no-any-return]

    @property
    def rows(self) -> int:
        """How many rows the batches hold."""
        return sum(rows_in(batch) for batch in self.batches)


def prepare(subject: Subject) -> Bench:
    """Take a few batches, find the loss and the first layer.

    Raises:
        NndiagError: The model does not take the data.
        UsageError: No loss has the name that was asked for.
    """
    from nndiag.lab.firstlayer import first_layer
    from nndiag.lab.forward import main_output
    from nndiag.lab.objective import resolve_objective, sample_output

    assert subject.model is not None
    assert subject.data is not None
    model = subject.model.make()
    batches = tuple(_some(regrouped(subject.data.batches(subject.training.batch_size or GROUP))))
    if not batches:
        raise NndiagError(f"{subject.data.name} holds no rows", hint="give data with at least one sample")
    batches = (batches[0], *(one for one in batches[1:] if rows_in(one) > 1))
    output = main_output(sample_output(model, batches[0]))
    objective, why = None, ""
    try:
        objective = resolve_objective(subject.training, model, batches[0])
    except UsageError:  # a name that no loss has
        raise
    except NndiagError as missing:
        why = missing.message
    dtypes = {str(item.dtype).removeprefix("torch.") for item in model.parameters() if item.is_floating_point()}
    return Bench(
        subject,
        batches,
        objective,
        why,
        first_layer(model, batches[0]),
        None if _pairwise(model, batches[0], output) else _classes(output, batches[0], objective),
        int(output.shape[1]) if output.dim() == 2 else None,
        next(iter(dtypes)) if len(dtypes) == 1 else "",
    )


def rows_in(batch: Batch) -> int:
    """How many rows a batch holds."""
    from nndiag.lab.forward import batch_rows

    return batch_rows(batch)


def _some(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches up to a number of rows."""
    seen = 0
    for batch in itertools.islice(batches, 64):
        yield batch
        seen += rows_in(batch)
        if seen >= ROWS:
            return


def regrouped(batches: Iterator[Batch], least: int = 8) -> Iterator[Batch]:
    """Join batches of a few rows where they are plain tensors, so that batch statistics mean something."""
    import torch

    from nndiag.lab.forward import as_tensors

    waiting: list[Batch] = []
    for batch in batches:
        inputs, targets = as_tensors(batch.inputs), as_tensors(batch.targets)
        plain = isinstance(inputs, torch.Tensor) and (targets is None or isinstance(targets, torch.Tensor))
        if not plain or inputs.dim() == 0 or len(inputs) >= least:
            yield batch
            continue
        same = not waiting or waiting[0].inputs.shape[1:] == inputs.shape[1:]
        if not same:
            yield batch
            continue
        waiting.append(Batch(inputs, targets))
        if sum(len(one.inputs) for one in waiting) >= GROUP // 2:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Batch]) -> Batch:
    import torch

    aims = [part.targets for part in parts]
    whole = None if any(aim is None or aim.dim() == 0 for aim in aims) else torch.cat(aims)
    return Batch(torch.cat([part.inputs for part in parts]), whole)


def _classes(output: Any, batch: Batch, objective: Objective | None) -> int | None:
    """How many classes a classifier tells apart; None for anything else."""
    import torch

    from nndiag.lab.forward import as_tensors

    targets = as_tensors(batch.targets)
    whole = isinstance(targets, torch.Tensor) and not targets.is_floating_point()
    if objective is None or not whole or output.dim() < 2:
        return None
    if objective.name == "cross_entropy":
        axis = -1 if output.dim() in {2, 3} and output.shape[:-1] == targets.shape else 1
        return int(output.shape[axis]) if output.shape[axis] > 1 else None
    if objective.name == "own" and output.shape[:-1] == targets.shape and output.shape[-1] > 1:
        return int(output.shape[-1])
    return None


def _pairwise(model: nn.Module, batch: Batch, output: Any) -> bool:
    """Whether the answers compare the rows of a batch with one another, as a contrastive loss wants them."""
    from nndiag.lab.forward import main_output, take
    from nndiag.lab.objective import sample_output

    rows = rows_in(batch)
    if rows < 3 or output.dim() != 2 or tuple(output.shape) != (rows, rows):
        return False
    try:
        fewer = main_output(sample_output(model, take(batch, rows - 1)))
    except NndiagError:
        return True
    return tuple(fewer.shape) == (rows - 1, rows - 1)


def seen_by_first(bench: Bench, view: View) -> View:
    """What the first layer with weights reads: the data themselves, or what the model makes of them."""
    from nndiag.science.moments_profile import Profiler

    first = bench.first
    if first is None or first.raw:
        return view
    values = first.values.float().cpu().numpy()
    profiler = Profiler(first.axis if 0 < first.axis < values.ndim else None)
    profiler.add(values)
    profile = profiler.result()
    if profile is None or not (profile.moments.sd > 0).any():
        return view  # nothing is left of the data where it reads: what was fed is to be judged
    name = f"'{first.name}'" if first.name else first.where.cls or "the first layer"
    return View(profile, f"the values that {name} reads", (), first.normaliser or "arithmetic in the model")


def standardiser(profile: Profile) -> Standardiser:
    """The transform that would be inserted: per feature, or one for all pixels."""
    import numpy as np
    import torch

    from nndiag.lab.firstlayer import Standardiser

    moments = profile.moments
    mean, sd = moments.mean, np.where(moments.sd > 0, moments.sd, 1.0)
    pooled = range_name(profile) and profile.layout.kind == "table"
    if pooled:
        mean = np.full_like(mean, profile.finite_sample.mean())
        sd = np.full_like(sd, max(float(profile.finite_sample.std()), 1e-12))
    return Standardiser(torch.from_numpy(mean.copy()), torch.from_numpy(sd.copy()), profile.layout.axis)


def can_standardise(bench: Bench) -> str:
    """Why raw and standardised inputs cannot be compared for this model; empty when they can."""
    first = bench.first
    if first is None:
        return "no layer with weights reads the inputs"
    if first.kind == "embedding":
        return "the inputs are ids of an embedding"
    if first.normaliser:
        return f"the model begins with {first.normaliser}: it is scale-free in training"
    if not first.raw:
        return "the model prepares its inputs itself"
    return ""
