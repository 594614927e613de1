"""Models whose forward takes the targets and answers with the loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.subject import Training
from nndiag.lab.objective import loss_of, resolve_objective
from nndiag.load.subject import load_subject

X, Y = torch.randint(0, 9, (8, 5)), torch.randint(0, 9, (8, 5))


class Base(nn.Module):
    """Scores for each token."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def score(self, idx):
        return self.head(self.table(idx))

    def loss(self, idx, targets):
        return 3 * functional.cross_entropy(self.score(idx).flatten(0, 1), targets.flatten())


class LastOnly(Base):
    """The tuple of nanoGPT: all positions and a loss with targets, the last position without."""

    def forward(self, idx, targets=None):
        return (self.score(idx)[:, -1:], None) if targets is None else (self.score(idx), self.loss(idx, targets))


class Named(Base):
    """The same by names."""

    def forward(self, idx, label=None):
        return {"logits": self.score(idx), **({} if label is None else {"loss": self.loss(idx, label)})}


class Penalised(Base):
    """A penalty that is always there, and no loss."""

    def forward(self, idx, target=None):
        return self.score(idx), self.head.weight.square().mean()


class OnlyLoss(Base):
    """The loss instead of the scores."""

    def forward(self, idx, target=None):
        return self.score(idx) if target is None else self.loss(idx, target)


class Measured(Base):
    """An accuracy, through which nothing can be trained."""

    def forward(self, idx, target=None):
        right = None if target is None else (self.score(idx).argmax(-1) == target).float().mean()
        return self.score(idx), right


class Forced(Base):
    """Teacher forcing: the targets are what a decoder is fed."""

    def forward(self, idx, target=None):
        return self.score(idx if target is None else target)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LastOnly, "own"),
        (Named, "own"),
        (Penalised, "cross_entropy"),
        (OnlyLoss, "cross_entropy"),
        (Measured, "cross_entropy"),
        (Forced, "cross_entropy"),
    ],
)
def test_a_forward_that_takes_the_targets_and_gives_a_loss_trains_on_its_own(kind, name):
    torch.manual_seed(0)
    subject = load_subject(kind(), [(X, Y)])
    model, batch = subject.model.make(), next(iter(subject.data.batches()))
    objective = resolve_objective(Training(), model, batch)
    assert objective.name == name
    expected = model.loss(X, Y) * (1 if name == "own" else 1 / 3)
    torch.testing.assert_close(loss_of(model, batch, objective)[0], expected)
    assert torch.equal(batch.targets, Y)
