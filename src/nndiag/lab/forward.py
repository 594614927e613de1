"""How is this model called, and what does it answer? Batches in and out of any forward signature."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.nested import as_tensors, batch_rows, mapped, move, rows_of, take, tensors_in
from nndiag.lab.watch.blame import users_fault
from nndiag.lab.watch.wanted import wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

# What models of other people call the thing that a loss is computed from, best first.
_ANSWERS = (
    "logits", "prediction_logits", "start_logits", "logits_per_image", "prediction_outputs", "pred", "preds",
    "prediction", "predictions", "reconstruction", "recon", "sample", "out", "output", "outputs", "y",
    "last_hidden_state", "pooler_output",
)  # fmt: skip
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


def call(model: nn.Module, inputs: Any) -> Any:
    """Run the model on inputs as training code would.

    Args:
        model: Any module; wrappers of torch.compile and of data parallelism are seen through.
        inputs: A tensor or array (one argument), a tuple or list (positional arguments), or a mapping whose
            keys are passed by keyword, without those that the signature does not know. A mapping none of whose
            keys is known is passed whole.

    Returns:
        Whatever the model returns.

    Raises:
        NndiagError: When the forward raises; with the user's file and line.
    """
    return invoke(model, fitted(model, inputs))


def invoke(model: nn.Module, inputs: Any) -> Any:
    """Run the model on inputs that are already fitted; see `call`. Compiling it for a few passes would cost minutes."""
    model = getattr(model, "_orig_mod", model)
    try:
        if isinstance(inputs, Mapping):
            known = accepted(model, inputs)
            return model(**known) if known else model(inputs)
        if isinstance(inputs, tuple | list) and not isinstance(inputs, torch.nn.utils.rnn.PackedSequence):
            return model(*inputs) if _spreads(model, inputs) else model(inputs)
        return model(inputs)
    except NndiagError:
        raise
    except Exception as error:
        kind = type(unwrapped(model))
        code = getattr(kind, "forward", None)
        raise users_fault(f"the forward of {kind.__name__}", error, hint=wanted(model, error), code=code) from error


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in {"DataParallel", "DistributedDataParallel"}:
            inner = getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def signature(model: nn.Module) -> inspect.Signature | None:
    """Return the signature of the model's forward, or None where there is none to read."""
    inner = unwrapped(model)
    forward: Any = getattr(inner, "forward", inner)
    if hasattr(inner, "call") and type(inner).__module__.startswith("keras"):
        forward = inner.call
    try:
        return inspect.signature(forward)
    except (TypeError, ValueError):
        return None


def takes(model: nn.Module, name: str) -> bool:
    """Whether the forward names this parameter."""
    known = signature(model)
    return known is not None and name in known.parameters


def accepted(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items that the forward knows by keyword; empty when the mapping is one argument."""
    items = {str(key): value for key, value in inputs.items()}
    known = signature(model)
    if known is None:
        return items
    parameters = known.parameters.values()
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters):
        return items
    by_name = {item.name for item in parameters if item.kind is not inspect.Parameter.POSITIONAL_ONLY}
    return {key: value for key, value in items.items() if key in by_name}


def main_output(output: Any) -> Tensor:
    """Return the tensor that a loss would be computed from.

    Logits by name in mappings and dataclasses; otherwise the first floating-point tensor that has an axis,
    then the first floating-point one.

    Raises:
        NndiagError: When there is no floating-point tensor in it.
    """
    if isinstance(output, Tensor):
        return output
    fields = _fields(output)
    for name in _ANSWERS:
        value = fields.get(name)
        if isinstance(value, Tensor) and _answers(value):
            return value
    found = [item for item in tensors_in(output) if _answers(item)]
    best = next((item for item in found if item.dim() > 0), found[0] if found else None)
    if best is None:
        kind = type(output).__name__
        raise NndiagError(
            f"the model returned {kind} without a floating-point tensor",
            hint="its forward should return a tensor, or a tuple, dict or dataclass that holds one",
        )
    return best


def main_input(inputs: Any) -> Tensor | None:
    """Return the first tensor of a batch's inputs, floating-point ones first, targets among them last."""
    if isinstance(inputs, Mapping):
        rest = {key: value for key, value in inputs.items() if key not in TARGET_KEYS}
        inputs = rest if any(item.dim() for item in tensors_in(rest)) else inputs
    found = sorted(tensors_in(inputs), key=lambda item: item.dim() == 0)
    return next((item for item in found if item.is_floating_point()), found[0] if found else None)


def fitted(model: nn.Module, inputs: Any) -> Any:
    """Return inputs on the model's device, floating-point ones in the model's dtype where it has only one."""
    own = [item for item in model.parameters() if not isinstance(item, nn.UninitializedParameter)]
    dtypes = {item.dtype for item in own if item.is_floating_point()}
    dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
    if dtype is not None and dtype.itemsize < 2:  # float8 weights are storage: nobody feeds them float8 inputs
        dtype = None
    devices = {item.device for item in own}
    if len(devices) == 1 and (device := next(iter(devices))).type != "meta":
        return move(inputs, device, dtype)
    return as_tensors(inputs)


def _spreads(model: nn.Module, inputs: Sequence[Any]) -> bool:
    """Whether a tuple is several arguments; not when only one argument as a whole would fit."""
    known = signature(model)
    if known is None:
        return True
    try:
        known.bind(*inputs)
    except TypeError:
        try:
            known.bind(inputs)
        except TypeError:
            return True
        return False
    return True


def _fields(output: Any) -> dict[str, Any]:
    """Return the named parts of an output."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    return {}


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Turn a model's numbers into a precision; complex ones keep both parts, which `Module.to` throws away."""

    def turned(item: Tensor) -> Tensor:
        return item.to(dtype.to_complex() if item.is_complex() else dtype if item.is_floating_point() else item.dtype)

    model._apply(turned)  # type: ignore[no-untyped-call]  # noqa: SLF001 - what `Module.to` itself calls
    return model


def _answers(item: Tensor) -> bool:
    return item.is_floating_point() or item.is_complex()


__all__ = [
    "TARGET_KEYS",
    "accepted",
    "as_tensors",
    "batch_rows",
    "call",
    "fitted",
    "in_precision",
    "invoke",
    "main_input",
    "main_output",
    "mapped",
    "move",
    "rows_of",
    "signature",
    "take",
    "takes",
    "tensors_in",
    "unwrapped",
]
