"""What the tests of check-normalization share: one call, and sets of inputs."""

import numpy as np
import torch
from torch import nn

from nndiag.checks.normalization import CheckNormalization
from nndiag.core.check import diagnose
from nndiag.core.subject import Run
from nndiag.load.subject import load_subject

IMAGENET = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
MEAN, SD = IMAGENET


def look(x, y=None, *, serve=None, model=None, axis=None, seconds=60.0, train=None, **training):
    data = (x, y) if y is not None else x
    run = Run(max_seconds=seconds, train=train)
    subject = load_subject(model, data, serve=serve, run=run, need_data=False, **training)
    return diagnose(CheckNormalization(feature_axis=axis), subject)


def codes(report, level=None):
    return {item.rule.code for item in report.findings if level is None or item.severity.word == level}


def the(report, code):
    return next(item for item in report.findings if item.rule.code == code)


def number(report, name):
    return next(item.value for item in report.measurements if item.name == name)


def photos(seed, n=200, size=12):
    """8-bit images of different brightness whose channels have the natural red > green > blue means."""
    rng = np.random.default_rng(seed)
    x = np.array([0.50, 0.45, 0.38]).reshape(1, 3, 1, 1) + rng.normal(0, 0.12, (n, 1, 1, 1))
    return np.round(255 * np.clip(x + rng.normal(0, 0.22, (n, 3, size, size)), 0, 1)).astype(np.float32)


def imagenet(raw):
    return ((raw / 255 - MEAN) / SD).astype(np.float32)


def strokes(n=400, seed=0):
    """MNIST-like: mostly black, and a class that can be learnt."""
    gen = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, 1, 12, 12, generator=gen) < 0.25).float() * torch.rand(n, 1, 12, 12, generator=gen)
    y = (x.flatten(1) @ torch.randn(144, 10, generator=torch.Generator().manual_seed(99))).argmax(1)
    return (255 * x).round(), y


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 10))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn(momentum=0.1):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(800, 10)
    )


def trained(model, x, y, steps, *, frozen=False):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    gen = torch.Generator().manual_seed(1)
    if frozen:
        model.eval()
    for _ in range(steps):
        rows = torch.randint(0, len(x), (32,), generator=gen)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()
