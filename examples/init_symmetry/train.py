"""A digits classifier with a bottleneck, trained twice: from a constant start, and healed.

    python examples/init_symmetry/train.py
    nndiag init-symmetry examples/init_symmetry/train.py:sick examples/init_symmetry/train.py:batches
    nndiag init-symmetry examples/init_symmetry/train.py:healed examples/init_symmetry/train.py:batches

The sick network trains: its loss falls and it beats chance, which is what hides that 64 units work as one.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

optimizer = "adam"
lr = 1e-2


def network():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def sick():
    """Every weight 0.02: "small and equal, so that no unit dominates"."""
    net = network()
    for layer in net[::2]:
        nn.init.constant_(layer.weight, 0.02)
        nn.init.zeros_(layer.bias)
    return net


def healed():
    net = network()
    for layer in net[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return net


def batches():
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    return [(x[start : start + 64], y[start : start + 64]) for start in range(0, 1792, 64)]


def train(net, epochs=5):
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    feed = batches()
    for _ in range(epochs):
        for x, y in feed[:-4]:
            adam.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            adam.step()
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in feed[-4:])
    return float(loss.detach()), right / sum(len(y) for _, y in feed[-4:])


if __name__ == "__main__":
    for build in (sick, healed):
        torch.manual_seed(0)
        loss, accuracy = train(build())
        print(f"{build.__name__:7} loss {loss:.3f}, held-out accuracy {accuracy:.0%}")
