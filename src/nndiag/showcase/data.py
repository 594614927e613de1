"""The bundled digits, as training code would yield them."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from torch import Tensor


def digits() -> tuple[Tensor, Tensor]:
    """Return the digits in [0, 1], as a model expects them.

    Returns:
        Inputs (1797, 64) float32 and class ids (1797,).
    """
    with np.load(str(files("nndiag.data") / "digits.npz")) as stored:
        return torch.from_numpy(stored["x"] / np.float32(16)), torch.from_numpy(stored["y"].astype(np.int64))


def raw_digits() -> tuple[Tensor, Tensor]:
    """Return the digits on 0 to 255, as an image file holds them."""
    inputs, labels = digits()
    return inputs * 255, labels
