"""Assemble a Subject from what the user points at: a model, its data, and how it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Run, Subject
from nndiag.core.words import counted
from nndiag.lab.watch.blame import one_line
from nndiag.load.data import data_of, load_data
from nndiag.load.meeting import joined
from nndiag.load.model import load_model, source_of
from nndiag.load.sources import PreparedModel, WeightsFile, not_numbers, placed, without_numbers
from nndiag.load.training import training_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    said = {"loss": loss, "optimizer": optimizer, "optimizer_args": optimizer_args, "lr": lr}
    training = training_from((model, data), batch_size=batch_size, steps=steps, **said)
    alone, live = (source, None) if isinstance(source, WeightsFile) else (None, source)
    probe = _probe(live) if live is not None and (data is not None or need_data) else None
    live, batches, missing = _with_data(live, probe, _data(data, probe, training, run, target_column), training, run)
    return Subject(
        name=_name(data, source),
        model=live,
        data=batches,
        serve=_data(serve, probe, training, run, target_column),
        training=training,
        run=run,
        weights=alone,
        no_data=missing,
        inputs=dict(inputs or {}),
    )


def _probe(source: ModelSource) -> nn.Module:
    """Return a model to look at.

    Raises:
        NndiagError: It cannot be made, or has shapes without numbers, or NaN among its weights.
    """
    model = source.make()
    if empty := without_numbers(model):
        raise NndiagError(
            f"{source.name} is on the meta device: {one_line(empty, limit=3)} hold no numbers",
            hint="build it on the CPU, or give its --weights",
        )
    if bad := not_numbers(model):
        raise NndiagError(
            f"{counted(len(bad), 'tensor')} of {source.name} with NaN: {one_line(bad, limit=3)}",
            hint="was it saved after its training had diverged?",
        )
    return model


def _with_data(
    source: ModelSource | None, probe: nn.Module | None, given: DataSource | None, training: Training, run: Run
) -> tuple[ModelSource | None, DataSource | None, str]:
    """Return the model and its data, invented where none is given, ready for each other; or why there is no data."""
    batches, missing = given, ""
    if probe is not None and batches is None:
        batches, missing = _invented(probe, training, run)
    if probe is None or batches is None:
        return source, batches, missing
    first = next(iter(batches.batches(training.batch_size)))
    return *joined(source, probe, batches, first, given=given is not None), missing


def _model(
    model: Any, args: Mapping[str, Any] | Iterable[str] | None, weights: Any, run: Run
) -> ModelSource | WeightsFile | None:
    if model is None and weights is not None:  # weights alone are what there is to look at
        model, weights = str(weights), None
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
    return PreparedModel(
        source, lambda made: placed(fitted_weights(made, opened), run.device), f"weights from {weights}"
    )


def _data(data: Any, model: nn.Module | None, training: Training, run: Run, column: str | None) -> DataSource | None:
    if data is None:
        return None
    size = training.batch_size
    if isinstance(data, str):
        return load_data(data, model=model, column=column, batch_size=size, seed=run.seed)
    return data_of(data, model=model, batch_size=size, seed=run.seed)


def _invented(model: nn.Module, training: Training, run: Run) -> tuple[DataSource | None, str]:
    from nndiag.load.invented.invent import invent

    found = invent(model, training, size=training.batch_size, seed=run.seed, seconds=run.seconds_left)
    return found.data, found.why


def _name(data: Any, source: Any) -> str:
    if source is not None:
        return str(source.name)
    return str(data) if isinstance(data, str) else (type(data).__name__ if data is not None else "")
