"""The data that comes with the package: small, real, credited in data/README.md."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Digits:
    """UCI optical digits, 1797 images of 8 x 8 pixels."""

    x: NDArray[Any]  # (1797, 64) float64 in [0, 1]
    y: NDArray[Any]  # (1797,) int64
    soft: NDArray[Any]  # (1797, 10) float64: labels of a softmax regression, reachable by one


def digits() -> Digits:
    """Return the bundled digits with hard and soft labels."""
    import numpy as np

    from nndiag.science.entropy import log_softmax

    with (
        resources.files("nndiag").joinpath("data/digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        x = stored["x"].astype(np.float64) / 16.0
        logits = x @ stored["weight"].T.astype(np.float64) + stored["bias"]
        return Digits(x, stored["y"].astype(np.int64), np.exp(log_softmax(logits)))
