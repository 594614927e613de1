"""Faults planted behind a linear map or convolution of a healthy model."""

import torch
import torch.nn.functional as fn
from torch import nn


class Planted(nn.Module):
    """A layer with something sick behind it."""

    def __init__(self, inner, width):
        super().__init__()
        self.inner = inner
        self.setup(width)

    def setup(self, width):
        pass

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)  # models look at weights of their layers

    def forward(self, x):
        return self.sick(self.inner(x))


class NoFlag(Planted):
    def sick(self, y):
        return fn.dropout(y, 0.3)


class Missing(Planted):
    def sick(self, y):
        return y * (torch.rand_like(y) > 0.4) if self.training else y


class Double(Planted):
    def sick(self, y):
        return fn.dropout(y, 0.4, training=True) / 0.6 if self.training else y


class High(Planted):
    def setup(self, width):
        self.drop = nn.Dropout(0.9)

    def sick(self, y):
        return self.drop(y)


class BeforeNorm(Planted):
    def setup(self, width):
        self.drop, self.norm = nn.Dropout(0.6), nn.BatchNorm1d(width)

    def sick(self, y):
        axis = 1 if isinstance(self.inner, nn.modules.conv._ConvNd) else -1
        rows = self.drop(torch.relu(y)).movedim(axis, -1)
        return self.norm(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape).movedim(-1, axis)


class AlphaOnRelu(Planted):
    def setup(self, width):
        self.drop = nn.AlphaDropout(0.2)

    def sick(self, y):
        return self.drop(torch.relu(y))


MUTANTS = {
    "DRP101": NoFlag,
    "DRP103": Missing,
    "DRP104": Double,
    "DRP001": High,
    "DRP105": BeforeNorm,
    "DRP004": AlphaOnRelu,
}


def place_for(model):
    """The first plain layer wide enough that is not the last one; None where there is none."""
    layers = [(name, m) for name, m in model.named_modules() if type(m) in {nn.Linear, nn.Conv1d, nn.Conv2d} and name]
    wide = [name for name, m in layers[:-1] if m.weight.shape[0] >= 8]
    return wide[len(wide) // 2] if wide else None


def plant(model, name, mutant):
    """Put the mutant around one layer."""
    inner = model.get_submodule(name)
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], mutant(inner, inner.weight.shape[0]))
    return model
