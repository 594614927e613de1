"""After going from one device to N: is it still the recipe that was tuned?"""

from __future__ import annotations

from nndiag.checks.multigpu_lr.check import MultigpuLr

__all__ = ["MultigpuLr"]
