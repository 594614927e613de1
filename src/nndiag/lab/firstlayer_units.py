"""Which units are flat, and which module overflows?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import call, main_output, tensors_in
from nndiag.lab.watch.sites import locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.findings import Where
    from nndiag.core.subject import Batch


def saturated(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Return, per activation module, the share of units that are flat: outputs at a bound, or zero for every row."""
    shares: dict[str, float] = {}
    handles: list[Any] = []

    def watch(name: str, kind: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            y = output.detach().double() if isinstance(output, Tensor) else None
            if y is None or y.numel() == 0:
                return
            if kind == "relu":
                flat = y.reshape(y.shape[0], -1) if y.dim() > 1 else y.reshape(1, -1)
                shares.setdefault(name, float((flat <= 0).all(dim=0).double().mean()))
            else:
                low = 0.0 if kind == "sigmoid" else -1.0
                shares.setdefault(name, float(((y - low < 0.01) | (1 - y < 0.01)).double().mean()))

        return hook

    kinds = ((nn.Sigmoid, "sigmoid"), (nn.Tanh, "tanh"), (nn.ReLU, "relu"))
    for name, module in model.named_modules():
        for kind, word in kinds:
            if isinstance(module, kind):
                handles.append(module.register_forward_hook(watch(name, word)))
    try:
        with torch.no_grad():
            main_output(call(model, batch.inputs))
    except NndiagError:
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return shares


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
