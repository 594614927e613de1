"""One sick model per question. Each fault is the kind that trains, only worse."""

from __future__ import annotations

import torch
from torch import nn

PIXELS, CLASSES = 64, 10


def dropout_before_batchnorm() -> nn.Module:
    """Return an MLP whose batch norm learns a variance that eval never sees."""
    return nn.Sequential(
        nn.Linear(PIXELS, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.BatchNorm1d(128),
        nn.Linear(128, CLASSES),
    )


def plain_mlp() -> nn.Module:
    """Return a healthy MLP that expects inputs of about unit scale."""
    return nn.Sequential(nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def constant_start() -> nn.Module:
    """Return an MLP whose hidden units all start equal, seen from both sides."""
    layers = nn.Linear(PIXELS, 32), nn.Linear(32, CLASSES)
    for layer in layers:
        nn.init.constant_(layer.weight, 0.01)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


class WordModel(nn.Module):
    """A small language model in front of a very large table."""

    def __init__(self, vocabulary: int = 2_000_000, width: int = 64) -> None:
        """Make the table, the recurrent layer and the head."""
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.memory = nn.LSTM(width, 128, batch_first=True)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Classify sequences of word ids.

        Args:
            ids: (batch, words) integers.

        Returns:
            Logits, (batch, classes).
        """
        states, _last = self.memory(self.words(ids))  # (batch, words, 128)
        logits: torch.Tensor = self.head(states[:, -1])
        return logits
