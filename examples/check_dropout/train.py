"""A digits classifier with dropout in front of batch norm, trained twice: as it is often written, and healed.

    python examples/check_dropout/train.py
    nndiag check-dropout examples/check_dropout/train.py:sick examples/check_dropout/train.py:batches
    nndiag check-dropout examples/check_dropout/train.py:healed examples/check_dropout/train.py:batches

The sick network trains, but batch norm learns the variance of masked activations and meets unmasked ones in eval. The
dropout of its head is a plain function call, so it goes on dropping in eval mode, and every evaluation differs.
"""

import torch
import torch.nn.functional as fn
from torch import nn

from nndiag.showcase.data import digits

optimizer = "adam"
lr = 3e-3


class Sick(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(128)

    def forward(self, x):
        x = self.drop(fn.relu(self.first(x)))
        x = fn.relu(self.norm(self.second(x)))
        return self.head(fn.dropout(x, 0.5))


class Healed(Sick):
    def forward(self, x):
        x = fn.relu(self.first(x))
        x = fn.relu(self.norm(self.second(x)))
        return self.head(self.drop(x))


def sick():
    return Sick()


def healed():
    return Healed()


def batches():
    x, y = digits()
    return [(x[start : start + 64], y[start : start + 64]) for start in range(0, 1792, 64)]


def train(net, epochs=5):
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    feed = batches()
    net.train()
    for _ in range(epochs):
        for x, y in feed[:-4]:
            adam.zero_grad()
            fn.cross_entropy(net(x), y).backward()
            adam.step()
    net.eval()
    with torch.no_grad():
        return [
            sum(int((net(x).argmax(1) == y).sum()) for x, y in feed[-4:]) / sum(len(y) for _, y in feed[-4:])
            for _ in range(3)
        ]


if __name__ == "__main__":
    for build in (sick, healed):
        torch.manual_seed(0)
        scores = ", ".join(f"{score:.1%}" for score in train(build()))
        print(f"{build.__name__}: held-out accuracy of three evaluations {scores}")
