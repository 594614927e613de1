"""Which loss does this model train on? Named, inferred or the model's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.lab.blame import users_fault
from nndiag.lab.borrow import borrow, seeded
from nndiag.lab.forward import as_tensors, call, main_input, main_output, move, takes
from nndiag.lab.losses import LOSSES, fit_regression, token_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.subject import Batch, Training

_LOSS_KEYS = ("loss", "total_loss")


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss of the model's raw output and the targets, and how it was come by."""

    name: str  # cross_entropy | bce | mse | … | the user's function | "own" for a loss the model computes itself
    how: str  # "inferred from integer targets"
    fn: Callable[[Any, Any], Tensor]

    def __call__(self, output: Any, targets: Any) -> Tensor:
        """Return the loss as one number that can be differentiated."""
        if isinstance(targets, Tensor) and (answer := _device_of(output)) is not None:
            targets = targets.to(answer)
        loss = self.fn(output, as_tensors(targets))
        return loss if loss.dim() == 0 else loss.mean()


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
    if own_loss(output) is None:
        return _infer(model, batch, output)
    try:
        fallback = _infer(model, batch, output).fn
    except NndiagError:  # nothing of torch's fits, which is why the model has a loss of its own
        fallback = _owns
    return Objective("own", "the model computes its loss itself", lambda answer, aims: _own_or(answer, aims, fallback))


def _own_or(answer: Any, aims: Any, fallback: Callable[[Any, Any], Tensor]) -> Tensor:
    """Return the model's own loss, or the fallback's where the model was run without labels."""
    loss = own_loss(answer)
    return loss if loss is not None else fallback(answer, aims)


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

    return Objective(name, "the user's function", fn)


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
    """Choose a loss by the shapes and kinds of outputs and targets."""
    targets = as_tensors(batch.targets)
    if not isinstance(targets, Tensor):
        if own_loss(output) is not None:
            return Objective("own", "the model computes its loss itself", _owns)
        main = main_output(output)
        if targets is None and main.dim() == 0:
            return Objective("own", "the model returns one number", lambda answer, _: main_output(answer))
        kind = "no targets" if targets is None else f"targets of type {type(targets).__name__}"
        raise NndiagError(f"{kind}: no loss can be inferred", hint="give --loss file.py:fn, of outputs and targets")
    main = main_output(output)
    for rule in (_classes, _binary, _soft, _regression):
        if (objective := rule(model, batch, main, targets)) is not None:
            return objective
    raise NndiagError(
        f"no loss fits outputs {tuple(main.shape)} and targets {tuple(targets.shape)} of {targets.dtype}",
        hint="give --loss cross_entropy, bce, mse or file.py:fn",
    )


def _classes(model: nn.Module, batch: Batch, main: Tensor, targets: Tensor) -> Objective | None:
    """Integer targets: class ids, per sample, token or pixel."""
    whole = not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.bool
    how = "inferred from integer targets"
    if not whole:
        # Class ids that came through a float table: 0.0, 2.0, 1.0 … against one score per class.
        flat = targets.dim() == 1 and main.dim() == 2 and main.shape[1] > 2
        if not flat or not bool(((targets == targets.round()) & (targets >= 0) & (targets < main.shape[1])).all()):
            return None
        how = "inferred from whole-numbered targets"
    if main.shape == targets.shape or main.dim() < 2 or main.shape[-1] == 1:
        return None
    axis = class_axis(main, targets, tokens=_of_tokens(batch))
    if axis is None:
        return None
    shifted = predicts_next(model) and main.dim() == 3 and axis == 2
    ended = "" if not (end := _ends_with(main)) else f", on outputs that end with {end}"

    def fn(output: Any, aims: Tensor) -> Tensor:
        return token_cross_entropy(main_output(output), aims, axis, shifted=shifted, probabilities=end == "softmax")

    return Objective("cross_entropy", how + (", one token ahead" if shifted else "") + ended, fn)


def class_axis(main: Tensor, targets: Tensor, *, tokens: bool) -> int | None:
    """Return the axis of the outputs that counts classes, or None where integer targets do not fit."""
    shape = targets.shape[:-1] if targets.dim() == main.dim() and targets.shape[-1] == 1 else targets.shape
    last = main.shape[:-1] == shape
    second = main.shape[:1] + main.shape[2:] == shape
    if last and (tokens or not second):
        return main.dim() - 1
    return 1 if second else None


def _binary(_model: nn.Module, _batch: Batch, main: Tensor, targets: Tensor) -> Objective | None:
    """Zeros and ones, one per output."""
    if targets.numel() != main.numel() or targets.is_complex():
        return None
    zeros_and_ones = bool(((targets == 0) | (targets == 1)).all())
    if not zeros_and_ones or (targets.is_floating_point() and main.dim() > 2):  # a black-and-white image
        return None
    if _ends_with(main) == "sigmoid":

        def fn(output: Any, aims: Tensor) -> Tensor:
            shares = main_output(output)
            return functional.binary_cross_entropy(shares, aims.to(shares.dtype).reshape(shares.shape))

        return Objective("bce", "inferred from 0/1 targets, on outputs that end with a sigmoid", fn)
    return Objective("bce", "inferred from 0/1 targets", LOSSES["bce"])


def _soft(_model: nn.Module, _batch: Batch, main: Tensor, targets: Tensor) -> Objective | None:
    """Rows that are distributions over two classes or more."""
    if not targets.is_floating_point() or targets.shape != main.shape or main.dim() != 2 or main.shape[1] < 2:
        return None
    if bool((targets >= 0).all()) and bool(
        torch.isclose(targets.double().sum(1), torch.ones(()).double(), atol=1e-4).all()
    ):
        return Objective("cross_entropy", "inferred from rows that are distributions", LOSSES["cross_entropy"])
    return None


def _regression(_model: nn.Module, _batch: Batch, main: Tensor, targets: Tensor) -> Objective | None:
    """Numbers, as many as there are outputs."""
    if main.is_complex() or fit_regression(main, targets) is None:
        return None
    kind = "real-valued" if targets.is_floating_point() else "integer"
    return Objective("mse", f"inferred from {kind} targets, one per output", LOSSES["mse"])


def _of_tokens(batch: Batch) -> bool:
    """Whether the inputs are integer ids, so that the last axis of an output is the vocabulary."""
    first = main_input(as_tensors(batch.inputs))
    return first is not None and not first.is_floating_point() and first.dim() == 2


def predicts_next(model: nn.Module) -> bool:
    """Whether the class is a causal language model by Hugging Face's naming, whose labels are not shifted yet."""
    names = {parent.__name__ for parent in type(model).__mro__}
    hugging = any(name == "PreTrainedModel" for name in names)
    return hugging and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _ends_with(main: Tensor) -> str:
    """Return which squashing the output has just been through, from its autograd node."""
    node = type(main.grad_fn).__name__ if main.grad_fn is not None else ""
    known = {
        "SigmoidBackward0": "sigmoid",
        "SoftmaxBackward0": "softmax",
        "LogSoftmaxBackward0": "log-softmax",
    }
    while node in {
        "ViewBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "UnsafeViewBackward0",
        "ReshapeAliasBackward0",
    }:
        assert main.grad_fn is not None  # the loop's own condition
        (behind, _), *_rest = main.grad_fn.next_functions
        return known.get(type(behind).__name__, "")
    return known.get(node, "")


def _device_of(output: Any) -> torch.device | None:
    return output.device if isinstance(output, Tensor) else None


def parameters_of(fn: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters, empty where they cannot be read."""
    try:
        return list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        return []
