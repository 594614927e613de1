"""What stands behind a layer's units: who reads them, with which columns, through which activations?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nndiag.lab.watch.roles import ACTIVATION, AFFINE, NORMALISER, OTHER, PASSIVE
from nndiag.science.orbits import identical, numbered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from nndiag.lab.units.layers import UnitView
    from nndiag.lab.watch.calls import Call
    from nndiag.lab.watch.sites import Trace

ODD = frozenset({"tanh", "Tanh", "softsign", "Softsign", "hardtanh", "Hardtanh", "tanhshrink", "Tanhshrink", "sin",
                 "softshrink", "Softshrink", "hardshrink", "Hardshrink", "Identity"})  # fmt: skip
# Activations with f(0) = 0: a zero factor stays zero behind them.
FIXES_ZERO = ODD | frozenset(
    [
        "relu",
        "ReLU",
        "relu6",
        "ReLU6",
        "gelu",
        "GELU",
        "silu",
        "SiLU",
        "mish",
        "Mish",
        "elu",
        "ELU",
        "selu",
        "SELU",
        "celu",
        "CELU",
        "leaky_relu",
        "LeakyReLU",
        "prelu",
        "PReLU",
        "hardswish",
        "Hardswish",
        "rrelu",
        "RReLU",
        "NewGELUActivation",
        "GELUActivation",
        "FastGELUActivation",
        "QuickGELUActivation",
        "SiLUActivation",
        "PytorchGELUTanh",
        "ReLUSquaredActivation",
        "GELUTanh",
    ]
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is known of the far side of a layer's units."""

    columns: NDArray[np.float64] | None  # (units, features) of the readers' weights; None: not known
    readers: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    normalisers: tuple[str, ...] = ()
    answer: bool = False  # the units are the model's own output
    last: bool = False  # the reader is the output layer

    def labels(self) -> NDArray[np.int64] | None:
        """Classes of units with equal outgoing columns."""
        return None if self.columns is None else identical(self.columns).labels


def outgoing(flow: Trace | None, view: UnitView, tensors: Mapping[str, Tensor]) -> Outgoing:
    """Follow a layer's units to the weighted layers that read them, through what acts on each unit alone."""
    call = _call_of(flow, view)
    if flow is None or call is None:
        return Outgoing(None)
    path = _path(flow, call)
    ends = flow.after(call, through=_THROUGH, stop=halts)
    names = tuple(weight_of(step).name or step.name or step.owner for step in ends)
    acts = tuple(dict.fromkeys(step.op for step in path if step.role == ACTIVATION))
    norms = tuple(dict.fromkeys(step.name for step in path if step.role == NORMALISER and step.module is not None))
    answer = flow.is_output(call) or any(flow.is_output(step) for step in path)
    parts = [_columns(step, view, tensors) for step in ends]
    parts += [_affine(flow, name, view, tensors) for name in norms]
    parts += [_shift(step, view) for step in path if step.role == OTHER]
    last = any(flow.reaches_output(step) for step in ends if step.role == AFFINE)
    known = bool(ends) and all(part is not None for part in parts) and not answer
    columns = np.concatenate([part for part in parts if part is not None], axis=1) if known and parts else None
    return Outgoing(columns, names, acts, norms, answer, last)


_THROUGH = (*PASSIVE, ACTIVATION, NORMALISER, OTHER)  # with `halts`


def _call_of(flow: Trace | None, view: UnitView) -> Call | None:
    """The step that multiplies with a layer's weight."""
    if flow is None:
        return None
    if view.kind == "raw" and view.part:
        own = view.weights[0]
        return next((step for step in flow.steps if step.role == AFFINE and own in step.parameters), None)
    return next((step for step in flow.steps if step.kind == "module" and step.name == view.module), None)


def in_series(flow: Trace | None, first: UnitView, second: UnitView) -> bool:
    """Whether one of two layers reads what the other made, however far behind."""
    one, two = _call_of(flow, first), _call_of(flow, second)
    if flow is None or one is None or two is None or one is two:
        return False
    early, late = sorted((one, two), key=lambda step: step.index)
    return any(step.index == early.index for step in flow.upstream(late))


@dataclass(frozen=True, slots=True)
class _Weight:
    """What a step multiplies with, and by what name people know it."""

    name: str
    weight: Tensor | None = None
    bias: Tensor | None = None
    inputs: int = 1  # the axis that counts what is read
    groups: int = 1


def weight_of(step: Call) -> _Weight:
    """Return the weight of a torch layer, or of a product with a bare parameter."""
    module = step.module
    if module is not None:
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return _Weight("")
        return _Weight(step.name, module.weight, module.bias, groups=getattr(module, "groups", 1))
    refs = [ref for ref in step.refs if ref.parameter and isinstance(ref.tensor, Tensor)]
    weights = [ref for ref in refs if len(ref.shape) >= 2]
    biases = [ref for ref in refs if len(ref.shape) == 1]
    if step.role != AFFINE or len(weights) != 1 or len(biases) > 1:
        return _Weight("")
    right = weights[0].id == step.inputs[-1] and step.op in {"matmul", "mm"}
    bias = biases[0].tensor if biases else None
    if step.op in {"linear", "conv1d", "conv2d", "conv3d"} or (right and len(weights[0].shape) == 2):
        groups = step.argument(6, "groups", 1) if step.op != "linear" else 1
        return _Weight(weights[0].parameter, weights[0].tensor, bias, inputs=0 if right else 1, groups=groups)
    return _Weight("")


def halts(step: Call) -> bool:
    """Whether a walk along units ends at a step of no known role: anything but a bias or a gain of one axis."""
    if step.role != OTHER:
        return False
    slim = [ref for ref in step.refs if ref.parameter and math.prod(ref.shape) == max(ref.shape, default=1)]
    return step.op not in {"add", "sub", "mul", "div"} or not slim


def _shift(step: Call, view: UnitView) -> NDArray[np.float64] | None:
    """A bias or a gain, per unit; nothing where it is one number."""
    item = next(ref.tensor for ref in step.refs if ref.parameter)
    assert item is not None
    if item.numel() not in {1, view.units}:
        return None
    values = np.asarray(item.detach().double().reshape(-1, 1).cpu().numpy())
    return values if len(values) == view.units else np.zeros((view.units, 0))


def _path(flow: Trace, call: Call) -> list[Call]:
    """The steps between a layer and its readers."""
    found: dict[int, Call] = {}
    waiting = list(flow.consumers(call))
    while waiting:
        step = waiting.pop()
        if step.index not in found and step.role in _THROUGH and not halts(step):
            found[step.index] = step
            waiting.extend(flow.consumers(step))
    return [found[index] for index in sorted(found)]


def _columns(step: Call, view: UnitView, tensors: Mapping[str, Tensor]) -> NDArray[np.float64] | None:
    """The columns of a reader's weight that belong to each unit; None when it cannot be said."""
    far = weight_of(step)
    weight = tensors.get(far.name if step.module is None else f"{far.name}.weight") if far.name else None
    if weight is None or far.groups != 1 or weight.shape[far.inputs] % view.units:
        return None
    with torch.no_grad():
        apart = weight.detach().double().movedim(far.inputs, 0).reshape(view.units, -1)
        return np.asarray(apart.cpu().numpy())


def _affine(flow: Trace, name: str, view: UnitView, tensors: Mapping[str, Tensor]) -> NDArray[np.float64] | None:
    """Gain and shift of a normaliser in between, per unit; nothing where it has none."""
    del flow
    parts = [
        tensors[f"{name}.{leaf}"].detach().double().cpu().numpy()
        for leaf in ("weight", "bias")
        if f"{name}.{leaf}" in tensors
    ]
    if any(part.shape != (view.units,) for part in parts):
        return None
    return np.stack(parts, axis=1) if parts else np.zeros((view.units, 0))


def refine(groups: tuple[NDArray[np.int64], ...], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Split groups by a second partition; parts of one unit fall away."""
    rest: list[NDArray[np.int64]] = []
    for group in groups:
        local = numbered(labels[group])
        rest.extend(
            group[local == label] for label in range(int(local.max(initial=-1)) + 1) if (local == label).sum() > 1
        )
    return tuple(rest)


@dataclass(frozen=True, slots=True)
class ZeroPair:
    """Two layers in series that are both zero."""

    first: str
    second: str
    through: tuple[str, ...]


def zero_pairs(flow: Trace) -> list[ZeroPair]:
    """Pairs of zero layers in series with nothing between them that lifts a zero (no bias, f(0) = 0)."""
    zero = {step.index: item for step in flow.steps if _is_zero(item := weight_of(step))}
    pairs: list[ZeroPair] = []
    for step in flow.steps:
        bias = zero[step.index].bias if step.index in zero else None
        if step.index not in zero or (bias is not None and bool(bias.detach().any())):
            continue
        path = _path(flow, step)
        if any(item.role == ACTIVATION and item.op not in FIXES_ZERO for item in path):
            continue
        if any(item.role == NORMALISER for item in path):
            continue
        pairs.extend(
            ZeroPair(
                zero[step.index].name,
                zero[end.index].name,
                tuple(item.op for item in path if item.role == ACTIVATION),
            )
            for end in flow.after(step, through=_THROUGH, stop=halts)
            if end.index in zero
        )
    return list(dict.fromkeys(pairs))


def _is_zero(item: _Weight) -> bool:
    weight = item.weight
    return weight is not None and weight.requires_grad and weight.numel() > 0 and not bool(weight.detach().any())
