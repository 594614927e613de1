"""Inputs for a model that came without data: what could its forward take? Tried by running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.load.aims import targets_for
from nndiag.load.guesses import Guess, guesses
from nndiag.load.synthetic import SyntheticData

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, nn

    from nndiag.core.subject import Training

_SECONDS = 20.0  # for all attempts together
_ENOUGH = 3  # different kinds of inputs that all end alike before the forward itself is blamed
_ELEMENTS = 1 << 23  # numbers in the inputs and outputs of one batch
_LARGE = 50_000_000  # parameters beyond which batches are small
# Errors that wrong inputs cause; others are the forward's own.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError, OverflowError)


@dataclass(frozen=True, slots=True)
class Invented:
    """The data, or why there is none."""

    data: SyntheticData | None
    why: str = ""


def invent(model: nn.Module, training: Training, *, size: int | None = None, seed: int = 0) -> Invented:
    """Invent inputs that the model's forward accepts, and targets that its loss accepts.

    Args:
        model: Given back as it was.
        training: The loss decides what targets must be; "auto" lets the output decide.
        size: Rows of a batch; 32 by default, 8 for large models.
        seed: Of the inputs.

    Returns:
        The data with what was invented in its name, or the reason why nothing fits.

    Raises:
        NndiagError: The forward fails in a way that no other input would cure.
    """
    import time

    from nndiag.lab.forward import takes

    parameters = sum(item.numel() for item in model.parameters() if not _lazy(item))
    rows = size or (32 if parameters < _LARGE else 8)
    deadline = time.monotonic() + _SECONDS
    tried: list[str] = []
    last: NndiagError | None = None
    own: NndiagError | None = None
    said_so: set[str] = set()
    for guess in guesses(model):
        if time.monotonic() > deadline:
            break
        tried.append(guess.text)
        try:
            output = _try(model, guess, 4)
        except NndiagError as error:
            last = last or error
            said_so.add(error.message)
            if not isinstance(error.__cause__, (*_MISFITS, type(None))) and not _lacks_an_argument(error.__cause__):
                own = own or error
            continue
        aims = targets_for(guess, model, output, training, seed)
        rows = min(rows, _affordable(guess, output))
        labels = takes(model, "labels") and _takes_labels(model, guess, aims)
        return Invented(_source(guess, aims, rows, seed, labels=labels))
    if own is not None:
        raise own
    if last is not None and len(said_so) == 1 and len(tried) >= _ENOUGH and _raised_by_user(last.__cause__):
        raise last
    if last is None:
        return Invented(None, "no inputs could be invented for this model: give DATA")
    said = f"{len(tried)} kinds of inputs were tried ({tried[0]} …): {last.message}"
    return Invented(None, f"no inputs could be invented, give DATA; {said}")


def _raised_by_user(error: BaseException | None) -> bool:
    """Whether a `raise` of the user's own code ended the forward; an installed library's asks for other inputs."""
    import traceback

    if error is None or isinstance(error, AssertionError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "site-packages" not in frames[-1].filename and "raise" in (frames[-1].line or "").split()


def _lacks_an_argument(error: BaseException | None) -> bool:
    """Whether an installed library's forward fell over an optional argument that was left out: None has no shape."""
    import traceback

    if not isinstance(error, AttributeError) or "'NoneType' object" not in str(error):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "site-packages" in frames[-1].filename


def _lazy(item: Any) -> bool:
    from torch import nn

    return isinstance(item, nn.UninitializedParameter)


def _try(model: nn.Module, guess: Guess, rows: int) -> Any:
    """Run the model on a guess in eval mode; it is given back as it was."""
    import torch

    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.forward import call, main_output

    with borrow(model), seeded(0), torch.no_grad():
        model.eval()
        output = call(model, guess.inputs(rows, torch.Generator().manual_seed(0)))
        main_output(output)
        return output


def _affordable(guess: Guess, output: Any) -> int:
    """Return the rows whose inputs and outputs stay small: large images come few at a time."""
    import torch

    from nndiag.lab.forward import main_output, tensors_in

    inputs = tensors_in(guess.inputs(1, torch.Generator().manual_seed(0)))
    sample = sum(item.numel() for item in inputs) + main_output(output).numel() // 4
    return max(2, _ELEMENTS // max(sample, 1))


def _takes_labels(model: nn.Module, guess: Guess, aims: Callable[[Any, Generator], Any]) -> bool:
    """Whether the loss that the model computes by itself accepts these targets."""
    import torch

    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.forward import call

    inputs = guess.inputs(2, torch.Generator().manual_seed(0))
    if not isinstance(inputs, dict):
        return False
    targets = aims(inputs, torch.Generator().manual_seed(0))
    if targets is None:
        return False
    try:
        with borrow(model), seeded(0), torch.no_grad():
            model.eval()
            call(model, {**inputs, "labels": targets})
    except NndiagError:
        return False
    return True


def _source(
    guess: Guess, aims: Callable[[Any, Generator], Any], rows: int, seed: int, *, labels: bool
) -> SyntheticData:
    """Return the data of a guess that works."""
    from nndiag.core.subject import Batch
    from nndiag.lab.objective import labelled

    def make(count: int, generator: Generator) -> Batch:
        inputs = guess.inputs(count, generator)
        batch = Batch(inputs, aims(inputs, generator))
        return labelled(batch) if labels else batch

    return SyntheticData(f"invented inputs: {guess.text}", make, 8 * rows if rows < 64 else 512, rows, seed)
