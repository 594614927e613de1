"""Inputs for a model that came without data: what could its forward take? Tried by running it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.load.invented.aims import targets_for
from nndiag.load.invented.guesses import Guess, guesses
from nndiag.load.invented.synthetic import SyntheticData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Generator, nn

    from nndiag.core.subject import Training

_SECONDS = 25.0  # for all attempts together
_LEAST = 5.0  # seconds for them, however small the budget is
_ENOUGH = 3  # different kinds of inputs that all end alike before the forward itself is blamed
_LONGEST = 8.0  # for one of them
_TRIALS = 120
_EACH, _DEPTH, _REPAIRS = 6, 5, 80  # repairs of one guess, in a row, in all
_ELEMENTS = 1 << 23  # numbers in the inputs and outputs of one batch
_KEPT = 2 << 30  # bytes of all that a batch computes
_NONE = Guess("", lambda _rows, _generator: None)  # no further guess
_LARGE = 50_000_000  # parameters beyond which batches are small
# Errors that wrong inputs cause; others are the forward's own.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError, OverflowError)


@dataclass(frozen=True, slots=True)
class Invented:
    """The data, or why there is none."""

    data: SyntheticData | None
    why: str = ""


def invent(
    model: nn.Module, training: Training, *, size: int | None = None, seed: int = 0, seconds: float = _SECONDS
) -> Invented:
    """Invent inputs that the model's forward accepts, and targets that its loss accepts.

    Args:
        model: A copy of our own, given back as it was but for weights that its own forward changes.
        training: The loss decides what targets must be; "auto" lets the output decide.
        size: Rows of a batch; 32 by default, 8 for large models.
        seed: Of the inputs.
        seconds: What is left of the user's budget.

    Returns:
        The data with what was invented in its name, or the reason why nothing fits.

    Raises:
        NndiagError: The forward fails in a way that no other input would cure.
    """
    from nndiag.lab.forward import takes

    if missing := getattr(model, "waits_for_data", ""):  # a Keras model that was never built: anything would fit it
        raise NndiagError(missing, hint="give DATA, call model.build((None, …)), or begin it with keras.Input(shape)")
    parameters = sum(item.numel() for item in model.parameters() if not _lazy(item))
    rows = size or (32 if parameters < _LARGE else 8)
    if (none := _has_no_forward(model)) is not None:
        return Invented(None, none)
    failed = _Failed(began=time.monotonic(), seconds=min(_SECONDS, max(_LEAST, seconds)))
    found: _Fits | None = None
    for guess in _in_turn(model, failed):
        try:
            output, kept = _try(model, guess, 4, failed)
            if guess.sample is None and guess.ids is None:  # of several parts: their sizes may have met by chance
                _try(model, guess, 6, failed)
            found = found or _Fits(guess, output, kept)
            failed.runs = True
            _try(model, guess, 4, failed, training=True)
        except NndiagError:
            continue
        found = _Fits(guess, output, kept)
        break
    if found is None:
        failed.blame()
        return Invented(None, failed.why)
    aims = targets_for(found.guess, model, found.output, training, seed)
    rows = min(rows, _affordable(found.guess, found.output, found.kept))
    labels = takes(model, "labels") and _takes_labels(model, found.guess, aims)
    return Invented(_source(found.guess, aims, rows, seed, labels=labels))


@dataclass(frozen=True, slots=True)
class _Fits:
    """A guess that the forward accepts: in training too, or at least in evaluation."""

    guess: Guess
    output: Any
    kept: int  # bytes that one sample leaves behind


def _has_no_forward(model: nn.Module) -> str | None:
    """Say so when a module was never meant to be called."""
    from torch import nn

    if getattr(model.forward, "__func__", model.forward) is nn.Module.forward:
        return f"{type(model).__name__} has no forward: give a module that calls it"
    return None


@dataclass
class _Failed:
    """The guesses that did not fit, and the error that tells most: of the one whose forward came furthest."""

    began: float
    seconds: float
    tried: list[str] = field(default_factory=list)
    last: NndiagError = field(default_factory=lambda: NndiagError("nothing was tried", hint=""))
    best: NndiagError | None = None
    far: int = -1  # operations that the best one's forward did
    best_text: str = ""
    own: NndiagError | None = None  # that no other inputs would cure
    said: set[str] = field(default_factory=set)
    runs: bool = False  # in evaluation one guess did: only what it lacks in training is still looked for

    @property
    def left(self) -> float:
        """Seconds."""
        return self.began + self.seconds - time.monotonic()

    def add(self, guess: Guess, error: NndiagError, operations: int) -> None:
        """Remember a failure."""
        self.last = error
        self.said.add(error.message)
        if operations > self.far:
            self.best, self.far, self.best_text = error, operations, guess.text
        if not isinstance(error.__cause__, (*_MISFITS, type(None))) and not _is_the_librarys(error.__cause__):
            self.own = self.own or error

    def blame(self) -> None:
        """Raise what is the forward's own fault."""
        if self.own is not None:
            raise self.own
        alike = len(self.said) == 1 and len(self.tried) >= _ENOUGH
        if self.best is not None and alike and _raised_by_user(self.best.__cause__):
            raise self.best

    @property
    def why(self) -> str:
        """What to say when nothing fits."""
        if self.best is None:
            return "no inputs could be invented for this model: give DATA"
        cut = ", until the time was up (--max-seconds)" if self.left <= 0 and self.seconds < _SECONDS else ""
        came = f"{len(self.tried)} kinds of inputs were tried{cut}; {self.best_text} came furthest: {self.best.message}"
        return f"no inputs could be invented, give DATA; {came}"


def _in_turn(model: nn.Module, failed: _Failed) -> Iterator[Guess]:
    """Yield guesses, each once; after one that failed, what its error asks for instead."""
    waiting: list[tuple[Guess, int]] = []
    plain = iter(guesses(model))
    seen: set[str] = set()
    repairs = 0
    while len(seen) < _TRIALS and failed.left > 0:
        guess, depth = waiting.pop(0) if waiting else (_NONE if failed.runs else next(plain, _NONE), 0)
        if guess is _NONE:
            return
        if guess.text in seen:
            continue
        seen.add(guess.text)
        failed.tried.append(guess.text)
        yield guess
        if guess.repair is not None and depth < _DEPTH and (repairs < _REPAIRS or failed.runs):
            fresh = (other for other in guess.repair(failed.last) if other.text not in seen)
            others = list(itertools.islice(fresh, _EACH))
            repairs += len(others)
            waiting = [(other, depth + 1) for other in others] + waiting


def _raised_by_user(error: BaseException | None) -> bool:
    """Whether a `raise` of the user's own code ended the forward; an installed library's asks for other inputs."""
    import traceback

    if error is None or isinstance(error, AssertionError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "site-packages" not in frames[-1].filename and "raise" in (frames[-1].line or "").split()


def _is_the_librarys(error: BaseException | None) -> bool:
    """Whether an installed library's forward fell over: an argument that was left out, or one of another kind."""
    import traceback

    if error is None:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "site-packages" in frames[-1].filename


def _lazy(item: Any) -> bool:
    from torch import nn

    return isinstance(item, nn.UninitializedParameter)


def _try(model: nn.Module, guess: Guess, rows: int, failed: _Failed, *, training: bool = False) -> tuple[Any, int]:
    """Run the model on a guess, within bounds of memory and time; it is given back as it was.

    Returns:
        The output, and the bytes of all that was computed on the way.
    """
    import torch

    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.forward import call, main_output
    from nndiag.lab.guard import Guard

    guard = Guard(min(max(failed.left, 1.0), _LONGEST))
    try:
        with borrow(model, weights=False), seeded(0), torch.no_grad():
            model.train(training)
            inputs = _made(guess, rows)
            with guard:
                output = call(model, inputs)
            _not_empty(main_output(output))
            return output, guard.produced // rows
    except NndiagError as error:
        failed.add(guess, error, guard.operations)
        raise


def _not_empty(output: Any) -> None:
    """Refuse a guess that a slice in the forward reaches past the end of."""
    if output.numel() == 0:
        raise NndiagError("the output is empty")


def _made(guess: Guess, rows: int) -> Any:
    """Make the inputs of a guess, which may be as wrong as any guess."""
    import torch

    try:
        return guess.inputs(rows, torch.Generator().manual_seed(0))
    except (RuntimeError, ValueError, TypeError, IndexError) as wrong:
        raise NndiagError(f"{guess.text} cannot be made: {wrong}", hint="") from None


def _affordable(guess: Guess, output: Any, kept: int) -> int:
    """Return the rows whose inputs, outputs and what training keeps of them stay small: large images come few."""
    import torch

    from nndiag.lab.forward import main_output, tensors_in

    inputs = tensors_in(guess.inputs(1, torch.Generator().manual_seed(0)))
    sample = sum(item.numel() for item in inputs) + main_output(output).numel() // 4
    return max(2, min(_ELEMENTS // max(sample, 1), _KEPT // max(kept, 1)))


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
        with borrow(model, weights=False), seeded(0), torch.no_grad():
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
        batch = Batch(inputs, aims(inputs, generator), whole=guess.whole)
        return labelled(batch) if labels else batch

    return SyntheticData(f"invented inputs: {guess.text}", make, 8 * rows if rows < 64 else 512, rows, seed)
