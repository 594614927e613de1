"""Which units are flat, and which module overflows?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import call, main_output, tensors_in
from nndiag.lab.watch.sites import locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.findings import Where
    from nndiag.core.subject import Batch

NEAR = 0.01  # of a bound that counts as being there

_KINDS = ((nn.Sigmoid, "sigmoid"), (nn.Tanh, "tanh"), (nn.ReLU, "relu"), (nn.ReLU6, "relu"))
_CALLS = {"relu": "relu", "relu_": "relu", "relu6": "relu", "sigmoid": "sigmoid", "tanh": "tanh"}


def saturated(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Return, per activation, the share of units that are flat: outputs at a bound, or zero for every row.

    Modules go by their names, calls such as `F.relu(x)` by the function's and their number: "relu (2)".
    """
    counts = flat_units(model, batch)
    return {name: flat / units for name, (flat, units) in counts.items() if units}


def flat_units(model: nn.Module, batch: Batch) -> dict[str, tuple[float, int]]:
    """Return, per activation, how many units are flat on these rows (on average over them) and how many there are."""
    counts: dict[str, tuple[float, int]] = {}
    handles: list[Any] = []
    calls = _Calls(counts)

    def watch(name: str, kind: str) -> None:
        def before(_module: nn.Module, _args: Any) -> None:
            calls.inside += 1

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            calls.inside -= 1
            _count(counts, name, kind, output)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        word = next((word for kind, word in _KINDS if isinstance(module, kind)), None)
        if word is not None:
            watch(name, word)
    try:
        with torch.no_grad(), calls:
            main_output(call(model, batch.inputs))
    except NndiagError:
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return counts


class _Calls(TorchFunctionMode):
    """Counts the units behind activations that are called as functions."""

    def __init__(self, counts: dict[str, tuple[float, int]]) -> None:
        super().__init__()
        self._counts = counts
        self.inside = 0  # modules that are counted by themselves

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if not self.inside and name in _CALLS:
            kind = _CALLS[name]
            number = sum(other.startswith(f"{kind} (") for other in self._counts) + 1
            _count(self._counts, f"{kind} ({number})", kind, output)
        return output


def _count(counts: dict[str, tuple[float, int]], name: str, kind: str, output: Any) -> None:
    """Note the flat units of one activation, the first time that it runs."""
    if not isinstance(output, Tensor) or output.numel() == 0 or not output.is_floating_point() or name in counts:
        return
    y = output.detach().double()
    rows = y.reshape(y.shape[0], -1) if y.dim() > 1 else y.reshape(1, -1)
    if kind == "relu":
        flat = float((rows <= 0).all(dim=0).sum())
    else:
        low = 0.0 if kind == "sigmoid" else -1.0
        flat = float(((rows - low < NEAR) | (1 - rows < NEAR)).double().mean(dim=0).sum())
    counts[name] = (flat, rows.shape[1])


def first_overflow(model: nn.Module, batch: Batch) -> Where | None:
    """Return the first leaf module that turns finite inputs into something that is not finite; None without one."""
    places: list[Where] = []

    def finite(thing: Any) -> bool:
        return all(bool(torch.isfinite(item).all()) for item in tensors_in(thing) if item.is_floating_point())

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not places and finite(args) and not finite(output):
                places.append(locate(module, name))

        return hook

    leaves = [(name, item) for name, item in model.named_modules() if not any(True for _ in item.children())]
    handles = [item.register_forward_hook(watch(name)) for name, item in leaves]
    try:
        with torch.no_grad():
            call(model, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return places[0] if places else None
