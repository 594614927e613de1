"""What if the model's lookup and the mean behind it were one EmbeddingBag? Tried inside the model itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nndiag.core.errors import NndiagError

_ASKS = frozenset({"__get__", "size", "dim", "numel", "is_floating_point", "__len__"})  # of a shape, not of numbers


class BagInstead(TorchFunctionMode):
    """Inside, every lookup in one table hands out no vectors, and the mean or sum behind it becomes an EmbeddingBag.

    The same numbers up to rounding, as long as nothing else wants the single vectors; where something does, it says so.

    Args:
        weight: Of the table.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._weight = weight
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}  # stand-in and ids; kept, so that identities stay true
        self.bags = 0  # made so far

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer lookups with a stand-in of the right shape, and its mean or sum with a bag."""
        kwargs = kwargs or {}
        if func is functional.embedding and self._of_table(args, kwargs):
            return self._hand_out(args[0] if args else kwargs["input"])
        if not self._pending:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        held = self._pending.get(id(args[0])) if args else None
        if held is not None and name in {"mean", "sum"}:
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            axis = axis[0] if isinstance(axis, tuple | list) and len(axis) == 1 else axis
            if axis in {1, -2} and not kwargs.get("keepdim") and len(args) < 3:
                self.bags += 1
                return functional.embedding_bag(held[1], self._weight, mode=name)
        if name not in _ASKS and any(id(item) in self._pending for item in _flat((args, kwargs))):
            raise NndiagError(f"the single vectors are wanted by {name or func}", hint="keep the nn.Embedding")
        return func(*args, **kwargs)

    def forget(self) -> None:
        """Drop the stand-ins of a pass that is over."""
        self._pending.clear()

    def _of_table(self, args: Any, kwargs: Any) -> bool:
        return (args[1] if len(args) > 1 else kwargs.get("weight")) is self._weight

    def _hand_out(self, ids: Tensor) -> Tensor:
        if ids.dim() != 2:
            raise NndiagError(f"ids of {ids.dim()} dimensions are no bags", hint="keep the nn.Embedding")
        stand_in = torch.empty((), dtype=self._weight.dtype, device=self._weight.device)
        stand_in = stand_in.expand(*ids.shape, self._weight.shape[1])
        self._pending[id(stand_in)] = (stand_in, ids)
        return stand_in


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]
