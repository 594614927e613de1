"""Networks of torch's own layers."""

from __future__ import annotations

import torch
from torch import nn

from nndiag.core.subject import Batch
from zoo.specimen import Specimen, classes, draw, ids, vectors

VOCAB = 50


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.source = nn.Embedding(VOCAB, 32)
        self.target = nn.Embedding(VOCAB, 32)
        self.core = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, VOCAB)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.core(self.source(source), self.target(target), tgt_mask=mask))


class Encoder(nn.Module):
    def __init__(self, *, norm_first):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.place = nn.Parameter(torch.randn(12, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        self.core = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens):
        return self.head(self.core(self.embed(tokens) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.core = kind(32, 32, batch_first=True, **options)
        width = 64 if options.get("bidirectional") else 32
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        hidden, _ = self.core(self.embed(tokens))
        return self.head(hidden[:, -1])


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCAB, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens):
        return self.head(self.bag(tokens))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 32)
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, dropout=0.1)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        h = self.lift(x)
        n = self.norm(h)
        return self.head((h + self.attention(n, n, n, need_weights=False)[0]).mean(1))


class TextConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.convolutions = nn.ModuleList(nn.Conv1d(32, 16, size, padding=size // 2) for size in (3, 5))
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens):
        x = self.embed(tokens).transpose(1, 2)
        pooled = [torch.relu(conv(x)).amax(2) for conv in self.convolutions]
        return self.head(self.drop(torch.cat(pooled, 1)))


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(VOCAB, 16)
        self.items = nn.Embedding(VOCAB, 16)
        self.user_bias = nn.Embedding(VOCAB, 1)

    def forward(self, user, item):
        return (self.users(user) * self.items(item)).sum(1) + self.user_bias(user)[:, 0]


class BilinearPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(20, 16)
        self.pair = nn.Bilinear(16, 16, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        h = torch.tanh(self.left(x))
        return self.head(torch.tanh(self.pair(h, h.roll(1, 1))))


_ACTIVATIONS = {
    "relu": (nn.ReLU, "relu"),
    "leaky-relu": (nn.LeakyReLU, "leaky_relu"),
    "gelu": (nn.GELU, "relu"),
    "silu": (nn.SiLU, "relu"),
    "mish": (nn.Mish, "relu"),
    "elu": (nn.ELU, "relu"),
    "prelu": (nn.PReLU, "relu"),
    "tanh": (nn.Tanh, "tanh"),
    "sigmoid": (nn.Sigmoid, "sigmoid"),
    "softplus": (nn.Softplus, "relu"),
}


def perceptron(activation, gain, *, dropout=0.2):
    """A multilayer perceptron, initialised for its activation (He, Glorot)."""

    def build():
        layers = []
        for width in (20, 64):
            linear = nn.Linear(width, 64)
            if gain in ("tanh", "sigmoid"):
                nn.init.xavier_normal_(linear.weight, nn.init.calculate_gain(gain))
            else:
                nn.init.kaiming_normal_(linear.weight, nonlinearity=gain)
            nn.init.zeros_(linear.bias)
            layers += [linear, activation(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(64, 4))

    return build


def _selu():
    layers = []
    for width in (20, 64):
        linear = nn.Linear(width, 64)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SELU(), nn.AlphaDropout(0.05)]
    return nn.Sequential(*layers, nn.Linear(64, 4))


def _normed():
    return nn.Sequential(
        nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Dropout(0.3), nn.Linear(64, 4),
    )  # fmt: skip


def _regressor():
    return nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, 1))


def specimens():
    tokens, labels = ids(32, 12, VOCAB), classes(32, 3)
    text = Batch(tokens, labels)
    moved = ids(32, 8, VOCAB, seed=8)
    yield Specimen("nn.Transformer", Seq2Seq, Batch((tokens, moved), moved.roll(-1, 1)), "torch")
    yield Specimen("encoder-post-norm", lambda: Encoder(norm_first=False), text, "torch")
    yield Specimen("encoder-pre-norm", lambda: Encoder(norm_first=True), text, "torch")
    yield Specimen("lstm", lambda: Recurrent(nn.LSTM), text, "torch")
    yield Specimen("lstm-deep", lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.2), text, "torch")
    yield Specimen("gru", lambda: Recurrent(nn.GRU), text, "torch")
    yield Specimen("gru-both-ways", lambda: Recurrent(nn.GRU, bidirectional=True), text, "torch")
    yield Specimen("rnn", lambda: Recurrent(nn.RNN), text, "torch")
    yield Specimen("bag-of-words", BagOfWords, text, "torch")
    yield Specimen("text-convolution", TextConvolution, text, "torch")
    yield Specimen("attention", SelfAttention, Batch(draw(32, 10, 8), labels), "torch")
    users, items = classes(64, VOCAB, seed=4), classes(64, VOCAB, seed=5)
    yield Specimen("two-towers", TwoTowers, Batch((users, items), draw(64)), "torch")
    yield Specimen("bilinear", BilinearPair, vectors(), "torch")
    for name, (activation, gain) in _ACTIVATIONS.items():
        yield Specimen(f"mlp-{name}", perceptron(activation, gain), vectors(), "torch")
    yield Specimen("mlp-selu", _selu, vectors(), "torch")
    yield Specimen("mlp-batchnorm", _normed, vectors(), "torch")
    x = draw(64, 20)
    yield Specimen("regression", _regressor, Batch(x, x[:, :3].sum(1, keepdim=True) / 3**0.5), "torch")
