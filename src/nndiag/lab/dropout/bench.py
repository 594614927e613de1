"""A model on the bench: played in training and eval mode under any script, with batch norm held to the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nndiag.core.errors import NndiagError
from nndiag.lab.borrow import seeded
from nndiag.lab.dropout.graph import Chance, Seen
from nndiag.lab.dropout.player import Player
from nndiag.lab.dropout.script import Script
from nndiag.lab.flops import FlopCounter
from nndiag.lab.forward import batch_rows, call, tensors_in, unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nndiag.core.subject import Batch
    from nndiag.lab.dropout.graph import Film, Key

_ORDER = 64  # units of rounding that another order of summation makes, at most
_ROUNDING = 1e-3  # of the output's spread: the mean rate of a hand-written mask is known to this


@dataclass(frozen=True)
class Take:
    """One played forward."""

    film: Film
    output: Any


@dataclass(frozen=True)
class EvalVerdict:
    """Whether eval mode is deterministic, and what is random in it when it is not."""

    same: bool  # two passes under different seeds agreed bit for bit
    same_seed: bool  # two passes under one seed did
    difference: float  # largest difference, in units of the output's standard deviation
    acting: tuple[Seen, ...]  # dropouts that drop in eval mode
    chances: tuple[Chance, ...]
    compared: int  # tensors
    error: str = ""  # the forward failed in eval mode
    rounding: bool = False  # they differ by no more than an order of summation explains


class Bench:
    """A private model and a batch. The model is never given back, so its state may be used up."""

    def __init__(self, model: nn.Module, batch: Batch, *, seed: int) -> None:
        """Take a model and the batch it is examined on."""
        model = unwrapped(model)
        self.model, self.batch, self.seed = model, batch, seed
        self.keras = type(model).__module__.startswith("keras") or any(
            base.__module__.startswith("keras") for base in type(model).__mro__
        )
        self.grad = False
        self._drawn: dict[bool, frozenset[int]] = {}  # by mode
        self.rows = _rows(batch)
        model.train()
        self.learning = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]

    def settled(self) -> frozenset[str]:
        """Batch norms whose running variance is no longer the 1 it starts from. Ask before any training pass."""
        found = {name: getattr(module, "running_var", None) for name, module in self.model.named_modules()}
        return frozenset(n for n, v in found.items() if isinstance(v, Tensor) and bool((v != 1).any()))

    def eval_verdict(self) -> EvalVerdict:
        """Run eval mode as it is, twice under different seeds, and name what is random."""
        try:
            first = self._plain(self.seed)
            second = self._plain(self.seed + 1)
            taken = self.play(Script(), training=False, seed=self.seed, hold=False)
        except NndiagError as error:
            return EvalVerdict(
                same=True, same_seed=True, difference=0.0, acting=(), chances=(), compared=0, error=error.message
            )
        same, gap, rounding = _compare(first, second)
        again = same or _compare(first, self._plain(self.seed))[0]
        acting = tuple(seen for seen in taken.film.sites if seen.dial.acts)
        chances, count = tuple(taken.film.chances), len(tensors_in(first))
        return EvalVerdict(same, again, gap, acting, chances, count, rounding=rounding)

    def play(self, script: Script, *, training: bool, seed: int, hold: bool = True) -> Take:
        """Run one forward under a script.

        Args:
            script: What dropouts do and who watches.
            training: The mode.
            seed: Of torch, NumPy and Python.
            hold: In eval mode, let batch norm normalise by the batch as in training: what differs is dropout alone.
        """
        if training in self._drawn:
            return self._played(replace(script, drawn=self._drawn[training]), training=training, seed=seed, hold=hold)
        first = self._played(script, training=training, seed=seed, hold=hold)
        self._drawn[training] = frozenset()
        if not first.film.foreign:
            return first
        other = self._played(Script(places=False), training=training, seed=seed + 1, hold=hold)
        if len(first.film.foreign) != len(other.film.foreign):
            return first  # chance decides which layers run: nothing is known about any one of them
        pairs = zip(first.film.foreign, other.film.foreign, strict=True)
        self._drawn[training] = frozenset(order for order, (a, b) in enumerate(pairs) if a != b)
        return self.play(script, training=training, seed=seed, hold=hold) if self._drawn[training] else first

    def _played(self, script: Script, *, training: bool, seed: int, hold: bool) -> Take:
        self._mode(training=training, hold=hold)
        player = Player(self.model, script)
        more = {"training": training} if self.keras else {}
        with seeded(seed), torch.set_grad_enabled(self.grad):
            output = player.play(self.batch.inputs, **more)
        return Take(player.film, output)

    def rest_differs(self, rates: Mapping[Key, float]) -> bool:
        """Whether training stays random when every dropout that was found passes its mean on."""
        first, second = (
            self.play(Script(off=True, rates=rates, places=False), training=True, seed=self.seed + more).output
            for more in (0, 1)
        )
        same, gap, _ = _compare(first, second)
        return not same and gap > _ROUNDING

    def work(self) -> int:
        """Return the operations of one training forward, as torch counts them; autograd is on if it must be.

        Counted, not timed: equal runs must choose equal samples.
        """
        self._mode(training=True, hold=True)
        for grad in (False, True):
            self.grad = grad
            try:
                with FlopCounter() as counter:
                    self._plain(self.seed, training=True)
            except NndiagError:
                if grad:
                    self.grad = False
                    raise
                continue
            return int(counter.total)
        return 0  # unreachable: the loop returns or raises

    def training_output(self) -> Any:
        """What one training forward as it is puts out, under the autograd mode that `grad` says."""
        return self._plain(self.seed, training=True)

    def _plain(self, seed: int, *, training: bool = False) -> Any:
        self._mode(training=training, hold=False)
        with seeded(seed), torch.set_grad_enabled(self.grad):
            if self.keras:
                return self.model(self.batch.inputs, training=training)
            return call(self.model, self.batch.inputs)

    def _mode(self, *, training: bool, hold: bool) -> None:
        self.model.train(training)
        alone = self.rows < 2
        for norm in self.learning:
            if alone:
                norm.training = False  # one sample has no batch statistics
            elif hold:
                norm.training = True


def _rows(batch: Batch) -> int:
    try:
        return batch_rows(batch)
    except NndiagError:
        return 0


def _compare(first: Any, second: Any) -> tuple[bool, float, bool]:
    """Whether two outputs are bit for bit the same, how far apart they are, and whether that is rounding alone."""
    left, right = ([part for item in tensors_in(out) for part in _parts(item)] for out in (first, second))
    if len(left) != len(right):
        return False, float("inf"), False
    worst, same, rounding = 0.0, True, True
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            return False, float("inf"), False
        if torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) if a.is_floating_point() else torch.equal(a, b):
            continue
        same = False
        if a.is_floating_point():
            worst = max(worst, _distance(a.double(), b.double()))
            finest = _ORDER * torch.finfo(a.dtype).eps * float(a.abs().max())
            rounding = rounding and float((a.double() - b.double()).abs().max()) <= finest
        else:
            rounding = False
    return same, worst, rounding


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor itself; of a nested one its parts, which alone have a shape."""
    return tensor.unbind() if tensor.is_nested else (tensor,)


def _distance(a: Tensor, b: Tensor) -> float:
    spread = float(a.std(unbiased=False)) if a.numel() > 1 else float(a.abs().max())
    return float((a - b).abs().max()) / max(spread, 1e-12)
