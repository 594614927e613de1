"""Which loss fits these outputs and these targets? Told by their shapes and kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import as_tensors, main_input, main_output
from nndiag.lab.losses import LOSSES, fit_regression, token_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.subject import Batch

USERS = "the user's function"  # how an objective was come by


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


def fitting(model: nn.Module, batch: Batch, main: Tensor, targets: Tensor) -> Objective:
    """Return the loss that outputs and targets call for.

    Args:
        model: Tells whether it predicts the next token.
        batch: Its inputs tell whether the last axis of an output is a vocabulary.
        main: The outputs, with their graph: what they have been through last.
        targets: As the data gives them.

    Raises:
        NndiagError: When none fits; the hint says how to give one.
    """
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
    ended = "" if not (end := ends_with(main)) else f", on outputs that end with {end}"

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
    if ends_with(main) == "sigmoid":

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


def ends_with(main: Tensor) -> str:
    """Return which squashing the output has just been through, from its autograd node."""
    node = type(main.grad_fn).__name__ if main.grad_fn is not None else ""
    known = {
        "SigmoidBackward0": "sigmoid",
        "SoftmaxBackward0": "softmax",
        "LogSoftmaxBackward0": "log-softmax",
        "TanhBackward0": "tanh",
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
