"""Measure each dropout on its own: its slope, the bias behind its map, the variance it sends into batch norm.

Every site is fed with what reaches it in eval mode, so that no dropout before it disturbs the measurement, and all
sites are measured in the same K forwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nndiag.lab.dropout.closed import Sums, activation_of, in_rows, module_activation, scattered, sums_at
from nndiag.lab.dropout.gates import Gate, gate_reader
from nndiag.lab.dropout.graph import Film, Key, Span, Step, slot_of
from nndiag.lab.dropout.ops import ALPHA, CHANNEL, FUSED, RECURRENT, ROW
from nndiag.lab.dropout.script import Script, Watch
from nndiag.lab.forward import tensors_in
from nndiag.science.activation_moments import Activation

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.lab.dropout.bench import Bench
    from nndiag.lab.dropout.expect import Expected
    from nndiag.lab.dropout.sites import Site

SAMPLE = 4000  # values kept for a histogram
FEWEST = 4  # masks drawn however late it is
MEMORY = 60_000_000  # elements kept for all sites together


@dataclass
class Gauge:
    """What is collected at one site."""

    site: Site
    reference: Tensor | None = None  # at the anchor, in eval mode
    fed: Tensor | None = None  # what the dropout receives, in eval mode
    given: tuple[Tensor, ...] = ()  # the same; query, key and value where it is inside attention
    slopes: list[float] = field(default_factory=list)  # one per mask
    seconds: list[float] = field(default_factory=list)  # Σ train² / Σ eval², one per mask
    fit: float = math.nan  # how well the mean training value is a multiple of the eval value
    sums: Sums | str = "no affine map reads it directly"
    activation: Activation | None = None
    gates: tuple[Gate, ...] | str = ""  # of the recurrent cells that read it, or why they are not predicted
    expected: Expected | None = None  # behind the activation, worked out when first asked for
    off: list[float] = field(default_factory=list)  # mean and mean square behind the activation, dropout off
    on: list[tuple[float, float]] = field(default_factory=list)  # the same, one per mask
    histogram_off: Tensor | None = None
    histogram_on: list[Tensor] = field(default_factory=list)
    totals: list[Tensor] = field(default_factory=list)  # sums of two halves of the masks behind a direct activation
    off_values: Tensor | None = None
    kernel: tuple[int, ...] = ()  # of the convolution that reads it
    spread_in: tuple[float, float] = (math.nan, math.nan)  # mean and variance of what is dropped
    why: str = ""  # why there is no slope
    unit: str = ""  # what one mask element drops together, as seen by what reads it

    @property
    def slope(self) -> float:
        """Mean slope of the training value on the eval value."""
        return sum(self.slopes) / len(self.slopes) if self.slopes else math.nan

    @property
    def halves(self) -> tuple[Tensor | None, Tensor | None]:
        """Mean values behind a direct activation, over the even and the odd masks."""
        n = len(self.on)
        if not self.totals or n < 2:
            return None, None
        return self.totals[0] / ((n + 1) // 2), self.totals[1] / (n // 2)

    @property
    def error(self) -> float:
        """Its standard error over masks."""
        return standard_error(self.slopes)


def standard_error(values: list[float]) -> float:
    """Standard deviation of the mean."""
    n = len(values)
    if n < 2:
        return math.inf
    mean = sum(values) / n
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


class SiteLab:
    """Runs the passes for a set of sites."""

    def __init__(self, bench: Bench, sites: list[Site], *, seed: int, late: Callable[[], bool] = bool) -> None:
        """Take the bench, the sites found on it, and who says that time is up."""
        self.bench, self.seed, self.late, self.drawn = bench, seed, late, 0
        self.gauges = [Gauge(site) for site in sites]
        self.rates = {site.seen.key: 1 - site.p for site in sites if site.seen.handmade}
        self.kept = 0
        self.norm_eval: dict[Key, Tensor] = {}
        self.norm_values: dict[Key, Tensor] = {}  # some of what enters each batch norm in eval mode
        self.norm_keys = {norm.key for site in sites for norm in site.norms}
        self.eval_output: Any = None
        self.eval_film: Film | None = None

    def reference(self, *, training: bool) -> None:
        """Play eval mode (where it does not run, training with everything off) and keep what reaches each anchor."""
        watch: dict[Key, list[Watch]] = {}
        for gauge in self.gauges:
            anchor = gauge.site.anchor
            if anchor.step is not None:
                add(watch, anchor.step.key, Watch(slot_of(anchor.step, anchor.tensor), self._keeper(gauge)))
        for key in self.norm_keys:
            add(watch, key, Watch(0, self._variance_into(key)))
        script = Script(off=True, rates=self.rates, watch=watch, places=False)
        take = self.bench.play(script, training=training, seed=self.seed)
        self.eval_output, self.eval_film = take.output, take.film
        for gauge in self.gauges:
            self._keep_output(gauge, take.output)

    def _keep_output(self, gauge: Gauge, output: Any) -> None:
        anchor = gauge.site.anchor
        tensors = tensors_in(output)
        if anchor.kind == "output" and anchor.output < len(tensors):
            self._keep(gauge, tensors[anchor.output])

    def _keeper(self, gauge: Gauge) -> Callable[[Tensor, Any, Any], None]:
        def keep(tensor: Tensor, _args: Any, _kwargs: Any) -> None:
            self._keep(gauge, tensor)

        return keep

    def _keep(self, gauge: Gauge, tensor: Tensor) -> None:
        self.kept += 2 * tensor.numel()
        if self.kept > MEMORY:
            gauge.why = "the model is too large to hold every site at once"
        elif tensor.is_floating_point():
            gauge.reference = tensor.detach().clone()

    def _variance_into(self, key: Key) -> Callable[[Tensor, Any, Any], None]:
        def look(tensor: Tensor, _args: Any, _kwargs: Any) -> None:
            self.norm_eval[key] = channel_variance(tensor)
            self.norm_values[key] = sampled(tensor.detach().double())

        return look

    # -- training mode with every dropout off: closed forms, and what sites are fed with ---------------------------

    def silent(self) -> None:
        """Play training mode with dropout off and every anchor set to its eval value."""
        script = Script(off=True, rates=self.rates, places=False)
        watch: dict[Key, list[Watch]] = {}
        after: dict[Key, list[Callable[[Tensor], None]]] = {}
        behind: dict[tuple[str, int], list[Callable[[Tensor], None]]] = {}
        for gauge in self.gauges:
            self._watch_silent(gauge, watch)
            self._behind(gauge, after, behind, self._off_reader(gauge))
        by_key = {gauge.site.seen.key: gauge for gauge in self.gauges}

        def at_site(seen: Any, source: Tensor, given: Any) -> None:
            gauge = by_key.get(seen.key)
            if gauge is None or not source.is_floating_point() or gauge.why:
                return
            if seen.variant in FUSED:
                gauge.given = tuple(tensor.detach().clone() for tensor in tensors_in(given)[:3])
                return
            gauge.fed = source.detach().clone()
            gauge.given = () if seen.variant in RECURRENT else (gauge.fed,)
            wide = gauge.fed.double()
            gauge.spread_in = (float(wide.mean()), float(wide.var(unbiased=False)))

        script.watch, script.after, script.after_module, script.at_site = watch, after, behind, at_site
        self.bench.play(script, training=True, seed=self.seed)

    def _watch_silent(self, gauge: Gauge, watch: dict[Key, list[Watch]]) -> None:
        site = gauge.site
        if site.anchor.step is not None:

            def align(tensor: Tensor, _args: Any, _kwargs: Any) -> Tensor | None:
                if gauge.reference is None or gauge.reference.shape != tensor.shape:
                    return None
                gauge.fit = likeness(tensor, gauge.reference)
                return gauge.reference.to(tensor.dtype).clone()

            add(watch, site.anchor.step.key, Watch(slot_of(site.anchor.step, site.anchor.tensor), align))
        step = site.affine.step
        if site.affine.kind == "affine" and step is not None:
            unit, width = site.seen.dial.unit, 0

            def take_apart(tensor: Tensor, args: Any, kwargs: Any) -> None:
                fed, conv = gauge.fed, step.op.startswith("conv")
                channels = fed.shape[1] if unit == CHANNEL and fed is not None and fed.dim() > 1 else width
                if conv:
                    gauge.kernel = tuple((args[1] if len(args) > 1 else kwargs["weight"]).shape[2:])
                gauge.unit = ROW if unit == CHANNEL and not conv and in_rows(fed, tensor) else unit
                gauge.sums = sums_at(step, tensor, args, kwargs, unit=gauge.unit, channels=channels)

            add(watch, step.key, Watch(slot_of(step, site.affine.tensor), take_apart))
        if site.affine.kind == "recurrent" and step is not None:
            add(watch, step.key, Watch(slot_of(step, site.affine.tensor), gate_reader(gauge, step)))
        acts = site.activation
        if isinstance(acts, Step):

            def read(_tensor: Tensor, args: Any, kwargs: Any) -> None:
                gauge.activation = activation_of(acts.op, args, kwargs)

            add(watch, acts.key, Watch(0, read))

    def _behind(self, gauge: Gauge, after: Any, behind: Any, reader: Callable[[Tensor], None]) -> None:
        acts = gauge.site.activation
        if isinstance(acts, Step):
            add(after, acts.key, reader)
        elif isinstance(acts, Span):
            add(behind, (acts.name, acts.repeat), reader)

    def _off_reader(self, gauge: Gauge) -> Callable[[Tensor], None]:
        def read(tensor: Tensor) -> None:
            wide = tensor.detach().double()
            gauge.off = [float(wide.mean()), float((wide * wide).mean())]
            gauge.histogram_off = sampled(wide)
            if gauge.site.direct and wide.numel() <= 2_000_000:
                gauge.off_values, gauge.totals = wide.clone(), [torch.zeros_like(wide), torch.zeros_like(wide)]
            acts = gauge.site.activation
            if isinstance(acts, Span) and gauge.activation is None:
                gauge.activation = module_activation(acts)

        return read

    # -- masks ---------------------------------------------------------------------------------------------------

    def draw(self, masks: int, *, begin: int = 0) -> None:
        """Play training mode with masks drawn, every site fed with its eval input."""
        watch: dict[Key, list[Watch]] = {}
        after: dict[Key, list[Callable[[Tensor], None]]] = {}
        behind: dict[tuple[str, int], list[Callable[[Tensor], None]]] = {}
        feed = {g.site.seen.key: g.given for g in self.gauges if g.given}
        for gauge in self.gauges:
            anchor = gauge.site.anchor
            if anchor.step is not None:
                add(watch, anchor.step.key, Watch(slot_of(anchor.step, anchor.tensor), self._slope_reader(gauge)))
            self._behind(gauge, after, behind, self._on_reader(gauge))
        script = Script(rates=self.rates, feed=feed, watch=watch, after=after, after_module=behind, places=False)
        for number in range(begin, begin + masks):
            if number >= FEWEST and self.late():
                break
            self.drawn = number + 1
            take = self.bench.play(script, training=True, seed=self.seed + 1000 + number)
            tensors = tensors_in(take.output)
            for gauge in self.gauges:
                if gauge.site.anchor.kind == "output" and gauge.site.anchor.output < len(tensors):
                    self._slope_reader(gauge)(tensors[gauge.site.anchor.output], None, None)

    def _slope_reader(self, gauge: Gauge) -> Callable[[Tensor, Any, Any], None]:
        def read(tensor: Tensor, _args: Any, _kwargs: Any) -> None:
            if gauge.reference is None or gauge.reference.shape != tensor.shape or gauge.site.seen.variant in ALPHA:
                return
            x, y = tensor.detach().double().reshape(-1), gauge.reference.double().reshape(-1)
            power = float(y @ y)
            if not (power > 0 and math.isfinite(power)):
                return
            gauge.slopes.append(float(x @ y) / power)
            gauge.seconds.append(float(x @ x) / power)

        return read

    @staticmethod
    def _on_reader(gauge: Gauge) -> Callable[[Tensor], None]:
        def read(tensor: Tensor) -> None:
            wide = tensor.detach().double()
            gauge.on.append((float(wide.mean()), float((wide * wide).mean())))
            if len(gauge.histogram_on) < 8:
                gauge.histogram_on.append(sampled(wide))
            if gauge.totals and gauge.totals[0].shape == wide.shape:
                gauge.totals[(len(gauge.on) - 1) % 2] += wide

        return read


def channel_variance(tensor: Tensor) -> Tensor:
    """Variance of each channel over batch and positions."""
    wide = tensor.detach().double()
    return wide.var(tuple(axis for axis in range(wide.dim()) if axis != 1), unbiased=False)


def likeness(tensor: Tensor, reference: Tensor) -> float:
    """The cosine between two tensors: 1 when one is a multiple of the other."""
    x, y = tensor.detach().double().reshape(-1), reference.double().reshape(-1)
    length = float(x.norm() * y.norm())
    return float(x @ y) / length if length > 0 else math.nan


def sampled(wide: Tensor) -> Tensor:
    """Some of the values."""
    flat = wide.reshape(-1)
    return flat[scattered(flat.numel(), SAMPLE, flat.device)]


def add(table: dict[Any, list[Any]], key: Any, item: Any) -> None:
    """Append to the list under a key."""
    table.setdefault(key, []).append(item)
