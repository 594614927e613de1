"""The six questions. `ALL` names them; a check is imported when it is asked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nndiag.core.check import Check

ALL = {
    "check-dropout": "nndiag.checks.dropout:CheckDropout",
    "check-normalization": "nndiag.checks.normalization:CheckNormalization",
    "entropy-floor": "nndiag.checks.entropy_floor:EntropyFloor",
    "embedding-cost": "nndiag.checks.embedding_cost:EmbeddingCost",
    "init-symmetry": "nndiag.checks.init_symmetry:InitSymmetry",
    "multigpu-lr": "nndiag.checks.multigpu_lr:MultigpuLr",
}


def make(name: str, **settings: Any) -> Check:
    """Return the check of this name; settings left out or None keep the check's own defaults."""
    module, cls = ALL[name].split(":")
    check: Check = getattr(import_module(module), cls)(**{k: v for k, v in settings.items() if v is not None})
    return check
