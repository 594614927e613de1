"""Which loss does this model train on? Named, inferred or the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.lab.borrow import borrow, seeded
from nndiag.lab.fed import fed, loss_in, without_targets
from nndiag.lab.forward import as_tensors, call, main_output, move, takes
from nndiag.lab.losses import LOSSES
from nndiag.lab.objective_fit import USERS, Objective, fitting, predicts_next
from nndiag.lab.watch.blame import users_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.subject import Batch, Training

__all__ = ["Objective", "gives_loss", "labelled", "loss_of", "own_loss", "predicts_next", "resolve_objective",
           "sample_output", "unreduced", "users_objective", "with_labels"]  # fmt: skip
_LOSS_KEYS = ("loss", "total_loss")


def resolve_objective(training: Training, model: nn.Module, batch: Batch) -> Objective:
    """Decide the loss from what the user said, else from what the model returns and what the targets are.

    The model is run once in eval mode, and given back as it was.

    Args:
        training: Holds the user's wish: a name, a function of (outputs, targets), or "auto".
        model: The model that will be trained.
        batch: One batch as it will be fed.

    Returns:
        The objective.

    Raises:
        UsageError: When the name is unknown.
        NndiagError: When no loss fits the outputs and targets; the hint says how to give one.
    """
    if callable(training.loss):
        return _users(training.loss)
    if training.loss != "auto":
        name = training.loss.lower().replace("-", "_")
        if name not in LOSSES:
            hint = did_you_mean(name, LOSSES, otherwise="take one of " + ", ".join(LOSSES))
            raise UsageError(f"no loss is called '{training.loss}'", hint=hint + ", or file.py:fn")
        return Objective(name, "as asked", LOSSES[name])
    output = sample_output(model, batch)
    own = own_loss if own_loss(output) is not None else _loss_in_tuple(model, batch, output)
    if own is None:
        return _infer(model, batch, output)
    try:
        fallback = _infer(model, batch, output).fn
    except NndiagError:  # nothing of torch's fits, which is why the model has a loss of its own
        fallback = _owns

    def fn(answer: Any, aims: Any) -> Tensor:
        loss = own(answer)  # None where the model was run without labels
        return loss if loss is not None else fallback(answer, aims)

    return Objective("own", "the model computes its loss itself", fn)


def _loss_in_tuple(model: nn.Module, batch: Batch, output: Any) -> Callable[[Any], Tensor | None] | None:
    """Return how to find the loss in the tuple of a model that was given its targets, if there is one in it."""
    bare = without_targets(batch)
    if bare is None or not isinstance(output, tuple | list):
        return None
    try:
        return loss_in(output, sample_output(model, bare))
    except NndiagError:  # it does not run without: the number that stands in its answer is its loss
        return loss_in(output, ())


def gives_loss(model: nn.Module, batch: Batch) -> bool:
    """Whether a model answers with a loss beside its outputs once its forward is given the targets.

    It is run twice in eval mode, and given back as it was.
    """
    asked = fed(model, batch)
    if asked is batch:
        return False
    try:
        output = sample_output(model, asked)
        bare = sample_output(model, batch)
        if main_output(output).dim() == 0:  # all that is left is the loss: nothing to look at
            return False
    except NndiagError:
        return False
    return loss_in(output, bare) is not None or (own_loss(output) is not None and own_loss(bare) is None)


def _owns(answer: Any, _aims: Any) -> Tensor:
    """Return the model's own loss."""
    loss = own_loss(answer)
    if loss is None:
        raise NndiagError("the model did not compute its loss", hint="its inputs need the labels: see with_labels")
    return loss


def users_objective(training: Training) -> Objective:
    """Return the objective of a user's loss function."""
    if not callable(training.loss):
        raise TypeError("the loss is no function")
    return _users(training.loss)


def sample_output(model: nn.Module, batch: Batch, *, seed: int = 0) -> Any:
    """Return what the model answers to a batch in eval mode; the model is given back as it was."""
    with borrow(model) as borrowed, seeded(seed), torch.enable_grad():
        borrowed.eval()
        return call(borrowed, batch.inputs)


def own_loss(output: Any) -> Tensor | None:
    """Return the loss that a model has put into its output, if it has."""
    for key in _LOSS_KEYS:
        value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1:
            return value.reshape(())
    return None


def unreduced(output: Any) -> tuple[int, ...] | None:
    """Return the shape of a loss that a model has put into its output without making one number of it."""
    for key in _LOSS_KEYS:
        value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() != 1:
            return tuple(value.shape)
    return None


def with_labels(model: nn.Module, batch: Batch) -> Batch:
    """Return the batch with its targets also under `labels`, where the forward asks for them.

    Hugging Face models compute their own loss then. Anything else stays as it is.
    """
    return labelled(batch) if takes(model, "labels") else batch


def labelled(batch: Batch) -> Batch:
    """Return a batch of named inputs with its targets also under `labels`."""
    if not isinstance(batch.inputs, Mapping) or batch.targets is None or "labels" in batch.inputs:
        return batch
    return replace(batch, inputs={**batch.inputs, "labels": batch.targets})


def loss_of(model: nn.Module, batch: Batch, objective: Objective) -> tuple[Tensor, Any]:
    """Run the model on a batch in its present mode.

    Returns:
        The loss, and the raw output.
    """
    device = next((item.device for item in model.parameters()), torch.device("cpu"))
    output = call(model, batch.inputs)
    return objective(output, move(batch.targets, device)), output


def _users(loss: Callable[..., Any]) -> Objective:
    """Wrap the user's loss; a class such as nn.CrossEntropyLoss is made first."""
    if isinstance(loss, type):
        loss = loss()
    name = getattr(loss, "__name__", type(loss).__name__)

    def fn(output: Any, targets: Any) -> Tensor:
        try:
            value = loss(output, targets)
        except Exception as error:
            bare = main_output(output) if not isinstance(output, Tensor) else None
            if bare is None:
                raise users_fault(f"the loss {name}", error) from error
            try:  # torch's own losses want the logits, not the dataclass around them
                value = loss(bare, targets)
            except Exception:  # noqa: BLE001 - the first complaint is the user's to read
                raise users_fault(f"the loss {name}", error) from error
        return _as_loss(value, name)

    return Objective(name, USERS, fn)


def _as_loss(value: Any, name: str) -> Tensor:
    """Return the number to minimise from what a loss function returned."""
    if isinstance(value, Mapping):
        value = value.get("loss", next(iter(value.values()), None))
    elif isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise NndiagError(f"the loss {name} returned {type(value).__name__}", hint="return a tensor")
    return value


def _infer(model: nn.Module, batch: Batch, output: Any) -> Objective:
    """The model's own loss where there are no targets, else what fits them."""
    targets = as_tensors(batch.targets)
    if not isinstance(targets, Tensor):
        if own_loss(output) is not None:
            return Objective("own", "the model computes its loss itself", _owns)
        main = main_output(output)
        if targets is None and main.dim() == 0:
            return Objective("own", "the model returns one number", lambda answer, _: main_output(answer))
        kind = "no targets" if targets is None else f"targets of type {type(targets).__name__}"
        raise NndiagError(f"{kind}: no loss can be inferred", hint="give --loss file.py:fn, of outputs and targets")
    return fitting(model, batch, main_output(output), targets)
