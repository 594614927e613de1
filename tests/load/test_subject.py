"""Model and data meet: what must be done to the data before the model takes them."""

import pytest
import torch
from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.forward import batch_rows, rows_of, take
from nndiag.load.subject import load_subject


class Graph(nn.Module):
    """One convolution over a fixed graph of 30 nodes, as pygcn writes it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("adjacency", torch.eye(30) + torch.rand(30, 30) / 30)
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.adjacency @ self.layer(x)


def test_rows_that_belong_together_stay_together():
    """A graph's nodes are one batch: cut to a few rows, the model could not run."""
    subject = load_subject(Graph(), [(torch.randn(30, 8), torch.zeros(30, dtype=torch.long))])
    batch = next(iter(subject.data.batches()))
    assert batch.whole
    assert batch_rows(take(batch, 4)) == 30
    assert "whole batches" in subject.data.name


def test_a_part_of_what_belongs_together_is_refused():
    with pytest.raises(NndiagError, match="as a whole only"):
        rows_of(Batch(torch.zeros(6, 2), whole=True), 0, 3)


def test_rows_of_their_own_are_cut():
    subject = load_subject(nn.Linear(8, 3), [(torch.randn(30, 8), torch.zeros(30, dtype=torch.long))])
    batch = next(iter(subject.data.batches()))
    assert batch_rows(take(batch, 4)) == 4
