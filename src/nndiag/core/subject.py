"""What is examined: a recipe for a fresh model, its batches and how it is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nndiag.core.findings import Where
from nndiag.core.rules import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as training code yields it."""

    inputs: Any  # tensor, array, tuple (passed as *args) or dict (passed as **kwargs)
    targets: Any = None
    whole: bool = False  # its rows belong together (the nodes of one graph): the model runs on all of them or on none


class ModelSource(Protocol):
    """A model that can be had again and again."""

    @property
    def name(self) -> str:
        """What the user typed, or the class name of what he passed."""

    @property
    def where(self) -> Where:
        """Source file and line of the factory or class, where known."""

    def make(self) -> nn.Module:
        """Return a private model, identical at every call; the user's own object is never handed out."""


class WeightSource(Protocol):
    """Weights without a model: enough for the rules that look at numbers only."""

    @property
    def name(self) -> str:
        """What the user typed."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor by name, known before anything is read."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor one at a time, so that a large file is never in memory whole."""


class DataSource(Protocol):
    """Batches that can be read again and again in the same order."""

    @property
    def name(self) -> str:
        """What the user typed; for invented inputs, what they are."""

    @property
    def synthetic(self) -> bool:
        """Whether the inputs were invented."""

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches from the beginning; `size` is a wish that a user's own loader need not follow."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the user trains, as far as he said."""

    loss: str | Callable[..., Any] = "auto"
    optimizer: str | Callable[..., Any] | None = None
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)  # weight_decay, betas, momentum, fused …
    lr: float | None = None
    batch_size: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """How this examination is run."""

    seed: int = 0
    device: str = "cpu"  # resolved: never "auto"
    max_seconds: float = 60.0
    train: bool | None = None  # None: the command's default
    trust: bool = False
    selection: Selection = field(default_factory=Selection)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        """Budget that experiments may still use."""
        return self.max_seconds - (time.monotonic() - self.started)

    def wants(self, *codes: str) -> bool:
        """Whether any of these codes (or prefixes such as "SYM2") is selected."""
        return any(self.selection.touches(code) for code in codes)


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything a check may look at. Absent parts are None: the check says what it cannot judge."""

    name: str
    model: ModelSource | None = None
    data: DataSource | None = None
    serve: DataSource | None = None
    training: Training = field(default_factory=Training)
    run: Run = field(default_factory=Run)
    weights: WeightSource | None = None  # a file of weights given in place of a model; then `model` is None
    no_data: str = ""  # why `data` is None although a model is there: what was tried, for the reason of a Skip
    inputs: Mapping[str, Any] = field(default_factory=dict)  # a command's own material: labels, curve, tokens, recipe …
