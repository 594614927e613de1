"""Zeros, ones and structure that are meant: what only looks like a symmetry trap."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from nndiag.core.subject import Batch
from zoo.handmade import NanoGpt, ResNet, he
from zoo.specimen import Specimen, classes, draw, images, vectors
from zoo.torch_layers import Recurrent


def _zero_gamma():
    model = he(ResNet())
    for block in model.layers:
        nn.init.zeros_(block.bn2.weight)
    return model


class FixupBlock(nn.Module):
    """Zhang, Dauphin, Ma 2019: no norm, second convolution zero, scalar biases and a multiplier."""

    def __init__(self, width, blocks):
        super().__init__()
        self.biases = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1))
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.normal_(self.conv1.weight, 0, (2 / (width * 9)) ** 0.5 * blocks**-0.5)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x):
        h = functional.relu(self.conv1(x + self.biases[0]) + self.biases[1])
        return functional.relu(x + self.conv2(h + self.biases[2]) * self.scale + self.biases[3])


class Fixup(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(FixupBlock(16, 2), FixupBlock(16, 2))
        self.head = nn.Linear(16, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


class ReZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(20, 48)
        self.layers = nn.ModuleList(nn.Linear(48, 48) for _ in range(4))
        self.alphas = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        x = self.lift(x)
        for alpha, layer in zip(self.alphas, self.layers, strict=True):
            x = x + alpha * functional.relu(layer(x))
        return self.head(x)


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(20, 48)
        self.norm = nn.LayerNorm(48)
        self.mlp = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
        self.gamma = nn.Parameter(torch.full((48,), 1e-4))
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        x = self.lift(x)
        return self.head(x + self.gamma * self.mlp(self.norm(x)))


class LoraLinear(nn.Module):
    """Hu et al. 2021: a frozen layer plus B A, with B zero."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base
        self.base.requires_grad_(requires_grad=False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + functional.linear(functional.linear(x, self.lora_a), self.lora_b)


def _lora():
    return nn.Sequential(
        LoraLinear(nn.Linear(20, 64)), nn.GELU(), LoraLinear(nn.Linear(64, 64)), nn.GELU(), nn.Linear(64, 4)
    )


class ControlNet(nn.Module):
    """Zhang et al. 2023: a frozen path, a trainable copy, zero convolutions between them."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU())
        self.frozen.requires_grad_(requires_grad=False)
        self.copy = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU())
        self.zero = nn.Conv2d(16, 16, 1)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)
        self.out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        return self.out(self.frozen(x) + self.zero(self.copy(x)))


class DiffusionTransformer(nn.Module):
    """Peebles & Xie 2022: modulation by the time step, zero at first, and a zero head (adaLN-Zero)."""

    def __init__(self, width=32):
        super().__init__()
        self.lift = nn.Linear(8, width)
        self.time = nn.Embedding(20, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.head = nn.Linear(width, 8)
        for layer in (self.modulate[1], self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, t):
        x = self.lift(x)
        shift, scale, gate = self.modulate(self.time(t)).chunk(3, 1)
        x = x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)
        return self.head(self.norm(x))


class IdentityRnn(nn.Module):
    """Le, Jaitly, Hinton 2015: ReLU, identity recurrence, small input weights."""

    def __init__(self):
        super().__init__()
        self.core = nn.RNN(4, 48, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(48, 3)
        nn.init.eye_(self.core.weight_hh_l0)
        nn.init.normal_(self.core.weight_ih_l0, 0, 0.1)
        nn.init.zeros_(self.core.bias_ih_l0)
        nn.init.zeros_(self.core.bias_hh_l0)

    def forward(self, x):
        return self.head(self.core(x)[0][:, -1])


def _deep(initialise, *, gain=1.0, activation=nn.ReLU, depth=6, width=64):
    layers = []
    for read in [20] + [width] * (depth - 1):
        linear = nn.Linear(read, width)
        initialise(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def _delta_orthogonal():
    """Xiao et al. 2018: an orthogonal centre, zero around it; depth without normalisation."""
    layers, read = [], 3
    for _ in range(5):
        conv = nn.Conv2d(read, 24, 3, padding=1)
        nn.init.zeros_(conv.weight)
        with torch.no_grad():
            q = torch.linalg.qr(torch.randn(24, 24))[0][:, :read]
            conv.weight[:, :, 1, 1] = q
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.Tanh()]
        read = 24
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4))


def _pruned():
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    for layer in (model[0], model[2]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        prune.l1_unstructured(layer, "weight", amount=0.5)
    return model


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder transposed."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 20) / 20**0.5)
        self.hidden, self.visible = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(20))

    def forward(self, x):
        h = torch.tanh(functional.linear(x, self.weight, self.hidden))
        return functional.linear(h, self.weight.t(), self.visible)


def _zero_head():
    model = _deep(lambda w, _: nn.init.kaiming_normal_(w, nonlinearity="relu"), depth=2)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return model


def _forget_gate():
    model = Recurrent(nn.LSTM)
    with torch.no_grad():
        model.core.bias_ih_l0.zero_()
        model.core.bias_hh_l0.zero_()
        model.core.bias_ih_l0[32:64] = 1
    return model


def _softmax_regression():
    model = nn.Linear(20, 4)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def _frozen_backbone():
    model = he(ResNet())
    for module in (model.stem, model.layers):
        module.requires_grad_(requires_grad=False)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    return model


def _half():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4)).to(torch.bfloat16)


class RmsNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(20, 48)
        self.norm = nn.RMSNorm(48)
        self.gate, self.up, self.down = (
            nn.Linear(48, 96, bias=False),
            nn.Linear(48, 96, bias=False),
            nn.Linear(96, 48, bias=False),
        )
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        x = self.lift(x)
        h = self.norm(x)
        return self.head(x + self.down(functional.silu(self.gate(h)) * self.up(h)))


def specimens():
    seen, plain = images(), vectors()
    looks = {
        "zero-gamma": (_zero_gamma, seen),
        "fixup": (Fixup, seen),
        "rezero": (ReZero, plain),
        "layer-scale": (LayerScale, plain),
        "lora": (_lora, plain),
        "zero-convolution": (ControlNet, Batch(seen.inputs, seen.inputs)),
        "adaln-zero": (DiffusionTransformer, Batch((draw(64, 8), classes(64, 20)), draw(64, 8, seed=4))),
        "irnn": (IdentityRnn, Batch(draw(32, 12, 4), classes(32, 3))),
        "orthogonal": (lambda: _deep(nn.init.orthogonal_, gain=2**0.5), plain),
        "orthogonal-tanh": (lambda: _deep(nn.init.orthogonal_, gain=5 / 3, activation=nn.Tanh), plain),
        "he-deep": (lambda: _deep(lambda w, _: nn.init.kaiming_normal_(w, nonlinearity="relu"), depth=10), plain),
        "identity-centre": (_delta_orthogonal, seen),
        "pruned": (_pruned, plain),
        "tied": (Tied, Batch(draw(64, 20), draw(64, 20))),
        "zero-head": (_zero_head, plain),
        "forget-gate-one": (_forget_gate, Batch(classes(32 * 10, 50).reshape(32, 10), classes(32, 3))),
        "softmax-regression-from-zeros": (_softmax_regression, plain),
        "frozen-backbone": (_frozen_backbone, seen),
        "bfloat16": (_half, plain),
        "rms-gated": (RmsNetwork, plain),
        "gpt2-scaled-residuals": (
            NanoGpt,
            Batch(
                classes(32 * 12, 50, seed=8).reshape(32, 12), classes(32 * 12, 50, seed=8).reshape(32, 12).roll(-1, 1)
            ),
        ),
    }
    for name, (build, batch) in looks.items():
        yield Specimen(name, build, batch, "initialisation")
