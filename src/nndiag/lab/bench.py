"""A private copy of the user's model on which short trainings are run, each from the same start."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.bench_parts import PlainAdam, RandomTargets, finite
from nndiag.lab.borrow import seeded
from nndiag.lab.forward import batch_rows, call, take
from nndiag.lab.objective import own_loss, resolve_objective
from nndiag.lab.optimizers import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nndiag.core.subject import Training
    from nndiag.lab.objective import Objective

ONE_THREAD = 1_000_000  # numbers: below, handing work to a second thread costs more than it saves
DEFAULT_LR = 1e-3


class OutOfTimeError(Exception):
    """The deadline passed in the middle of an experiment: it has no result."""


@dataclass(slots=True)
class Trial:
    """What one short training did to the parameters."""

    losses: list[float] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    pull: dict[str, Tensor] = field(default_factory=dict)  # sum of |gradient|
    drift: dict[str, Tensor] = field(default_factory=dict)  # sum of gradients
    arrival: dict[str, list[float]] = field(default_factory=dict)  # rms gradient per step; NaN: not in the graph
    finite: bool = True

    @property
    def steps(self) -> int:
        """Optimizer steps made."""
        return len(self.losses)

    def level(self, step: int) -> float:
        """The largest rms gradient of any parameter at a step: what "no gradient" is compared with."""
        return max((seen[step] for seen in self.arrival.values() if not math.isnan(seen[step])), default=0.0)

    def strongest(self, name: str) -> float:
        """The largest share of the level that ever arrived at a parameter; NaN when the graph never held it."""
        shares = [
            value / self.level(step) if self.level(step) > 0 else 0.0
            for step, value in enumerate(self.arrival[name])
            if not math.isnan(value)
        ]
        return max(shares, default=math.nan)

    def first_arrival(self, name: str) -> int | None:
        """The step at which a parameter first got any gradient."""
        return next((step for step, value in enumerate(self.arrival[name]) if value > 0), None)

    def moved(self, name: str) -> Tensor:
        """The displacement of a parameter; minus the summed gradient where the optimizer did not move it."""
        step = self.after[name] - self.before[name]
        return step if bool(step.any()) else -self.drift[name]


@dataclass(slots=True)
class Bench:
    """A model, its batches and losses. `run` starts from the same weights every time."""

    model: nn.Module
    batches: Sequence[Batch]
    objective: Objective | None  # the user's; None without targets
    reason: str  # why there is none
    training: Training
    seed: int
    dtype: torch.dtype
    start: dict[str, Tensor]
    frozen_norms: frozenset[str]
    seconds: float = 0.0  # of one forward and backward, the quickest seen
    deadline: float = math.inf  # on the monotonic clock
    goes_with: dict[str, str] = field(default_factory=dict)  # bias of a product by hand -> the weight of that product
    quiet_mode: str = "eval"  # how dropout is switched off: evaluation mode, or training mode without dropout modules

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name, shared ones once."""
        return {name: item for name, item in self.model.named_parameters() if item.requires_grad}

    def probe(self) -> bool:
        """Run once forward and backward; return whether every output and gradient is finite."""
        with self.set_up(dropout=False), seeded(self.seed):
            begun = time.monotonic()
            try:
                output = call(self.model, self.batches[0].inputs)
                loss = RandomTargets(self.seed)(output)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                grads = [item.grad for item in self.model.parameters() if item.grad is not None]
                return all(
                    finite(item)
                    for item in [loss.detach(), *(g.coalesce().values() if g.is_sparse else g for g in grads)]
                )
            finally:
                self.seconds = time.monotonic() - begun
                self.restore()

    def shorten(self, seconds: float, least: int) -> None:
        """Take fewer rows per step where one step costs more than this; never fewer than `least`."""
        if self.seconds <= seconds:
            return
        before = batch_rows(self.batches[0])
        rows = max(least, int(before * seconds / self.seconds))
        self.seconds *= min(1.0, rows / before)
        self.batches = [take(batch, rows) for batch in self.batches]

    def choose_loss(self) -> None:
        """Take the user's loss, or infer it; where there are no targets, say so."""
        with self.set_up(dropout=False), seeded(self.seed):
            try:
                if self.batches[0].targets is None and self.training.loss == "auto":
                    output = call(self.model, self.batches[0].inputs)
                    own = own_loss(output)
                    if own is None or not own.requires_grad:
                        self.reason = "the data has no targets"
                        return
                self.objective = resolve_objective(self.training, self.model, self.batches[0])
                if self.training.loss != "auto":  # the user's own may insist on a precision: better known now
                    self.objective(call(self.model, self.batches[0].inputs), self.batches[0].targets)
            except NndiagError as error:
                if self.training.loss != "auto":
                    raise
                self.reason = error.message
            finally:
                self.restore()

    def restore(self) -> None:
        """Put weights and buffers back to the start."""
        with torch.no_grad():
            for name, item in state_of(self.model).items():
                kept = self.start.get(name)
                if kept is not None and kept.shape == item.shape:  # a buffer may be a cache that the forward made
                    item.copy_(kept)
        for item in self.model.parameters():
            item.grad = None

    def run(  # noqa: PLR0913 - an experiment has these knobs, all by name
        self,
        steps: int,
        loss: Callable[[Any, Any], Tensor] | None = None,
        *,
        dropout: bool = False,
        alter: Callable[[nn.Module], None] | None = None,
        until: Callable[[Trial], bool] | None = None,
        on_step: Callable[[int, dict[str, nn.Parameter]], None] | None = None,
        batches: Sequence[Batch] | None = None,
    ) -> Trial:
        """Train for a few steps and return what happened; the weights are put back at the next run.

        Args:
            steps: At most so many.
            loss: Of output and targets; the user's by default, random targets where he gave none.
            dropout: Leave training noise on; otherwise only normalisers are in training mode.
            alter: Changes the weights before the first step.
            until: Ends the run early, asked after every step.
            on_step: Sees the parameters before step 0 and after every step.
            batches: Instead of the bench's own.

        Raises:
            OutOfTimeError: When the bench's deadline passed before the last step.
        """
        loss = loss or self.objective or RandomTargets(self.seed)
        feed = batches or self.batches
        with self.set_up(dropout=dropout), seeded(self.seed):
            self.restore()
            if alter is not None:
                with torch.no_grad():
                    alter(self.model)
            trial = Trial(before={name: item.detach().clone() for name, item in self.parameters.items()})
            trial.arrival = {name: [] for name in trial.before}
            optimizer = self._optimizer()
            if on_step is not None:
                on_step(0, self.parameters)
            begun = time.monotonic()
            for step in range(steps):
                if time.monotonic() > self.deadline:
                    self.restore()
                    raise OutOfTimeError
                self._step(trial, optimizer, loss, feed[step % len(feed)])
                if on_step is not None:
                    on_step(step + 1, self.parameters)
                if not trial.finite or (until is not None and until(trial)):
                    break
            self.seconds = min(self.seconds, (time.monotonic() - begun) / max(1, trial.steps))
            trial.after = {name: item.detach().clone() for name, item in self.parameters.items()}
            self.restore()
        return trial

    def _step(self, trial: Trial, optimizer: Any, loss: Callable[[Any, Any], Tensor], batch: Batch) -> None:
        for item in self.model.parameters():
            item.grad = None
        value = loss(call(self.model, batch.inputs), batch.targets)
        if value.requires_grad:
            try:
                value.backward()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise NndiagError(f"the backward pass failed: {one_line(error)}") from error
        trial.losses.append(float(value.detach()))
        for name, item in self.parameters.items():
            grad = item.grad
            if grad is None:
                trial.arrival[name].append(math.nan)
                continue
            grad = grad.to_dense() if grad.is_sparse else grad
            trial.arrival[name].append(float(grad.abs().square().mean().sqrt()) if grad.numel() else 0.0)
            if name in trial.pull:
                trial.pull[name] += grad.abs()
                trial.drift[name] += grad
            else:
                trial.pull[name], trial.drift[name] = grad.abs(), grad.clone()
        numbers = [trial.losses[-1], *(seen[-1] for seen in trial.arrival.values() if not math.isnan(seen[-1]))]
        trial.finite = all(math.isfinite(number) for number in numbers)
        if trial.finite:
            optimizer.step()

    def _optimizer(self) -> Any:
        if self.training.optimizer is None and not self.training.optimizer_args:
            return PlainAdam(list(self.parameters.values()), self.training.lr or DEFAULT_LR)
        return make_optimizer(self.training, self.model, self.training.lr)

    @contextlib.contextmanager
    def set_up(self, *, dropout: bool) -> Iterator[None]:
        """Modes and default dtype for one run."""
        default, threads = torch.get_default_dtype(), torch.get_num_threads()
        try:
            if sum(item.numel() for item in self.start.values()) < ONE_THREAD:
                torch.set_num_threads(1)
            if self.dtype.is_floating_point:
                torch.set_default_dtype(self.dtype)  # forwards that make their own zeros
            set_mode(self.model, self.frozen_norms, dropout=dropout, quiet_mode=self.quiet_mode)
            with torch.enable_grad():
                yield
        finally:
            torch.set_default_dtype(default)
            torch.set_num_threads(threads)


def set_mode(model: nn.Module, frozen: frozenset[str], *, dropout: bool, quiet_mode: str = "eval") -> None:
    """Dropout off means evaluation mode with normalisers in training mode, as far as the user left them so."""
    model.train(dropout or quiet_mode == "train")
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm | _InstanceNorm):
            module.training = name not in frozen
        if isinstance(module, _DropoutNd) and not dropout:
            module.training = False
        if isinstance(module, nn.RNNBase) and not dropout:
            module.training = True  # cuDNN differentiates recurrent layers in training mode only
            module.dropout = 0.0
        if any(hasattr(module, f"{own.removesuffix('_orig')}_u") for own, _ in module.named_parameters(recurse=False)):
            module.training = True  # nn.utils.spectral_norm iterates in training mode only: its first u is noise


def one_line(error: Exception) -> str:
    """The first line of what an exception says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each tensor once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        name: item for name, item in named if not isinstance(item, nn.UninitializedParameter | nn.UninitializedBuffer)
    }
