"""Assemble a Subject from what the user points at: a model, its data, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch, Run, Subject
from nndiag.load.data import data_of, load_data
from nndiag.load.model import load_model, source_of
from nndiag.load.sources import PreparedModel, WeightsFile
from nndiag.load.training import training_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn

    from nndiag.core.subject import DataSource, ModelSource, Training


def load_subject(  # noqa: PLR0913 - everything that a user can say about a subject
    model: Any = None,
    data: Any = None,
    *,
    model_args: Mapping[str, Any] | Iterable[str] | None = None,
    weights: Any = None,
    serve: Any = None,
    loss: Any = "auto",
    optimizer: Any = None,
    optimizer_args: Mapping[str, Any] | Iterable[str] | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    run: Run | None = None,
    inputs: Mapping[str, Any] | None = None,
    need_data: bool = True,
    target_column: str | None = None,
) -> Subject:
    """Load a model and its data; texts are targets as typed, anything else is a live object.

    Args:
        model: A MODEL target or object; None when a command looks at data or numbers only.
        data: A DATA target or object.
        model_args: For a factory.
        weights: A file of weights for the model.
        serve: A second DATA: what the model meets when it serves.
        loss: A name, `file.py:fn`, or a function of outputs and targets.
        optimizer: A name, `file.py:fn`, a class, or a function of parameters.
        optimizer_args: weight_decay, betas and the like.
        lr: Learning rate.
        batch_size: Rows in a batch.
        steps: Steps of micro-training.
        run: Seed, device, trust and budget.
        inputs: The command's own material, handed on.
        need_data: Whether inputs are invented when no data is given.
        target_column: In tables, the column that is the target.

    Returns:
        The subject. Its `weights` is set, and its `model` is None, when only weights were given.

    Raises:
        UsageError: Something named does not exist.
        NndiagError: The model or its data cannot be loaded, or the model does not take the data.
    """
    run = run or Run()
    source = _model(model, model_args, weights, run)
    training = training_from(
        (model, data),
        loss=loss,
        optimizer=optimizer,
        optimizer_args=optimizer_args,
        lr=lr,
        batch_size=batch_size,
        steps=steps,
    )
    alone = source if isinstance(source, WeightsFile) else None
    live = source if not isinstance(source, WeightsFile) else None
    probe = live.make() if live is not None and (data is not None or need_data) else None
    batches = _data(data, probe, training, run, target_column)
    missing = ""
    if batches is None and probe is not None and need_data:
        batches, missing = _invented(probe, training, run)
    if probe is not None and batches is not None:
        first = next(iter(batches.batches(training.batch_size)))
        live, batches = _joined(live, probe, batches, first, given=data is not None)
    served = _data(serve, probe, training, run, target_column)
    return Subject(
        name=_name(data, source),
        model=live,
        data=batches,
        serve=served,
        training=training,
        run=run,
        weights=alone,
        no_data=missing,
        inputs=dict(inputs or {}),
    )


def _model(
    model: Any, args: Mapping[str, Any] | Iterable[str] | None, weights: Any, run: Run
) -> ModelSource | WeightsFile | None:
    if model is None:
        return None
    if isinstance(model, str):
        path = str(weights) if weights is not None else None
        return load_model(model, args=args, weights=path, seed=run.seed, device=run.device, trust=run.trust)
    source = source_of(model, seed=run.seed, device=run.device)
    if weights is None or isinstance(source, WeightsFile):
        return source
    from nndiag.load.fitting import fitted_weights
    from nndiag.load.weights import load_weights

    opened = load_weights(str(weights), trust=run.trust)
    return PreparedModel(source, lambda made: fitted_weights(made, opened), f"weights from {weights}")


def _data(data: Any, model: nn.Module | None, training: Training, run: Run, column: str | None) -> DataSource | None:
    if data is None:
        return None
    size = training.batch_size
    if isinstance(data, str):
        return load_data(data, model=model, column=column, batch_size=size, seed=run.seed)
    return data_of(data, model=model, batch_size=size, seed=run.seed)


def _invented(model: nn.Module, training: Training, run: Run) -> tuple[DataSource | None, str]:
    from nndiag.load.invent import invent

    found = invent(model, training, size=training.batch_size, seed=run.seed)
    return found.data, found.why


def _joined(
    source: ModelSource | None, model: nn.Module, data: DataSource, first: Batch, *, given: bool
) -> tuple[ModelSource | None, DataSource]:
    """Make model and data meet: lazy layers get their shapes, labels their place, integers their type.

    Raises:
        NndiagError: The model does not take the user's data.
    """
    from nndiag.lab.forward import takes
    from nndiag.lab.objective import labelled

    if _is_lazy(model) and source is not None:
        source = PreparedModel(source, lambda made: _settled(made, first), "lazy layers took shapes from the data")
        model = source.make()
    if not given:
        return source, data
    steps: list[Callable[[Batch], Batch]] = []
    notes = []
    if first.targets is None and (aim := _own_target(model, first)) is not None:
        steps.append(lambda batch: replace(batch, targets=aim(batch)))
        notes.append("inputs as targets")
    if takes(model, "labels"):
        steps.append(labelled)
    for change, note in _needed(model, _through(steps, first)):
        steps.append(change)
        notes.append(note)
    if not steps:
        return source, data
    return source, FittedData(data, lambda batch: _through(steps, batch), ", ".join(notes))


def _through(steps: list[Callable[[Batch], Batch]], batch: Batch) -> Batch:
    for step in steps:
        batch = step(batch)
    return batch


def _own_target(model: nn.Module, batch: Batch) -> Callable[[Batch], Any] | None:
    """Return how a causal language model finds its targets in its inputs; None for any other model."""
    from nndiag.lab.forward import main_input, takes
    from nndiag.lab.objective import predicts_next

    if takes(model, "labels") and predicts_next(model) and isinstance(batch.inputs, Mapping):
        return lambda given: main_input(given.inputs)
    return None


@dataclass(frozen=True)
class FittedData:
    """The user's batches as his model takes them."""

    source: DataSource
    change: Callable[[Batch], Batch]
    note: str = ""

    @property
    def name(self) -> str:
        """What the user typed, and what was done to it."""
        return f"{self.source.name} ({self.note})" if self.note else self.source.name

    @property
    def synthetic(self) -> bool:
        """Whether the inputs were invented."""
        return self.source.synthetic

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield the batches, changed."""
        for batch in self.source.batches(size):
            yield self.change(batch)


def _needed(model: nn.Module, batch: Batch) -> list[tuple[Callable[[Batch], Batch], str]]:
    """Return what must be done to the data before the model takes them, and what to call it.

    Raises:
        NndiagError: It takes them in no way.
    """
    refused = _refusal(model, batch)
    if refused is None:
        return []
    ways: list[tuple[Callable[[Batch], Batch], str]] = [(_whole, "whole batches")]
    if _has_integers(batch.inputs):
        ways.insert(0, (_as_floats, "integers as float32"))
    for way in ways:
        if _refusal(model, way[0](batch)) is None:
            return [way]
    if _refusal(model, batch, training=True) is not None:
        raise NndiagError(
            f"the model does not run on the data: {refused.message}", hint=refused.hint
        ) from refused.__cause__
    return []  # it runs in training mode only; each check says what it misses then


def _refusal(model: nn.Module, batch: Batch, *, training: bool = False) -> NndiagError | None:
    try:
        _run(model, batch, training=training)
    except NndiagError as error:
        return error
    return None


def _whole(batch: Batch) -> Batch:
    """Keep the rows of a batch together: nodes of a graph, layers that mix rows by a matrix of their number."""
    return replace(batch, whole=True)


def _run(model: nn.Module, batch: Batch, *, training: bool = False) -> None:
    import torch

    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.forward import call, take

    with borrow(model), seeded(0), torch.no_grad():
        model.train(training)
        call(model, take(batch, 4).inputs)


def _has_integers(inputs: Any) -> bool:
    from nndiag.lab.forward import as_tensors, tensors_in

    return any(not item.is_floating_point() for item in tensors_in(as_tensors(inputs)))


def _as_floats(batch: Batch) -> Batch:
    from nndiag.lab.forward import mapped

    return replace(batch, inputs=mapped(batch.inputs, lambda item: item if item.is_floating_point() else item.float()))


def _is_lazy(model: nn.Module) -> bool:
    from torch import nn

    return any(
        isinstance(item, nn.UninitializedParameter | nn.UninitializedBuffer)
        for item in (*model.parameters(), *model.buffers())
    )


def _settled(model: nn.Module, batch: Batch) -> nn.Module:
    """Give lazy layers their shapes by one forward in eval mode, under a seed."""
    import torch

    from nndiag.lab.borrow import seeded
    from nndiag.lab.forward import call

    modes = [(module, module.training) for module in model.modules()]
    with seeded(0), torch.no_grad():
        model.eval()
        call(model, batch.inputs)
    for module, mode in modes:
        module.training = mode
    return model


def _name(data: Any, source: Any) -> str:
    if source is not None:
        return str(source.name)
    return str(data) if isinstance(data, str) else (type(data).__name__ if data is not None else "")
