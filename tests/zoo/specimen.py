"""One healthy model: how to make it, what to feed it, whose making it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from nndiag.core.subject import Batch

ROWS = 32


@dataclass(frozen=True)
class Specimen:
    """A tiny model that trains well, and one batch as training code would feed it."""

    name: str
    build: Callable[[], nn.Module]
    batch: Batch
    family: str  # language | vision | audio | series | torch | handmade | initialisation

    def make(self) -> nn.Module:
        """Return a fresh model, the same at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build()


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(rows, length, vocab, seed=2):
    return torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def classes(rows, count, seed=3):
    return torch.randint(0, count, (rows,), generator=torch.Generator().manual_seed(seed))


def images(rows=ROWS, channels=3, size=16):
    """Images whose class can be seen: a bright half, and noise."""
    labels = classes(rows, 4)
    x = draw(rows, channels, size, size)
    for row, label in enumerate(labels.tolist()):
        half = slice(0, size // 2) if label % 2 else slice(size // 2, size)
        if label < 2:
            x[row, :, half] += 1
        else:
            x[row, :, :, half] += 1
    return Batch((x - x.mean()) / x.std(), labels)


def vectors(rows=64, width=20, count=4):
    x = draw(rows, width)
    return Batch(x, (x @ draw(width, count, seed=5)).argmax(1))
