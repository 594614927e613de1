"""Does the model compute its loss itself when its forward is given the targets? As nanoGPT does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import main_output, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nndiag.core.subject import Batch

# An argument called y is an input as often as not.
NAMES = ("targets", "labels", "target", "label")


def argument_for_targets(model: nn.Module, inputs: Any) -> str | None:
    """Return the optional argument of a forward that targets belong in, where the inputs leave it free."""
    free = _free(model, inputs)
    return next((name for name in NAMES if name in free), None)


def fed(model: nn.Module, batch: Batch) -> Batch:
    """Return a batch whose targets stand among its inputs too, under the name that the forward gives them."""
    name = argument_for_targets(model, batch.inputs)
    if name is None or batch.targets is None:
        return batch
    return replace(batch, inputs={**_named(model, batch.inputs), name: batch.targets})


def without_targets(batch: Batch) -> Batch | None:
    """Return a batch without the targets among its inputs; None where there are none."""
    if not isinstance(batch.inputs, Mapping) or batch.targets is None:
        return None
    rest = {key: value for key, value in batch.inputs.items() if key not in NAMES}
    return replace(batch, inputs=rest) if 0 < len(rest) < len(batch.inputs) else None


def loss_in(output: Any, bare: Any) -> Callable[[Any], Tensor | None] | None:
    """Return how to find the loss in a tuple that a model answers with.

    It is the first number with a gradient that was not in the answer before the targets were given, beside outputs
    that still have an axis. A number that is always there may be a penalty, which is no loss to train on alone.

    Args:
        output: What the model answered with its targets.
        bare: What it answered without.
    """
    try:
        outputs = isinstance(output, tuple | list) and main_output(output).dim() > 0
    except NndiagError:
        return None
    places: Sequence[Any] = output if outputs else ()
    for place, item in enumerate(places):
        if _is_loss(item) and not _is_loss(_at(bare, place)):
            return lambda answer: item if _is_loss(item := _at(answer, place)) else None
    return None


def _is_loss(item: Any) -> bool:
    return isinstance(item, Tensor) and item.is_floating_point() and item.numel() == 1 and item.requires_grad


def _at(answer: Any, place: int) -> Any:
    return answer[place] if isinstance(answer, tuple | list) and place < len(answer) else None


def _free(model: nn.Module, inputs: Any) -> set[str]:
    """Return the optional arguments of the forward that the inputs do not fill."""
    named = _named(model, inputs)
    known = signature(model)
    if known is None or not named:
        return set()
    return {item.name for item in known.parameters.values() if item.default is None} - set(named)


def _named(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Return inputs under the names of the arguments that they fill; empty where they cannot be passed by keyword."""
    if isinstance(inputs, Mapping):
        return {str(key): value for key, value in inputs.items()}
    known = signature(model)
    several = isinstance(inputs, tuple | list) and not hasattr(inputs, "batch_sizes")  # a PackedSequence is one
    given = inputs if several else (inputs,)
    places = list(known.parameters.values())[: len(given)] if known is not None else []
    if len(places) < len(given) or any(item.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD for item in places):
        return {}
    return {item.name: value for item, value in zip(places, given, strict=True)}
