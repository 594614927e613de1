"""Targets for invented inputs: such that they can be learned, and that the loss accepts them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.load.invented.synthetic import taught_classes, taught_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor, nn

    from nndiag.core.subject import Training
    from nndiag.load.invented.guesses import Guess

    Aims = Callable[[Any, Generator], Any]

_KINDS = ("classes", "numbers", "bits", "tokens", "same", "none")


def targets_for(guess: Guess, model: nn.Module, output: Any, training: Training, seed: int) -> Aims:
    """Return a function of the inputs that gives targets.

    Args:
        guess: What the inputs are.
        model: Whose labels are asked for, where it computes its own loss.
        output: What it answered to four rows of the guess.
        training: A loss by name decides the kind; a user's function is tried on each kind.
        seed: Of the projections that targets are taught by.
    """
    from nndiag.lab.forward import main_output, takes
    from nndiag.lab.objective import own_loss

    if guess.labels is not None and takes(model, "labels"):
        return guess.labels
    main = main_output(output)
    if (own_loss(output) is not None and not takes(model, "labels")) or main.dim() == 0:
        return _none
    likely = _kind(guess, main, training)
    if callable(training.loss):
        for kind in dict.fromkeys((likely, *_KINDS)):
            if _accepts(training, output, aims := _of_kind(kind, main, seed), guess):
                return aims
    return _of_kind(likely, main, seed)


def _none(_inputs: Any, _generator: Any) -> None:
    """Give no target: the model returns its loss."""


def _kind(guess: Guess, main: Tensor, training: Training) -> str:
    """Say what targets suit an output: classes, tokens, same (the inputs), bits or numbers."""
    shape = tuple(main.shape[1:])
    asked = {"bce": "bits", "mse": "numbers", "l1": "numbers", "smooth_l1": "numbers", "huber": "numbers"}
    if isinstance(training.loss, str) and training.loss in asked:
        return asked[training.loss]
    if len(shape) == 2 and _source_of_tokens(guess.inputs(len(main), _generator()), main) is not None:
        return "tokens"
    if training.loss in {"cross_entropy", "nll"}:
        return "classes"
    if guess.sample is not None and shape == tuple(guess.sample):
        return "same"
    return "classes" if len(shape) == 1 and shape[0] > 1 else "numbers"


def _generator() -> Generator:
    import torch

    return torch.Generator().manual_seed(0)


def _source_of_tokens(inputs: Any, main: Tensor) -> Tensor | None:
    """Return the last input of ids that has an id for each row of scores: what a decoder was given."""
    from nndiag.lab.forward import tensors_in

    whole = [item for item in tensors_in(inputs) if not item.is_floating_point() and not item.is_complex()]
    fits = [item for item in whole if item.dim() == 2 and main.dim() == 3 and item.shape[1] == main.shape[1]]
    return fits[-1] if fits and str(fits[-1].dtype) != "torch.bool" else None


def _of_kind(kind: str, main: Tensor, seed: int) -> Aims:
    """Return the function that makes targets of one kind for outputs like `main`."""
    import torch

    from nndiag.lab.forward import main_input

    shape = tuple(main.shape[1:])

    def aims(inputs: Any, generator: Generator) -> Any:
        x = main_input(inputs)
        if x is None or kind == "none":
            return None
        rows = len(x)
        if kind == "classes":
            if len(shape) == 1 and shape[0] > 1:
                return taught_classes(x, shape[0], seed)
            return torch.randint(0, shape[0] if shape else 2, (rows, *shape[1:]), generator=generator)
        if kind == "tokens":
            words = _source_of_tokens(inputs, main)
            return torch.remainder(torch.roll(words, -1, 1), shape[-1]) if words is not None else None
        if kind == "same":
            return x.clone()
        numbers = taught_numbers(x, max(math.prod(shape), 1), seed).reshape(rows, *shape)
        return (numbers > 0).float() if kind == "bits" else numbers

    return aims


def _accepts(training: Training, output: Any, aims: Aims, guess: Guess) -> bool:
    """Whether the user's loss takes targets of this kind."""
    import torch

    from nndiag.lab.objective import users_objective

    try:
        inputs = guess.inputs(4, torch.Generator().manual_seed(0))
        loss = users_objective(training)(output, aims(inputs, torch.Generator().manual_seed(0)))
    except Exception:  # noqa: BLE001 - whatever the user's loss makes of targets that it was not written for
        return False
    return bool(torch.isfinite(loss))
