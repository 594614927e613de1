"""Train a tagger on a large vocabulary, sick and healed: what a step costs, measured by the script itself.

    python examples/embedding_cost/train.py            # both, side by side
    nndiag embedding-cost examples/embedding_cost/train.py:sick --optimizer adam
    nndiag embedding-cost examples/embedding_cost/train.py:healed \
        --optimizer examples/embedding_cost/train.py:split_optimizers
"""

import time

import torch
from torch import nn

ROWS, DIM, BATCH, LENGTH, STEPS = 300_000, 64, 16, 32, 5


class Tagger(nn.Module):
    """Words in, tags out."""

    def __init__(self, *, sparse=False):
        super().__init__()
        self.words = nn.Embedding(ROWS, DIM, sparse=sparse, padding_idx=0)
        self.rnn = nn.LSTM(DIM, 64, batch_first=True)
        self.tags = nn.Linear(64, 12)

    def forward(self, ids):
        return self.tags(self.rnn(self.words(ids))[0])


def sick():
    """Every step moves the whole table."""
    return Tagger()


def healed():
    """A step touches the rows in use."""
    return Tagger(sparse=True)


def split_optimizers(model):
    """Give the table its own optimizer: SparseAdam takes no dense gradients, Adam no sparse ones."""
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("words")]
    return [torch.optim.SparseAdam([model.words.weight]), torch.optim.Adam(rest)]


def train(model, optimizers):
    """Return seconds per step and the last loss."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, ROWS, (BATCH, LENGTH), generator=generator)
    tags = ids % 12
    for step in range(STEPS + 1):
        if step == 1:  # the first step creates the state
            begun = time.perf_counter()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), tags.flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return (time.perf_counter() - begun) / STEPS, loss.item()


def main():
    torch.manual_seed(0)
    torch.sparse.check_sparse_tensor_invariants.disable()
    model = sick()
    before, _ = train(model, [torch.optim.Adam(model.parameters())])
    model = healed()
    after, _ = train(model, split_optimizers(model))
    print(f"Adam on everything {1e3 * before:.1f} ms per step, SparseAdam on the table {1e3 * after:.1f} ms")


if __name__ == "__main__":
    main()
