"""What does the model's own `training_step` hand to its loss? Seen by running it, as Lightning would."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nndiag.core.findings import Where
from nndiag.lab.borrow import borrow, seeded
from nndiag.lab.forward import fitted, unwrapped
from nndiag.lab.objective_fit import ends_with
from nndiag.lab.watch.blame import calling_place

if TYPE_CHECKING:
    from nndiag.core.subject import Batch

_LOSSES: dict[Callable[..., Any], str] = {
    functional.cross_entropy: "cross_entropy",
    functional.nll_loss: "nll",
    functional.binary_cross_entropy: "binary_cross_entropy",
    functional.binary_cross_entropy_with_logits: "bce",
}


@dataclass(frozen=True, slots=True)
class LossCall:
    """A loss of torch's that ran, and what it was given."""

    name: str  # cross_entropy | nll | bce (on logits) | binary_cross_entropy (on probabilities)
    scores: Tensor  # without its graph
    where: Where  # the user's line
    squash: str = ""  # what they have been through last


@dataclass
class _Listening(TorchFunctionMode):
    """Notes the losses that run while it is on."""

    calls: list[LossCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note a loss, and let everything run as it would."""
        given = args[0] if args else (kwargs or {}).get("input")
        if func in _LOSSES and isinstance(given, Tensor):
            self.calls.append(LossCall(_LOSSES[func], given.detach().clone(), calling_place(), ends_with(given)))
        return func(*args, **(kwargs or {}))


def step_losses(model: nn.Module, batch: Batch, *, seed: int = 0) -> list[LossCall]:
    """Return the losses that a model's `training_step` computes of a batch, in order, run in eval mode.

    A step that fails without its trainer is believed as far as it came. Empty where the model has no such method, or
    wants a batch of another make.
    """
    step = getattr(unwrapped(model), "training_step", None)
    inputs = fitted(model, batch.inputs)
    if not callable(step) or batch.targets is None or isinstance(inputs, Mapping):
        return []
    device = next((item.device for item in model.parameters()), torch.device("cpu"))
    items = [*(inputs if isinstance(inputs, tuple | list) else (inputs,)), torch.as_tensor(batch.targets).to(device)]
    try:
        places = [item for item in inspect.signature(step).parameters.values() if item.default is item.empty]
    except (TypeError, ValueError):
        return []
    listening = _Listening()
    with borrow(model, weights=False) as lent, seeded(seed), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # Lightning misses its trainer
        lent.eval()
        with contextlib.suppress(Exception), listening:  # what ran before it asked for its trainer was seen
            step(items, *([0] if len(places) > 1 else []))
    return listening.calls
