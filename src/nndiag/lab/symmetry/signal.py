"""How strong is the signal at each layer, forward and backward, and how much of the input is still in it?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nndiag.lab.bench import set_mode
from nndiag.lab.bench_parts import RandomTargets
from nndiag.lab.watch.roles import ACTIVATION, AFFINE, ATTENTION, NORMALISER, RECURRENT
from nndiag.lab.watch.sites import trace
from nndiag.science.signal import between_share, mean_cosine, participation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nndiag.lab.bench import Bench
    from nndiag.lab.watch.calls import Call
    from nndiag.lab.watch.sites import Trace

SKETCH = 4096  # entries of a representation kept per input for the share between inputs
# Activations whose output is exactly zero on a whole half-line.
CUTS = frozenset({"relu", "relu6", "threshold", "hardshrink", "softshrink", "hardswish", "hardsigmoid", "clamp_min",
                  "ReLU", "ReLU6", "Threshold", "Hardshrink", "Softshrink", "Hardswish", "Hardsigmoid",
                  "ReLUSquared", "SquaredReLU"})  # fmt: skip


@dataclass(slots=True)
class Site:
    """One layer or activation as one forward and backward saw it."""

    name: str
    call: Call
    role: str
    incoming: float = math.nan  # second moment of what it reads
    outgoing: float = math.nan  # of what it makes
    share: float = math.nan  # between-input share of what it makes
    cosine: float = math.nan
    read_share: float = math.nan  # of what it reads
    read_width: int = 0  # features that it reads
    directions: float = math.nan  # along which what it reads varies: participation ratio of its variance
    backward: float = math.nan  # mean square gradient that arrives at its output, summed over the output
    units: int = 0
    dead: int = 0  # units zero for every input
    always: int = 0  # units never zero
    quiet: tuple[int, ...] = ()
    seen: int = 0  # samples times positions


@dataclass(slots=True)
class Signals:
    """Every site in call order."""

    sites: list[Site] = field(default_factory=list)
    flow: Trace | None = None
    samples: int = 0
    inputs_differ: bool = True

    def of_role(self, *roles: str) -> list[Site]:
        """The sites with these roles."""
        return [site for site in self.sites if site.role in roles]


class _Listener:
    """Measures calls as they end, and the gradients that come back later."""

    def __init__(self) -> None:
        self.by_index: dict[int, Site] = {}
        self.output: Any = None
        self.samples = 0

    def __call__(self, call: Call, read: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> None:
        if call.kind == "module" and call.owner == "" and call.name == "":
            self.output = made
        if call.role not in {AFFINE, ACTIVATION, RECURRENT, ATTENTION, NORMALISER} or not made:
            return
        result = made[0]
        source = next((item for item in read if item.is_floating_point()), None)
        if not result.is_floating_point() or result.numel() == 0 or source is None:
            return
        name = call.name if call.kind == "module" else f"{call.owner or '(model)'} {call.name}"
        site = Site(name=name, call=call, role=call.role)
        site.incoming, site.outgoing = _moment(source), _moment(result)
        if result.dim() >= 2 and result.shape[0] == self.samples:
            flat = _sketch(result)
            site.share, site.cosine = between_share(flat), mean_cosine(flat)
        if source.dim() >= 2 and source.shape[0] == self.samples:
            sketch = _sketch(source)
            site.read_share, site.read_width = between_share(sketch), sketch.shape[1]
            if call.role == AFFINE:
                site.directions = participation(sketch)
        if call.role == ACTIVATION and call.op in CUTS:
            _count_dead(site, result, self.samples)
        if result.requires_grad:
            result.register_hook(lambda grad, site=site: _heard(site, grad))  # type: ignore[no-untyped-call]
        self.by_index[call.index] = site


def _heard(site: Site, grad: Tensor) -> None:
    total = float(grad.detach().abs().square().sum())
    site.backward = total if math.isnan(site.backward) else site.backward + total


def _moment(item: Tensor) -> float:
    return float(item.detach().double().square().mean())


def _sketch(item: Tensor) -> NDArray[np.float64]:
    """Each input's representation, thinned to at most SKETCH entries at fixed strides."""
    flat = item.detach().reshape(item.shape[0], -1)
    if flat.shape[1] > SKETCH:
        flat = flat[:, :: flat.shape[1] // SKETCH + 1]
    return np.asarray(flat.double().cpu().numpy())


def _count_dead(site: Site, result: Tensor, samples: int) -> None:
    """Count units (the channel axis of maps, the last axis otherwise) that are zero everywhere."""
    if result.dim() < 2 or result.shape[0] != samples:
        return
    axis = 1 if result.dim() >= 4 else result.dim() - 1
    rest = [index for index in range(result.dim()) if index != axis]
    zero = (result.detach() == 0).to(torch.float64).mean(dim=rest)
    site.units = int(result.shape[axis])
    quiet = torch.nonzero(zero == 1).flatten()
    site.dead, site.always = int(quiet.numel()), int((zero == 0).sum())
    site.quiet = tuple(int(unit) for unit in quiet[:4096])
    site.seen = int(result.numel() // max(1, site.units))


def measure(bench: Bench, inputs: Any, samples: int) -> Signals:
    """Run one forward and one backward at the start values, normalisers on batch statistics, dropout off.

    The backward pass starts from random targets at every output, so that no cancellation of the user's loss at the
    first step (softmax over a constant head) hides a gradient.
    """
    bench.restore()
    listener = _Listener()
    listener.samples = samples
    model = bench.model
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(bench.dtype)
        set_mode(model, bench.frozen_norms, dropout=False, quiet_mode=bench.quiet_mode)
        model.training = True  # what is in evaluation mode below a training model stays there
        flow = trace(model, inputs, training=True, seed=bench.seed, on_call=listener)
        if listener.output is not None:
            loss = RandomTargets(bench.seed)(listener.output)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
    finally:
        torch.set_default_dtype(default)
        for item in model.parameters():
            item.grad = None
        bench.restore()
    shown = {step.index for step in flow.steps}
    sites = [
        replace(site, call=flow.calls[index], role=flow.calls[index].role)
        for index, site in sorted(listener.by_index.items())
        if index in shown
    ]
    return Signals(sites, flow, samples)


def chain(signals: Signals, roles: Sequence[str] = (AFFINE, RECURRENT)) -> list[Site]:
    """The weighted layers in call order."""
    return [site for site in signals.sites if site.role in roles]
