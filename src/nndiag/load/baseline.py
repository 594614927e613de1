"""Opens a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.baseline import parse_baseline
from nndiag.core.errors import NndiagError, UsageError
from nndiag.load.report import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from nndiag.core.baseline import Baseline


def read_baseline(path: str | Path) -> Baseline:
    """Return the known findings of this file.

    Raises:
        UsageError: The file is missing, no baseline, damaged, or of another version.
    """
    try:
        document = read_json(path)
    except NndiagError as failed:
        raise UsageError(
            f"the baseline cannot be read: {failed.message}", hint="--write-baseline writes one"
        ) from failed
    return parse_baseline(document, str(path))
