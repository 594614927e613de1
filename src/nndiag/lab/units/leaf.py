"""Where a layer keeps its weight, and what its class is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_REPARAMETRISED = ("weight_orig", "weight_v", "parametrizations.weight.original1", "parametrizations.weight.original",
                   "parametrizations.weight.original0")  # fmt: skip


def weight_name(module: nn.Module) -> str | None:
    """Name of the parameter behind `weight`: pruned, weight-normed and parametrised layers keep another."""
    own = module._parameters  # noqa: SLF001 - the table itself: `weight` may be a computed attribute
    if own.get("weight") is not None:
        return "weight"
    for leaf in _REPARAMETRISED:
        owner, _, last = leaf.rpartition(".")
        try:
            holder = module.get_submodule(owner)
        except AttributeError:
            continue
        item = holder._parameters.get(last)  # noqa: SLF001 - likewise
        if item is not None and item.dim() >= 2 and min(item.shape[:2]) > 0:
            return leaf
    return None


def qualified(module: nn.Module) -> str:
    """Return the class with its package; torch's own under torch.nn."""
    kind = type(module)
    root = kind.__module__.split(".")[0]
    return f"torch.nn.{kind.__name__}" if root == "torch" else f"{kind.__module__}.{kind.__qualname__}"
