"""What stands behind a layer's units: who reads them, with which columns, through which activations?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nndiag.lab.roles import ACTIVATION, AFFINE, NORMALISER, PASSIVE
from nndiag.science.orbits import identical, numbered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from nndiag.lab.calls import Call
    from nndiag.lab.sites import Trace
    from nndiag.lab.units import UnitView

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
    ends = flow.after(call, through=_THROUGH)
    names = tuple(step.name or step.owner for step in ends)
    acts = tuple(dict.fromkeys(step.op for step in path if step.role == ACTIVATION))
    norms = tuple(dict.fromkeys(step.name for step in path if step.role == NORMALISER and step.module is not None))
    answer = flow.is_output(call) or any(flow.is_output(step) for step in path)
    parts = [_columns(step, view, tensors) for step in ends]
    parts += [_affine(flow, name, view, tensors) for name in norms]
    last = any(flow.reaches_output(step) for step in ends if step.role == AFFINE)
    known = bool(ends) and all(part is not None for part in parts) and not answer
    columns = np.concatenate([part for part in parts if part is not None], axis=1) if known and parts else None
    return Outgoing(columns, names, acts, norms, answer, last)


_THROUGH = (*PASSIVE, ACTIVATION, NORMALISER)


def _call_of(flow: Trace | None, view: UnitView) -> Call | None:
    if flow is None or view.part or view.kind not in {"linear", "conv", "bilinear"}:
        return None
    return next((step for step in flow.steps if step.kind == "module" and step.name == view.module), None)


def _path(flow: Trace, call: Call) -> list[Call]:
    """The steps between a layer and its readers."""
    found: dict[int, Call] = {}
    waiting = list(flow.consumers(call))
    while waiting:
        step = waiting.pop()
        if step.index not in found and step.role in _THROUGH:
            found[step.index] = step
            waiting.extend(flow.consumers(step))
    return [found[index] for index in sorted(found)]


def _columns(step: Call, view: UnitView, tensors: Mapping[str, Tensor]) -> NDArray[np.float64] | None:
    """The columns of a reader's weight that belong to each unit; None when it cannot be said."""
    module = step.module
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or f"{step.name}.weight" not in tensors:
        return None
    weight = tensors[f"{step.name}.weight"]
    inputs = int(weight.shape[1])
    if getattr(module, "groups", 1) != 1 or inputs % view.units:
        return None
    with torch.no_grad():
        apart = weight.detach().double().reshape(weight.shape[0], view.units, -1).transpose(0, 1)
        return np.asarray(apart.reshape(view.units, -1).cpu().numpy())


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


def zero_pairs(flow: Trace, model: nn.Module) -> list[ZeroPair]:
    """Pairs of zero layers in series with nothing between them that lifts a zero (no bias, f(0) = 0)."""
    zero = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and isinstance(weight, Tensor):
            bias = getattr(module, "bias", None)
            silent = bias is None or not bool(bias.detach().any())
            if weight.requires_grad and weight.numel() and not bool(weight.detach().any()):
                zero[name] = silent
    pairs: list[ZeroPair] = []
    for step in flow.steps:
        if step.kind != "module" or not zero.get(step.name, False):
            continue
        path = _path(flow, step)
        if any(item.role == ACTIVATION and item.op not in FIXES_ZERO for item in path):
            continue
        if any(item.role == NORMALISER for item in path):
            continue
        pairs.extend(
            ZeroPair(step.name, end.name, tuple(item.op for item in path if item.role == ACTIVATION))
            for end in flow.after(step, through=_THROUGH)
            if end.kind == "module" and end.name in zero
        )
    return list(dict.fromkeys(pairs))
