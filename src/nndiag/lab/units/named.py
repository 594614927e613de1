"""Units of weights without a model: what names and shapes tell, and one pass over the tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nndiag.science.orbits import identical, near

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_EMBEDDING = re.compile(r"(^|[._])(embed\w*|wte|word_embeddings|tok_embeddings|shared|lm_head)($|[._])", re.IGNORECASE)
_TABLE = re.compile(
    r"(^|[._])(wpe|\w*posit\w*)($|[._])", re.IGNORECASE
)  # often computed: sines of nearly equal columns
_WEIGHT = re.compile(
    r"(^|\.)(weight|kernel|weight_orig|weight_v|weight_ih_l\d+(_reverse)?|in_proj_weight|[qkv]_proj_weight|parametrizations\.weight\.original1?)$"
)
_RECURRENT = re.compile(r"weight_ih_l\d+(_reverse)?$")
_LOW_RANK = (("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora_a", "lora_b"))
# Second factors of blocks, by the names that libraries give them: first -> second.
_READERS = (
    ("fc1", "fc2"), ("c_fc", "c_proj"), ("linear1", "linear2"), ("wi", "wo"), ("w1", "w2"), ("lin1", "lin2"),
    ("up_proj", "down_proj"), ("gate_proj", "down_proj"), ("intermediate.dense", "output.dense"), ("dense_h_to_4h",
    "dense_4h_to_h"), ("fc_in", "fc_out"), ("pwconv1", "pwconv2"), ("v_proj", "out_proj"), ("v_proj", "o_proj"),
)  # fmt: skip
NEAR_ENTRIES = 4_000_000  # entries above which rows are compared exactly only


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight that holds units."""

    module: str
    weight: str
    shape: tuple[int, ...]
    axis: int  # which axis counts the units
    bias: str | None = None
    gates: int = 1  # of a recurrent layer: units are rows of every gate

    @property
    def units(self) -> int:
        """How many units."""
        return self.shape[self.axis] // self.gates

    @property
    def label(self) -> str:
        """The module, or the tensor where it has none."""
        return self.module or self.weight


@dataclass(slots=True)
class Survey:
    """What one pass over a weight showed."""

    units: int
    width: int
    groups: list[NDArray[np.int64]] = field(default_factory=list)  # equal units, not zero
    zero: bool = False
    nonfinite: bool = False
    columns: NDArray[np.int64] | None = None  # classes of equal input columns: how this layer reads another


def plan(shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """Return the layers that names and shapes describe.

    Rows are units in torch's layout (out, in); columns are in Hugging Face's Conv1D and in Keras (in, out), told by
    the bias or the name; the features of an embedding are its columns, because a row belongs to a token.
    """
    layers = []
    for name, shape in shapes.items():
        if len(shape) < 2 or min(shape) < 1 or not _WEIGHT.search(name) or _TABLE.search(name):
            continue
        module, _, leaf = name.rpartition(".")
        if module.endswith("parametrizations.weight"):
            module, leaf = module.removesuffix("parametrizations.weight").removesuffix("."), "weight"
        gates = 1
        if _RECURRENT.search(name):
            hidden = shapes.get(name.replace("weight_ih", "weight_hh"), (0, 0))[-1]
            gates = shape[0] // hidden if hidden and shape[0] % hidden == 0 else 1
        bias = next((key for key in _biases(module, leaf) if key in shapes), None)
        axis = _axis(name, shape, shapes.get(bias) if bias else None)
        if shape[axis] // gates > 1 and not (len(shape) > 2 and shape[1] == 1):  # a depthwise filter has its own input
            layers.append(Layer(module, name, shape, axis, bias, gates))
    return layers


def _biases(module: str, leaf: str) -> list[str]:
    names = {
        "weight": "bias",
        "kernel": "bias",
        "weight_orig": "bias",
        "weight_v": "bias",
        "in_proj_weight": "in_proj_bias",
    }
    other = names.get(leaf, leaf.replace("weight", "bias"))
    return [f"{module}.{other}" if module else other]


def _axis(name: str, shape: tuple[int, ...], bias: tuple[int, ...] | None) -> int:
    if len(shape) == 2 and _EMBEDDING.search(name):
        return 1
    if name.endswith("kernel"):
        return len(shape) - 1
    if bias and bias[0] == shape[1] and bias[0] != shape[0]:
        return 1
    if len(shape) == 2 and re.search(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$", name):
        return 1  # Hugging Face's Conv1D
    return 0


def reader_of(layer: Layer, layers: Sequence[Layer]) -> Layer | None:
    """Return the layer that reads this one's units, where names say so; None where they do not."""
    table = {item.module: item for item in layers}
    for first, second in (*_LOW_RANK, *_READERS):
        if first in layer.module:
            other = table.get(layer.module.replace(first, second))
            if other is not None and other is not layer and _inputs(other) == layer.units:
                return other
    numbered = re.search(r"^(.*?)(\d+)$", layer.module)
    if numbered is None or layer.gates > 1:
        return None
    stem, index = numbered.group(1), int(numbered.group(2))
    later = (
        sorted(
            (int(match.group(1)), item)
            for item in layers
            if (match := re.fullmatch(re.escape(stem) + r"(\d+)", item.module)) and int(match.group(1)) > index
        )
        if stem is not None
        else []
    )
    follower = later[0][1] if later else None
    return follower if follower is not None and _inputs(follower) % layer.units == 0 else None


def _inputs(layer: Layer) -> int:
    return layer.shape[1] if layer.axis == 0 else layer.shape[0]


def survey(
    layers: Sequence[Layer], tensors: Iterable[tuple[str, Tensor]], tolerance: float
) -> Iterator[tuple[str, Survey]]:
    """Read each tensor once; yield a weight's name and what it showed.

    A bias may come before or after its weight, so groups wait for it: only their numbers are kept, never a tensor.
    """
    by_weight = {layer.weight: layer for layer in layers}
    by_bias = {layer.bias: layer for layer in layers if layer.bias}
    biases: dict[str, NDArray[np.float64]] = {}
    waiting: dict[str, Survey] = {}
    for name, tensor in tensors:
        if name in by_bias:
            biases[name] = tensor.detach().to(torch.float64).reshape(-1).numpy()
        if name in by_weight:
            waiting[name] = _look(by_weight[name], tensor, tolerance)
    for name, result in waiting.items():
        layer = by_weight[name]
        bias = biases.get(layer.bias) if layer.bias else None
        if bias is not None and bias.size == layer.units * layer.gates:
            result.groups = _with_bias(result.groups, bias.reshape(layer.gates, -1).T, tolerance)
            result.width = layer.units - sum(group.size - 1 for group in result.groups)
            result.zero = result.zero and not bias.any()
        yield name, result


def _with_bias(groups: list[NDArray[np.int64]], bias: NDArray[np.float64], tolerance: float) -> list[NDArray[np.int64]]:
    rest: list[NDArray[np.int64]] = []
    for group in groups:
        rest.extend(group[part] for part in near(bias[group], tolerance).groups)
    return rest


def _look(layer: Layer, tensor: Tensor, tolerance: float) -> Survey:
    """Groups of equal units, whether all is zero or some is no number, and equal input columns."""
    rows: NDArray[Any] = _matrix(tensor, layer)
    found = identical(rows)
    if not found.groups and rows.size <= NEAR_ENTRIES and rows.dtype.kind == "f":
        found = near(rows, tolerance)
    # Zero rows are pruned or padding: they are no group of equals.
    groups = [group for group in found.groups if np.any(_values(rows[group[0]]))]
    zero = found.width == 1 and not np.any(_values(rows[0]))
    width = layer.units - sum(group.size - 1 for group in groups) if not zero else 1
    columns = None
    if layer.gates == 1 and rows.size <= NEAR_ENTRIES:
        columns = identical(np.ascontiguousarray(rows.T)).labels
    return Survey(layer.units, width, groups, zero=zero, nonfinite=_nonfinite(rows), columns=columns)


def _matrix(tensor: Tensor, layer: Layer) -> NDArray[np.generic]:
    """The weight as (units, features) without a copy where its layout allows; bfloat16 as bits."""
    item = tensor.detach()
    if item.dtype is torch.bfloat16:
        item = item.view(torch.uint16) if item.is_contiguous() else item.contiguous().view(torch.uint16)
    elif item.is_floating_point() and item.element_size() == 1:
        item = item.float()
    array: NDArray[np.generic] = item.numpy()
    if layer.gates > 1:
        return array.reshape(layer.gates, layer.units, -1).transpose(1, 0, 2).reshape(layer.units, -1)
    if layer.axis == 0:
        return array.reshape(layer.shape[0], -1)
    return np.moveaxis(array, layer.axis, 0).reshape(layer.units, -1) if array.ndim > 2 else array.T


def _values(row: NDArray[Any]) -> NDArray[np.generic]:
    return row & 0x7FFF if row.dtype == np.uint16 else row


def _nonfinite(rows: NDArray[Any]) -> bool:
    """Whether a sample of the rows holds NaN or infinity (whole small tensors, a thousand rows of large ones)."""
    sample = rows if rows.size <= NEAR_ENTRIES else rows[:: max(1, rows.shape[0] // 1000)]
    if rows.dtype == np.uint16:
        return bool(((sample & 0x7F80) == 0x7F80).any())
    return bool(rows.dtype.kind == "f" and not np.isfinite(sample).all())
