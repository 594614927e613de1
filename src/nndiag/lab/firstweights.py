"""In a file of weights without a model: which normaliser reads the data, and what would it be fed?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from nndiag.lab.batchnorm import Fit, fit_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nndiag.core.subject import WeightSource

EPS = 1e-5  # torch's default; a file of weights does not hold it
CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}


@dataclass(frozen=True)
class Stored:
    """Statistics that a file remembers, and the layer between the data and them."""

    name: str  # of the normaliser
    layer: str  # of the weights before it; "" where it reads the data itself
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    updates: int | None

    @property
    def as_built(self) -> bool:
        """Whether the statistics are still exactly 0 and 1."""
        return bool((self.mean == 0).all() and (self.var == 1).all())

    def fit(self, inputs: Tensor) -> Fit:
        """Return how the data fit what is remembered, (N, channels, …); of two ways to pad the better one."""
        fits = [fit_of(self.name, values, self.mean, self.var + EPS) for values in self._fed(inputs.float())]
        return min(fits, key=lambda one: one.kl)

    def _fed(self, x: Tensor) -> list[Tensor]:
        """What the normaliser may read: behind the layer as it may be padded, with and without a rectifier."""
        if self.weight is None:
            return [x]
        if self.weight.dim() == 2:
            flat = x if x.shape[-1] == self.weight.shape[1] else x.flatten(1)
            made = [functional.linear(flat, self.weight, self.bias).flatten(0, -2)]
        else:
            convolve, size = CONVOLUTIONS[self.weight.dim()], self.weight.shape[2:]
            pads = [tuple(0 for _ in size), tuple(width // 2 for width in size)]
            made = [convolve(x, self.weight, self.bias, padding=pad) for pad in pads if _roomy(x, pad, size)]
        return [way for values in made for way in (values, values.relu())]


def _roomy(x: Tensor, pad: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether a padded input holds the kernel."""
    return all(n + 2 * p >= k for n, p, k in zip(x.shape[2:], pad, size, strict=True))


def stored_first(weights: WeightSource, shape: tuple[int, ...]) -> Stored | None:
    """Return the normaliser nearest to data whose rows have this shape, channels first; None when it cannot be told.

    The layer that reads the data is the one whose weights have the data's width, if there is only one; its normaliser
    is the one of its own width that stands nearest by name and then, where the file keeps the model's order, by place.
    """
    names, shapes = list(weights.shapes), weights.shapes
    ordered = not _by_alphabet(names)
    norms = {name.removesuffix("running_mean"): shapes[name][0] for name in names if name.endswith("running_mean")}
    layers = [name for name in names if len(shapes[name]) >= 2 and name.endswith("weight")]
    readers = [name for name in layers if _reads(shapes[name], shape)]
    if len(readers) != 1:
        readers = [name for name in readers if ordered and name == layers[0]]
    reader = readers[0] if readers else ""
    before = names.index(reader) if reader else len(names)
    inner = [key for key, width in norms.items() if width == shape[0] and names.index(f"{key}running_mean") < before]
    if len(inner) == 1 and (not reader or shapes[reader][0] != shape[0]):
        return _taken(weights, inner[0], "")
    if not reader:
        return None
    near = [key for key, width in norms.items() if width == shapes[reader][0]]
    apart = {key: _distance(reader, key) for key in near}
    near = [key for key in near if apart[key] == min(apart.values())]
    behind = [key for key in near if names.index(f"{key}running_mean") > before] if ordered else near
    return _taken(weights, behind[0], reader) if behind and (ordered or len(behind) == 1) else None


def _reads(weight: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether weights (out, in, …) take rows of this shape, (channels, …)."""
    if len(weight) == 2:
        return weight[1] in {torch.Size(shape).numel(), shape[-1]}
    return len(weight) == len(shape) + 1 and weight[1] == shape[0]


def _by_alphabet(names: list[str]) -> bool:
    """Whether a file keeps its names by the alphabet and not as the model held them: weight before running mean."""
    place = {name: k for k, name in enumerate(names)}
    means = [name for name in names if name.endswith("running_mean")]
    return any(place[name] < place.get(name.removesuffix("running_mean") + "weight", -1) for name in means)


def _distance(layer: str, norm: str) -> tuple[int, int]:
    """How far a normaliser stands from a layer by name: parts that they share, then the difference in depth."""
    one, other = layer.split(".")[:-1], norm.split(".")[:-1]
    shared = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return -shared, abs(len(one) - len(other))


def _taken(weights: WeightSource, norm: str, layer: str) -> Stored:
    wanted = {f"{norm}running_mean", f"{norm}running_var", f"{norm}num_batches_tracked"}
    bias = layer.removesuffix("weight") + "bias" if layer else ""
    held: Mapping[str, Tensor] = {
        name: item.float() for name, item in weights.tensors() if name in wanted | {layer, bias} and name
    }
    count = held.get(f"{norm}num_batches_tracked")
    made = Stored(
        norm.rstrip("."),
        layer.removesuffix(".weight"),
        held[f"{norm}running_mean"],
        held[f"{norm}running_var"],
        held.get(layer),
        held.get(bias),
        int(count) if count is not None else None,
    )
    return replace(made, updates=None) if made.updates == 0 and not made.as_built else made  # nobody counted
