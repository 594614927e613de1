"""nndiag finds training pathologies in neural networks before they cost a week of GPU time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nndiag.api import (
        check_dropout,
        check_normalization,
        embedding_cost,
        entropy_floor,
        init_symmetry,
        multigpu_lr,
    )
    from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
    from nndiag.core.findings import Basis, Evidence, Finding, Measurement, Series, Severity, Skip, Table, Where
    from nndiag.core.report import DiagnosisError, Report

__version__ = "0.1.0"

__all__ = [
    "Basis",
    "DiagnosisError",
    "Evidence",
    "Finding",
    "Measurement",
    "NndiagError",
    "NothingApplicableError",
    "Report",
    "Series",
    "Severity",
    "Skip",
    "Table",
    "UsageError",
    "Where",
    "__version__",
    "check_dropout",
    "check_normalization",
    "embedding_cost",
    "entropy_floor",
    "init_symmetry",
    "multigpu_lr",
]

_HOMES = {
    "nndiag.api": (
        "check_dropout",
        "check_normalization",
        "embedding_cost",
        "entropy_floor",
        "init_symmetry",
        "multigpu_lr",
    ),
    "nndiag.core.errors": ("NndiagError", "NothingApplicableError", "UsageError"),
    "nndiag.core.findings": (
        "Basis",
        "Evidence",
        "Finding",
        "Measurement",
        "Series",
        "Severity",
        "Skip",
        "Table",
        "Where",
    ),
    "nndiag.core.report": ("DiagnosisError", "Report"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import nndiag` stays light."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'nndiag' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
