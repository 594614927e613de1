"""Where model and data meet: lazy layers get their shapes, labels their place, integers their type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.load.sources import PreparedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from nndiag.core.subject import DataSource, ModelSource


def joined(
    source: ModelSource | None, model: nn.Module, data: DataSource, first: Batch, *, given: bool
) -> tuple[ModelSource | None, DataSource]:
    """Make model and data meet: lazy layers get their shapes, labels their place, integers their type.

    Raises:
        NndiagError: The model does not take the user's data.
    """
    from nndiag.lab.fed import fed
    from nndiag.lab.forward import take, takes
    from nndiag.lab.objective import gives_loss, labelled

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
    if gives_loss(model, take(_through(steps, first), 4)):
        steps.append(lambda batch: fed(model, batch))
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
    if _is_pair(batch):
        given, aim = batch.inputs
        ways.insert(0, (_as_pair, f"'{given}' as inputs, '{aim}' as targets"))
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


def _is_pair(batch: Batch) -> bool:
    """Whether two tensors came under names of the data set's own, such as image and mask, and no targets."""
    from torch import Tensor

    named = batch.inputs
    if not isinstance(named, Mapping) or len(named) != 2 or batch.targets is not None:
        return False
    return all(isinstance(item, Tensor) for item in named.values())


def _as_pair(batch: Batch) -> Batch:
    """Read two named tensors in their order, as a tuple would be: inputs, then targets."""
    given, aim = batch.inputs.values()
    return replace(batch, inputs=given, targets=aim)


def _whole(batch: Batch) -> Batch:
    """Keep the rows of a batch together: nodes of a graph, layers that mix rows by a matrix of their number."""
    return replace(batch, whole=True)


def _run(model: nn.Module, batch: Batch, *, training: bool = False) -> None:
    import torch

    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.forward import call, take

    with borrow(model, weights=False), seeded(0), torch.no_grad():
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
