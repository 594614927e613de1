"""Models that can be had again and again: from a factory, from an instance, from a file of weights."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

_SLOW = 1.5  # seconds: a factory slower than this is called once and its product copied
_LARGE = 100_000_000  # parameters beyond which two builds are not compared bit by bit


@dataclass
class BuiltModel:
    """A model from a recipe, called under a seed.

    The first `make` builds twice. When both builds are equal and share nothing, the recipe is called again every
    time. Otherwise (a global model handed out again and again, a factory with a will of its own) the first build is
    kept and copied.
    """

    name: str
    where: Where
    build: Callable[[], nn.Module]
    seed: int = 0
    device: str = "cpu"
    note: str = ""  # what the report should say about the weights
    _kept: nn.Module | None = field(default=None, repr=False)
    _again: bool = field(default=False, repr=False)

    def make(self) -> nn.Module:
        """Return a private model, the same at every call."""
        from nndiag.lab.copying import private_copy

        if self._again:
            return self._fresh()
        if self._kept is None:
            begun = time.perf_counter()
            first = self._fresh()
            if time.perf_counter() - begun < _SLOW:
                second = self._fresh()
                if _twins(first, second):
                    self._again = True
                    return second
            self._kept = first
        return placed(private_copy(self._kept), self.device)

    def learnt(self) -> bool | None:
        """Whether the weights have been trained; None where nothing shows it.

        They have where the recipe loads them or moves them by an optimizer. They have not where other random draws
        give other weights, whatever seed the recipe sets itself.
        """
        import torch

        from nndiag.lab.borrow import fingerprint, reseeded
        from nndiag.lab.watch.built import loaded, moved, recording_construction

        own = self._kept if self._kept is not None else self._fresh()
        if "weights from" in self.note:
            return not _as_drawn(own)
        with reseeded(self.seed + 1), recording_construction(), torch.enable_grad():
            other = placed(self.build(), self.device)
        if moved(other):
            return True
        if fingerprint(own) != fingerprint(other) or _as_drawn(own):
            return False
        return True if loaded(other) else None

    def _fresh(self) -> nn.Module:
        from nndiag.lab.borrow import seeded
        from nndiag.lab.watch.built import recording_construction

        with seeded(self.seed), recording_construction():
            return placed(self.build(), self.device)


def _twins(first: nn.Module, second: nn.Module) -> bool:
    """Whether two builds are equal bit by bit without sharing a tensor."""
    from nndiag.lab.borrow import fingerprint

    tensors = {id(item) for item in (*first.parameters(), *first.buffers())}
    if first is second or any(id(item) in tensors for item in (*second.parameters(), *second.buffers())):
        return False
    if any(module is other for module, other in zip(first.modules(), second.modules(), strict=False)):
        return False
    if sum(item.numel() for item in first.parameters() if not _lazy(item)) > _LARGE:
        return True
    return fingerprint(first) == fingerprint(second)


def _as_drawn(model: nn.Module) -> bool:
    """Whether no bias and no gain has moved: each repeats one number, as most initialisers leave it.

    The first step of a training moves them apart; a model whose weights are all constant is one that never had a step.
    """
    items = [item.detach() for item in model.parameters() if not _lazy(item) and item.numel()]
    flat = [item for item in items if item.dim() == 1 and item.numel() > 1]
    moved = [item for item in (flat if len(flat) > 1 else items) if not bool((item == item.flatten()[0]).all())]
    return bool(items) and not moved


def placed(model: nn.Module, device: str) -> nn.Module:
    """Return the model on a device; one on the meta device stays there until weights are loaded into it."""
    return model if without_numbers(model) else model.to(device)


def without_numbers(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers on the meta device: shapes that hold no numbers."""
    return [name for name, item in (*model.named_parameters(), *model.named_buffers()) if item.is_meta]


def not_numbers(model: nn.Module) -> list[str]:
    """Return the names of parameters that hold NaN; a mask of infinities may be a parameter, NaN never is one."""
    real = [
        (name, item.detach())
        for name, item in model.named_parameters()
        if not _lazy(item) and item.is_floating_point() and item.dtype.itemsize > 1  # float8 cannot be summed
    ]
    # A NaN spoils the sum, which reads a tensor once and writes nothing.
    return [name for name, item in real if bool(item.sum().isnan()) and bool(item.isnan().any())]


def _lazy(item: Any) -> bool:
    from torch import nn

    return isinstance(item, nn.UninitializedParameter | nn.UninitializedBuffer)


@dataclass
class CopiedModel:
    """A model from an instance, which is copied as it is now and never handed out."""

    name: str
    where: Where
    instance: nn.Module
    device: str = "cpu"
    note: str = ""
    stored: bool = False  # read from a file

    def make(self) -> nn.Module:
        """Return a private copy."""
        from nndiag.lab.copying import private_copy

        return placed(private_copy(self.instance), self.device)

    def learnt(self) -> bool | None:
        """Whether the weights have been trained; None where nothing shows it."""
        from nndiag.lab.watch.built import loaded, moved

        if moved(self.instance):
            return True
        if _as_drawn(self.instance):
            return False
        return True if self.stored or loaded(self.instance) else None


@dataclass
class PreparedModel:
    """Another source's model with something done to it: weights loaded, lazy layers given their shapes."""

    source: Any
    prepare: Callable[[nn.Module], nn.Module]
    note: str = ""

    @property
    def name(self) -> str:
        """What the user typed."""
        return str(self.source.name)

    @property
    def where(self) -> Where:
        """Where the model is written."""
        place: Where = self.source.where
        return place

    def make(self) -> nn.Module:
        """Return the prepared model."""
        return self.prepare(self.source.make())

    def learnt(self) -> bool | None:
        """Whether the weights have been trained; None where nothing shows it."""
        if "weights from" in self.note:
            return not _as_drawn(self.make())
        asked = getattr(self.source, "learnt", None)
        return True if asked is None else asked()


@dataclass(frozen=True)
class WeightsFile:
    """Weights without a model: named tensors, read one at a time."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[], Iterator[tuple[str, Tensor]]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    where: Where = field(default_factory=Where)

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        import math

        return sum(math.prod(shape) for shape in self.shapes.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor, one at a time, in the order of the file. Bounded memory for safetensors."""
        return self.read()

    def make(self) -> nn.Module:
        """Refuse: weights alone cannot run."""
        raise NndiagError(
            f"{self.name} holds weights without a model",
            hint=f"name the model that they belong to: MODEL --weights {self.name}",
        )
