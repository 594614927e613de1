"""The architectures that people write by hand, small."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from nndiag.core.subject import Batch
from zoo.specimen import Specimen, classes, draw, images, vectors


def he(module):
    """Initialise as torchvision does: He for convolutions, fan out."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class BasicBlock(nn.Module):
    def __init__(self, read, write, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(read, write, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(write)
        self.conv2 = nn.Conv2d(write, write, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(write)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Identity()
        if stride != 1 or read != write:
            self.skip = nn.Sequential(nn.Conv2d(read, write, 1, stride, bias=False), nn.BatchNorm2d(write))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.skip(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 32, 2), BasicBlock(32, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, 16) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        for first in (0, 2):
            h = self.convs[first](functional.relu(self.norms[first](x)))
            x = x + self.convs[first + 1](functional.relu(self.norms[first + 1](h)))
        return self.head(functional.adaptive_avg_pool2d(functional.relu(x), 1).flatten(1))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        widths = [16, 24, 32]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1, bias=False) for width in widths)
        self.last = nn.BatchNorm2d(40)
        self.head = nn.Linear(40, 4)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(torch.relu(norm(torch.cat(features, 1)))))
        return self.head(torch.relu(self.last(torch.cat(features, 1))).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()

        def double(read, write):
            return nn.Sequential(
                nn.Conv2d(read, write, 3, padding=1), nn.BatchNorm2d(write), nn.ReLU(),
                nn.Conv2d(write, write, 3, padding=1), nn.BatchNorm2d(write), nn.ReLU(),
            )  # fmt: skip

        self.down1, self.down2 = double(3, 16), double(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.join = double(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        fine = self.down1(x)
        coarse = self.down2(self.pool(fine))
        return self.head(self.join(torch.cat([fine, self.up(coarse)], 1)))


def _vgg():
    layers, read = [], 3
    for write in (16, 32):
        layers += [nn.Conv2d(read, write, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        read = write
    return he(
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4))
    )


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Linear(64, 8))
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 20))

    def forward(self, x):
        return self.decode(self.encode(x))


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(20, 64), nn.Tanh())
        self.mean, self.log_variance = nn.Linear(64, 6), nn.Linear(64, 6)
        self.decode = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 20))

    def forward(self, x):
        h = self.encode(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return self.decode(z), mean, log_variance


class InvertedResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block = nn.Sequential(
            nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6(),
            nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False), nn.BatchNorm2d(48), nn.ReLU6(),
            nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.squeeze = nn.Sequential(nn.Conv2d(16, 8, 1), nn.SiLU(), nn.Conv2d(8, 16, 1), nn.Sigmoid())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        x = x * self.squeeze(x.mean((2, 3), keepdim=True))
        return self.head(x.mean((2, 3)))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


class CausalAttention(nn.Module):
    """nanoGPT's block: fused q, k, v, dropout handed to the fused attention in training only."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        rows, length, width = x.shape
        parts = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        p = self.drop.p if self.training else 0.0
        y = functional.scaled_dot_product_attention(*parts.unbind(0), is_causal=True, dropout_p=p)
        return self.drop(self.project(y.transpose(1, 2).reshape(rows, length, width)))


class NanoGpt(nn.Module):
    def __init__(self, vocab=50, width=32):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(16, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = CausalAttention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))
        self.head = nn.Linear(width, vocab, bias=False)
        self.tokens.weight = self.head.weight
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, 0, 0.02 / 2**0.5 if name.endswith(("project.weight", "mlp.2.weight")) else 0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = x + self.attention(self.norms[0](x))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x))


class Temporal(nn.Module):
    """A dilated causal network (TCN) with weight norm."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.convs = nn.ModuleList(
            norm(nn.Conv1d(4 if step == 0 else 24, 24, 3, dilation=2**step)) for step in range(3)
        )
        self.down = nn.Conv1d(4, 24, 1)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        h = x
        for step, conv in enumerate(self.convs):
            out = functional.relu(conv(functional.pad(h, (2 * 2**step, 0))))
            h = out + (self.down(h) if step == 0 else h)
        return self.head(h[:, :, -1])


class DeepSets(nn.Module):
    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
        self.all = nn.Sequential(nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x):
        return self.all(self.each(x).mean(1))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(20, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4)) for _ in range(3))

    def forward(self, x):
        shares = self.gate(x).softmax(1)
        return sum(shares[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


class Sine(nn.Module):
    """SIREN: sines, initialised as its paper says."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32)])
        self.head = nn.Linear(32, 1)
        nn.init.uniform_(self.layers[0].weight, -0.5, 0.5)
        nn.init.uniform_(self.layers[1].weight, -((6 / 32) ** 0.5) / 30, (6 / 32) ** 0.5 / 30)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


class Tabular(nn.Module):
    """Numbers and categories side by side, as a dict."""

    def __init__(self):
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, 8) for size in (12, 30))
        self.norm = nn.BatchNorm1d(6)
        self.core = nn.Sequential(nn.Linear(22, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 2))

    def forward(self, numbers, categories):
        parts = [embed(categories[:, i]) for i, embed in enumerate(self.embed)]
        return self.core(torch.cat([self.norm(numbers), *parts], 1))


class Dueling(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(20, 64), nn.ReLU())
        self.value, self.advantage = nn.Linear(64, 1), nn.Linear(64, 4)

    def forward(self, x):
        h = self.trunk(x)
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(1, keepdim=True)


def _discriminator():
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, 16, 4, 2, 1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(16, 32, 4, 2, 1)), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(32 * 16, 1),
    )  # fmt: skip


def _generator():
    return nn.Sequential(
        nn.Linear(12, 32 * 16), nn.Unflatten(1, (32, 4, 4)), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def _lenet():
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 4),
    )  # fmt: skip


def _video():
    return nn.Sequential(
        nn.Conv3d(2, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def specimens():
    seen = images()
    for name, build in (
        ("resnet-by-hand", lambda: he(ResNet())),
        ("preactivation-groupnorm", PreActivation),
        ("densenet-by-hand", lambda: he(DenseNet())),
        ("vgg-by-hand", _vgg),
        ("inverted-residual", InvertedResidual),
        ("mlp-mixer", Mixer),
        ("lenet", _lenet),
    ):
        yield Specimen(name, build, seen, "handmade")
    masks = torch.randint(0, 2, (32, 16, 16), generator=torch.Generator().manual_seed(6))
    yield Specimen("unet", lambda: he(UNet()), Batch(seen.inputs, masks), "handmade")
    x = draw(64, 20)
    yield Specimen("autoencoder", AutoEncoder, Batch(x, x), "handmade")
    yield Specimen("variational", Variational, Batch(x, x), "handmade")
    tokens = classes(32 * 12, 50).reshape(32, 12)
    yield Specimen("nano-gpt", NanoGpt, Batch(tokens, tokens.roll(-1, 1)), "handmade")
    yield Specimen("temporal-convolution", Temporal, Batch(draw(32, 4, 24), classes(32, 3)), "handmade")
    yield Specimen("deep-sets", DeepSets, Batch(draw(32, 10, 8), classes(32, 3)), "handmade")
    yield Specimen("experts", Experts, vectors(), "handmade")
    place = draw(64, 2).clamp(-1, 1)
    yield Specimen("siren", Sine, Batch(place, torch.sin(5 * place).prod(1, keepdim=True)), "handmade")
    columns = {"numbers": draw(64, 6), "categories": classes(128, 12).reshape(64, 2)}
    yield Specimen("tabular", Tabular, Batch(columns, classes(64, 2)), "handmade")
    yield Specimen("dueling", Dueling, Batch(draw(64, 20), draw(64, 4, seed=7)), "handmade")
    yield Specimen("discriminator", _discriminator, Batch(seen.inputs, classes(32, 2).float()[:, None]), "handmade")
    yield Specimen("generator", _generator, Batch(draw(32, 12), draw(32, 3, 16, 16).tanh()), "handmade")
    yield Specimen("video", _video, Batch(draw(16, 2, 4, 8, 8), classes(16, 3)), "handmade")
