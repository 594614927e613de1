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


class TwoTables(nn.Module):
    """Numbers and categories apart, as tabular models take them."""

    def __init__(self):
        super().__init__()
        self.numbers, self.kinds = nn.Linear(4, 3), nn.Embedding(5, 3)

    def forward(self, numbers, kinds):
        return self.numbers(numbers) + self.kinds(kinds).sum(1)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_of_inputs_and_its_target_are_told_apart_where_the_forward_takes_two(kind):
    numbers, kinds, aims = torch.randn(16, 4), torch.randint(0, 5, (16, 2)), torch.randint(0, 3, (16,))
    subject = load_subject(TwoTables(), [kind([kind([numbers, kinds]), aims])])
    batch = next(iter(subject.data.batches()))
    assert [tuple(item.shape) for item in batch.inputs] == [(16, 4), (16, 2)]
    assert torch.equal(batch.targets, aims)


def test_two_named_tensors_are_read_in_their_order_where_the_forward_knows_neither_name():
    """Segmentation data sets yield image and mask; the training loop names them, the model does not."""
    images, masks = torch.rand(8, 3, 6, 6), torch.zeros(8, 6, 6, dtype=torch.long)
    subject = load_subject(nn.Conv2d(3, 2, 1), [{"image": images, "mask": masks}])
    batch = next(iter(subject.data.batches()))
    assert torch.equal(batch.inputs, images)
    assert torch.equal(batch.targets, masks)
    assert "'image' as inputs, 'mask' as targets" in subject.data.name


class TakesTheBatch(nn.Module):
    """Looks into the batch by itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, batch):
        return self.layer(batch["image"]) - batch["mask"]


def test_a_model_that_takes_the_whole_mapping_gets_it():
    subject = load_subject(TakesTheBatch(), [{"image": torch.rand(8, 4), "mask": torch.rand(8, 1)}])
    batch = next(iter(subject.data.batches()))
    assert set(batch.inputs) == {"image", "mask"}
