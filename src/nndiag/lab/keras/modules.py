"""Modules for the Keras layers that torch has no counterpart of."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class HardwiredDropout(nn.Dropout):
    """Dropout that was called with `training=True`: it drops in every mode."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Drop whatever the mode."""
        return functional.dropout(input, self.p, training=True)


class HardwiredSpatialDropout(nn.Dropout1d):
    """Dropout of whole channels (axis 1) that was called with `training=True`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Drop whatever the mode."""
        return functional.dropout1d(input, self.p, training=True)


class GaussianDropout(nn.Module):
    """Multiplies by 1 + N(0, p/(1-p)) in training (Srivastava et al. 2014, section 10)."""

    def __init__(self, p: float) -> None:
        """Take the rate."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by noise in training."""
        spread = math.sqrt(self.p / (1 - self.p))
        return x * (1 + spread * torch.randn_like(x)) if self.training and self.p else x


class GaussianNoise(nn.Module):
    """Adds N(0, stddev²) in training."""

    def __init__(self, stddev: float) -> None:
        """Take the standard deviation."""
        super().__init__()
        self.stddev = stddev

    def forward(self, x: Tensor) -> Tensor:
        """Add noise in training."""
        return x + self.stddev * torch.randn_like(x) if self.training else x


class Standardize(nn.Module):
    """Subtracts a stored mean and divides by a stored deviation: Keras's Normalization."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, *, invert: bool = False) -> None:
        """Take both, shaped to broadcast."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.invert = invert

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, or undo it."""
        x = x.to(self.mean.dtype)
        return self.mean + x * self.deviation if self.invert else (x - self.mean) / self.deviation


class Rescale(nn.Module):
    """Multiplies by a constant and adds one."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Any, offset: Any) -> None:
        """Take both, as numbers or one per channel of the last axis."""
        super().__init__()
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))
        self.register_buffer("offset", torch.as_tensor(offset, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Rescale."""
        return x.to(self.scale.dtype) * self.scale + self.offset


class MultiHeadAttention(nn.Module):
    """Keras's attention: projections of any width, of which heads are parts."""

    def __init__(self, heads: int, dropout: float, widths: dict[str, tuple[int, int]], *, bias: bool) -> None:
        """Take (inputs, outputs) of query, key, value and attention_output."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        for name, (inputs, outputs) in widths.items():
            self.add_module(name, nn.Linear(inputs, outputs, bias=bias))

    def forward(self, query: Tensor, value: Tensor, key: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Attend from each place of `query` to the places of `value`; (rows, places, width)."""
        q, k, v = (
            self.get_submodule(name)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name, x in (("query", query), ("key", value if key is None else key), ("value", value))
        )  # (rows, heads, places, width of a head)
        rate = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=causal)
        answer: Tensor = self.get_submodule("attention_output")(mixed.transpose(1, 2).flatten(2))
        return answer


def fixed(module: nn.Module, *, mode: bool) -> nn.Module:
    """Hold a module in one mode for good."""
    base = type(module)
    module.__class__ = _fixed_class(base, mode=mode)
    module.train(mode)
    return module


def _fixed_class(base: type[nn.Module], *, mode: bool) -> type[nn.Module]:
    """Return a subclass whose `train` does not listen."""

    def train(self: nn.Module, _mode: bool = True) -> nn.Module:
        base.train(self, mode)
        return self

    return type(base.__name__, (base,), {"train": train, "__module__": base.__module__})
