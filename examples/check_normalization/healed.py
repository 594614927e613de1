"""The same script, healed: one function prepares the images, for training and for serving.

python healed.py
nndiag check-normalization healed.py:build healed.py:train_set --serve healed.py:test_set
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

optimizer = "sgd"
lr = 0.1
batch_size = 64

_digits = load_digits()
_x = torch.tensor(_digits.images * 255 / 16).round().unsqueeze(1).float()  # 0 to 255, as image files have them
_y = torch.tensor(_digits.target)
_order = torch.randperm(len(_x), generator=torch.Generator().manual_seed(0))
_train, _test = _order[:1400], _order[1400:]


MEAN, SD = (_x[_train] / 255).mean(), (_x[_train] / 255).std()  # of the training rows alone


def prepared(x):
    return (x / 255 - MEAN) / SD


def train_set():
    return prepared(_x[_train]), _y[_train]


def test_set():
    return prepared(_x[_test]), _y[_test]


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def main():
    torch.manual_seed(0)
    model = build()
    step = torch.optim.SGD(model.parameters(), lr=lr)
    x, y = train_set()
    for epoch in range(10):
        for rows in torch.randperm(len(x)).split(batch_size):
            step.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            step.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    x, y = test_set()
    print(f"test accuracy {(model(x).argmax(1) == y).float().mean():.1%}")


if __name__ == "__main__":
    main()
