"""Rates and places that need no masks: DRP001, DRP003, DRP004, DRP005, DRP006."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.dropout.case import CLASSES, REGRESSION, is_path
from nndiag.core.findings import Evidence, Judged, Severity, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation
    from nndiag.lab.dropout.sites import Site

HIGH = 0.7  # at and above this p may be a keep probability
LIKELY = 0.8  # from here on it hardly is anything else; published nets drop 0.7 (the side heads of GoogLeNet)
LITTLE = 0.05  # rates below it are not worth a word
_NOT_SELU = frozenset(
    {
        "relu",
        "gelu",
        "leaky_relu",
        "prelu",
        "elu",
        "celu",
        "silu",
        "mish",
        "tanh",
        "sigmoid",
        "softplus",
        "hardtanh",
        "relu6",
        "hardswish",
        "clamp",
        "clamp_min",
    }
)
_CONVS = frozenset({"conv1d", "conv2d", "conv3d"})


def judge_places(case: Case) -> Iterator[Observation]:
    """Yield what can be said from rates and neighbours alone."""
    for code, judge in (
        ("DRP001", _high_rate), ("DRP003", _on_output), ("DRP004", _alpha), ("DRP006", _stacked),
    ):  # fmt: skip
        yield Judged(code)
        for sites in once(case.acting):
            yield from judge(case, sites[0], more(sites))
    yield Judged("DRP005")
    yield from _feature_maps(case)


def once(sites: list[Site]) -> list[list[Site]]:
    """Sites that differ only in a layer number and stand on one line."""
    from nndiag.lab.dropout.sites import pattern

    groups: dict[Any, list[Site]] = {}
    for site in sites:
        where = site.seen.where
        spot = (pattern(where.module or ""), where.file, where.line)
        key = (*spot, site.seen.variant, round(site.p, 3), site.anchor.kind, site.feeder)
        groups.setdefault(key, []).append(site)
    return list(groups.values())


def more(sites: list[Site]) -> str:
    """How many more like the first."""
    names = {site.seen.where.module for site in sites} - {sites[0].seen.where.module}
    return f" (and in {len(names)} more layers like it)" if names else ""


def place(case: Case, site: Site, following: str | None = None) -> Where:
    """Where a site is, and what reads it."""
    return replace(site.seen.where, next=following or case.map.next_module(site.affine))


def _high_rate(case: Case, site: Site, others: str) -> Iterator[Observation]:
    if site.p < HIGH or is_path(site):
        return
    all_gone = site.p >= 1
    says = "drops everything" if all_gone else f"keeps {1 - site.p:.2g} of the units"
    yield found(
        "DRP001",
        f"p = {site.p:.3g} {says}{others}: p is the probability to drop",
        where=place(case, site),
        evidence=Evidence(value=site.p, unit="drop probability", threshold=HIGH),
        means="nothing passes in training" if all_gone else "papers and old TensorFlow give the probability to keep",
        fix=f"if {site.p:.3g} was meant as the share to keep, write p = {1 - site.p:.3g} "
        f"(Keras: rate={1 - site.p:.3g})",
        severity=Severity.NOTE if site.p < LIKELY else None,
    )


def _on_output(case: Case, site: Site, others: str) -> Iterator[Observation]:
    task = reaches_output(case, site)
    if task is None or is_path(site):
        return
    q = 1 - site.p
    ends = site.anchor if site.anchor.step is None else site.affine
    into = f"into {ends.step.op}" if ends.step is not None and ends.kind == "loss" else "on the output"
    if task == REGRESSION:
        yield found(
            "DRP003",
            f"dropout with p = {site.p:.3g} {into} of a regressor{others}: the fit ends at {q:.3g} of the target",
            where=place(case, site),
            evidence=Evidence(value=q, unit="slope of prediction on target", threshold=1.0,
                              detail=f"closed form; training floor {site.p:.3g} E[y²], "
                                     f"eval loss {site.p**2:.3g} E[y²]"),
            means=f"least squares against a randomly zeroed output shrinks it by 1-p; the loss cannot fall below "
                  f"{site.p:.3g} of E[y²] in training",
            fix="take the dropout off the output; put it in front of the last linear layer",
        )  # fmt: skip
        return
    kind = "logits become" if task == CLASSES else "values become"
    yield found(
        "DRP003",
        f"dropout with p = {site.p:.3g} {into}{others}: {kind} 0 at random",
        where=place(case, site),
        evidence=Evidence(value=site.p, unit="share of outputs dropped", threshold=0.0),
        means="a dropped logit is 0, not minus infinity: the class keeps a chance and the loss gets noisy"
        if task == CLASSES
        else "right for features that another layer reads; a regression loss on it would shrink predictions by 1-p",
        fix="put the dropout in front of the last linear layer",
        severity=Severity.NOTE,
    )


def reaches_output(case: Case, site: Site) -> str | None:
    """The task of the output or loss that a dropout feeds with nothing but scales, reshapes or a squashing between."""
    from nndiag.lab.dropout.sites import REGRESSION_LOSSES, SOFTMAX

    squash = frozenset({"sigmoid", *SOFTMAX})
    end = case.map.walk(site.out, through=squash)
    if end.kind == "loss" and end.step is not None:
        return REGRESSION if end.step.op in REGRESSION_LOSSES else CLASSES
    if case.main_output in end.way:
        squashed = bool(squash & set(end.passed))
        return CLASSES if squashed and case.task != REGRESSION else case.task
    return None


def _alpha(case: Case, site: Site, others: str) -> Iterator[Observation]:
    from nndiag.lab.dropout.ops import ALPHA
    from nndiag.science.rescale_shift import alpha_output

    gauge = case.gauge(site)
    mean, variance = gauge.spread_in if gauge is not None else (math.nan, math.nan)
    if site.seen.variant in ALPHA:
        if site.feeder not in _NOT_SELU or not site.p < 1:
            return
        after = alpha_output(site.p, mean, variance)
        yield found(
            "DRP004",
            f"AlphaDropout behind {site.feeder}{others} moves the mean from {mean:.3g} to {after[0]:.3g} "
            f"and the variance from {variance:.3g} to {after[1]:.3g}",
            where=place(case, site),
            evidence=Evidence(value=after[0] - mean, unit="activation", threshold=0.0, n=case.n,
                              detail="closed form from the mean and variance of its input"),
            means="it puts -1.758 in place of dropped units and rescales for input of mean 0 and variance 1, "
                  "which only SELU provides",
            fix="use nn.Dropout here, or SELU with LeCun-normal weights in front",
        )  # fmt: skip
    elif site.feeder == "selu" and site.p >= LITTLE and site.affine.kind != "normaliser":
        yield found(
            "DRP004",
            f"plain dropout behind SELU{others} raises the second moment by 1/(1-p) = {1 / max(1 - site.p, 1e-9):.3g}",
            where=place(case, site),
            evidence=Evidence(value=1 / max(1 - site.p, 1e-9), unit="ratio", threshold=1.0, detail="closed form"),
            means="self-normalisation needs mean 0 and variance 1 behind every layer",
            fix=f"use nn.AlphaDropout({site.p:.3g}) (Keras: AlphaDropout)",
        )


def _feature_maps(case: Case) -> Iterator[Observation]:
    """One note for all of one model: it is one habit, whatever the sizes of the maps."""
    from nndiag.lab.dropout.graph import names

    maps: dict[int, list[tuple[Site, str, str]]] = {}
    for site in case.acting:
        gauge, step = case.gauge(site), site.affine.step
        if site.seen.variant != "dropout" or site.seen.dial.unit != "element" or step is None or step.op not in _CONVS:
            continue
        fed = gauge.fed if gauge is not None else None
        kernel = gauge.kernel if gauge is not None else ()
        if fed is not None and fed.dim() >= 3 and fed[0, 0].numel() >= 4 and math.prod(kernel) > 1:
            size = "x".join(map(str, fed.shape[2:]))
            maps.setdefault(fed.dim() - 2, []).append((site, size, "x".join(map(str, kernel))))
    for axes, places in maps.items():
        site, size, window = places[0]
        rest = list(dict.fromkeys(s.label for s, *_ in places if s.label != site.label))
        others = f" (and at {names(rest)})" if rest else ""
        yield found(
            "DRP005",
            f"elementwise dropout on feature maps of {size} in front of a convolution of {window}{others}",
            where=place(case, site),
            evidence=Evidence(value=float(math.prod(map(int, size.split("x")))), unit="positions per channel",
                              threshold=4.0),
            means="neighbours carry what was dropped, so little is regularised (Tompson et al. 2015)",
            fix=f"nn.Dropout{axes}d drops whole channels (Keras: SpatialDropout{axes}D)",
        )  # fmt: skip


def _stacked(case: Case, site: Site, others: str) -> Iterator[Observation]:
    after = [seen for seen in site.stacked if not is_path(seen)]
    if not after or is_path(site):
        return
    keep = (1 - site.p) * math.prod(1 - seen.dial.p for seen in after)
    rates = " and ".join(f"{p:.3g}" for p in (site.p, *(seen.dial.p for seen in after)))
    names = ", ".join(f"'{seen.where.module}'" for seen in after)
    yield found(
        "DRP006",
        f"dropouts in series with p = {rates}{others}: together they drop {1 - keep:.3g} and keep {keep:.3g}",
        where=place(case, site, after[0].where.module),
        evidence=Evidence(value=keep, unit="keep probability", threshold=1 - max(site.p, *(s.dial.p for s in after)),
                          detail=f"nothing but elementwise steps between it and {names}"),
        means="two masks in a row are one mask with the product of the keep rates",
        fix=f"keep one of them; p = {1 - keep:.3g} would do the same",
    )  # fmt: skip
