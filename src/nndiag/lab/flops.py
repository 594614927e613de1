"""How many floating-point operations does a stretch of code take, by torch's own formulas?"""

from __future__ import annotations

from typing import Any

from torch.utils.flop_counter import flop_registry

from nndiag.lab.uncompiled import PlainMode


class FlopCounter(PlainMode):
    """Adds up the operations that torch has a formula for: products of matrices, convolutions, attention.

    The formulas are torch's (`torch.utils.flop_counter`); its own counter also tracks modules, which nobody asks for
    here, and imports the compiler, which takes longer than most forwards.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and add what it took."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result
