"""Keras 3 models on the torch backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError

if TYPE_CHECKING:
    from nndiag.core.subject import ModelSource


def load_keras(target: str, *, seed: int, device: str, trust: bool) -> ModelSource:
    """Load a .keras or .h5 file."""
    raise NndiagError(f"'{target}': Keras files cannot be read yet", hint=f"seed {seed}, {device}, {trust}")
