"""Play training as it is, all dropouts drawing: what reaches batch norm, and what the loss becomes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import stdtrit  # scipy.stats takes a second to import
from torch import Tensor
from torch.nn import functional

from nndiag.lab.dropout.measure import FEWEST, SiteLab, add, channel_variance, sampled, standard_error
from nndiag.lab.dropout.ops import FUSED
from nndiag.lab.dropout.script import Script, Watch
from nndiag.science.rescale_shift import collapse_probability, variance_ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.lab.dropout.bench import Bench
    from nndiag.lab.dropout.graph import Key, Step
    from nndiag.lab.dropout.sites import Site

DEAD = 1e-6  # channels whose variance is below this share of the median do not count
UNMOVED = 1e-4  # change of a channel's variance that is rounding
ROWS = 4096  # attention rows looked at
FEW_KEYS = 8  # rows with fewer keys lose their mass in any model


@dataclass(frozen=True)
class NormShift:
    """Variance entering a batch norm, training over eval."""

    norm: Step
    ratio: float  # median over the channels that dropout reaches
    interval: tuple[float, float]
    channels: tuple[float, ...]
    total: int  # channels, those that no dropout reaches too
    masks: int


@dataclass(frozen=True)
class LossGap:
    """Training loss less eval loss at the same weights, on the same batch."""

    eval_loss: float
    train_loss: float
    error: float

    @property
    def gap(self) -> float:
        """What dropout adds to the loss."""
        return self.train_loss - self.eval_loss


@dataclass
class Flow:
    """What natural training passes gave."""

    shifts: dict[Key, NormShift] = field(default_factory=dict)
    values: dict[Key, Tensor] = field(default_factory=dict)  # some of what enters each batch norm
    gap: LossGap | None = None


def natural(
    lab: SiteLab, masks: int, loss: Callable[[Any], float] | None, *, only: frozenset[Key] | None = None
) -> Flow:
    """Draw all masks (or those of `only`) as training does.

    Args:
        lab: Whose eval reference is already played.
        masks: How many forwards.
        loss: Of a raw output; None when there is none.
        only: Sites that act; the others pass their mean on.
    """
    if not lab.norm_keys and loss is None:
        return Flow()  # nothing would be read off
    drawn: dict[Key, list[Tensor]] = {key: [] for key in lab.norm_keys}
    watch: dict[Key, list[Watch]] = {}
    values: dict[Key, Tensor] = {}
    for key in lab.norm_keys:
        add(watch, key, Watch(0, _collector(drawn[key], values, key)))
    losses: list[float] = []
    script = Script(rates=lab.rates, watch=watch, only=only, places=False)
    for number in range(masks):
        if number >= FEWEST and lab.late():
            break
        take = lab.bench.play(script, training=True, seed=lab.seed + 5000 + number)
        if loss is not None:
            losses.append(loss(take.output))
    flow = Flow(values=values)
    norms = {norm.key: norm for gauge in lab.gauges for norm in gauge.site.norms}
    for key, variances in drawn.items():
        shift = _shift(norms[key], lab.norm_eval.get(key), variances)
        if shift is not None:
            flow.shifts[key] = shift
    if loss is not None and lab.eval_output is not None:
        base = loss(lab.eval_output)
        if math.isfinite(base) and losses:
            flow.gap = LossGap(base, sum(losses) / len(losses), standard_error(losses))
    return flow


def _collector(variances: list[Tensor], values: dict[Key, Tensor], key: Key) -> Callable[[Tensor, Any, Any], None]:
    def look(tensor: Tensor, _args: Any, _kwargs: Any) -> None:
        variances.append(channel_variance(tensor))
        values[key] = sampled(tensor.detach().double())

    return look


def _shift(norm: Step, still: Tensor | None, drawn: list[Tensor]) -> NormShift | None:
    if still is None or not drawn or any(item.shape != still.shape for item in drawn):
        return None
    alive = still > DEAD * still.median().clamp_min(1e-300)
    moved = (torch.stack(drawn) - still).abs().amax(0) > UNMOVED * still  # beside a shortcut that was concatenated
    total = int(alive.sum())
    alive = alive & moved if bool((alive & moved).any()) else alive
    if not bool(alive.any()):
        return None
    ratios = torch.stack(drawn)[:, alive] / still[alive]  # (masks, channels)
    middles = [float(row.median()) for row in ratios]
    each = ratios.mean(0)
    middle = float(each.median())
    width = float(stdtrit(max(1, len(middles) - 1), 0.975)) * standard_error(middles) if len(middles) > 1 else math.inf
    return NormShift(norm, middle, (middle - width, middle + width), tuple(each.tolist()), total, len(drawn))


def predicted_shift(lab: SiteLab, site: Site) -> float:
    """The variance ratio into the nearest batch norm by closed form; nan where a pool or a sum lies between."""
    gauge = next(item for item in lab.gauges if item.site is site)
    harmless = {"relu", "leaky_relu", "prelu", "scale", "view", "reshape", "flatten", "contiguous", "identity", "to"}
    steps = [op for op in site.between if op not in harmless]
    if not site.norms or site.p >= 1:
        return math.nan
    if not steps and gauge.fed is not None and gauge.fed.dim() > 1 and gauge.site.seen.dial.unit == "element":
        wide = gauge.fed.double()
        if "relu" in site.between:
            wide = wide.relu()
        axes = tuple(axis for axis in range(wide.dim()) if axis != 1)
        ratio = variance_ratio(wide.var(axes, unbiased=False), (wide * wide).mean(axes), site.p)
        return float(ratio.nanmedian())
    if len(steps) == 1 and not isinstance(gauge.sums, str) and site.affine.step is not None:
        return float(variance_ratio(gauge.sums.signal, gauge.sums.noise, site.p).nanmedian())
    return math.nan


@dataclass(frozen=True)
class RowCollapse:
    """Attention rows under dropout."""

    site: Site
    rows: int  # rows with enough keys
    peaked: float  # share of them whose largest weight is more than half
    chance: float  # mean probability that a row keeps less than half its mass
    effective_keys: float  # median of 1/Σa²


def attention_rows(bench: Bench, sites: list[Site], rates: dict[Key, float], *, seed: int) -> list[RowCollapse]:
    """Look at the attention weights in front of each dropout on them, everything off."""
    wanted = {site.seen.key: site for site in sites if _on_attention(site)}
    found: dict[Key, RowCollapse] = {}

    def look(seen: Any, source: Tensor, given: Any) -> None:
        site = wanted.get(seen.key)
        if site is None or not 0 < site.p < 1:
            return
        weights = _weights(seen.variant, source, *given)
        if weights is not None:
            found[seen.key] = _judge(site, weights)

    if wanted:
        bench.play(Script(off=True, rates=rates, at_site=look, places=False), training=True, seed=seed)
    return [found[key] for key in wanted if key in found]


def _on_attention(site: Site) -> bool:
    return site.seen.variant in FUSED or (
        site.feeder == "softmax" and site.anchor.kind in {"matmul", "other", "affine"}
    )


def _judge(site: Site, weights: Tensor) -> RowCollapse:
    wide = weights.detach().double()
    rows = wide.reshape(-1, wide.shape[-1])[_keys(wide).reshape(-1) >= FEW_KEYS]
    rows = rows[:: max(1, len(rows) // ROWS)][:ROWS]
    if len(rows) == 0:
        return RowCollapse(site, 0, math.nan, math.nan, math.nan)
    chance = collapse_probability(rows, site.p)
    return RowCollapse(
        site,
        len(rows),
        float((rows.amax(-1) > 0.5).double().mean()),
        float(chance.mean()),
        float((1 / (rows * rows).sum(-1)).median()),
    )


def _keys(weights: Tensor) -> Tensor:
    """How many keys each row may look at: a sharp row has zeros too, so masks are read off all rows together."""
    used = (weights > 0).flatten(0, -2).any(0)  # (keys,)
    queries, keys = weights.shape[-2:] if weights.dim() > 1 else (1, weights.shape[-1])
    causal = queries == keys > 1 and bool((weights.triu(1) == 0).all())
    allowed = used.cumsum(0) if causal else used.sum().expand(queries)
    return allowed.expand(weights.shape[:-1])


def _weights(variant: str, source: Tensor, args: Any, kwargs: Any) -> Tensor | None:
    """The attention weights that dropout would act on."""
    if variant == "scaled_dot_product_attention":
        return _sdpa_weights(args, kwargs)
    if variant == "multi_head_attention_forward":
        given = {**kwargs, "need_weights": True, "average_attn_weights": False, "training": False}
        try:
            weights: Tensor | None = functional.multi_head_attention_forward(*args[:13], **given)[1]
        except (TypeError, RuntimeError):
            return None
        return weights
    return source


def _sdpa_weights(args: Any, kwargs: Any) -> Tensor | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    q, k = given["query"].double(), given["key"].double()
    if q.numel() // q.shape[-1] * k.shape[-2] > 40_000_000:
        return None
    if q.dim() == 4 and k.shape[1] != q.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scale = given.get("scale")
    scores = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1).nan_to_num(0.0)
