"""The report around the findings: facts, the table of sites, figures, and the answer in one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.dropout.bias import bias_of
from nndiag.checks.dropout.case import is_augmentation, is_path, on_purpose
from nndiag.checks.dropout.placed import once
from nndiag.checks.dropout.scale import SILENT, unclear
from nndiag.core.findings import Answer, Fact, Series, Severity, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Finding, Observation, Scalar
    from nndiag.lab.dropout.sites import Site

ROWS = 24
SHORT = 26


def facts(case: Case) -> Iterator[Observation]:
    """Yield what was looked at."""
    modules = list(case.bench.model.modules())
    parameters = sum(item.numel() for item in {id(p): p for p in case.bench.model.parameters()}.values())
    yield Fact("modules", len(modules), f"{len(modules)} modules")
    yield Fact("parameters", parameters, "")
    count = len(case.sites)
    yield Fact("dropout_sites", count, f"{count} dropout site{'' if count == 1 else 's'}")
    data = case.subject.data.name if case.subject.data is not None else ""
    yield Fact("data", data, f"{data} ({case.bench.rows} samples)")
    yield Fact("samples", case.bench.rows, "")
    yield Fact("masks", case.masks, f"{case.masks} masks")
    if case.other_luck:
        yield Fact("other_randomness", case.other_luck, f"also random in training: {case.other_luck}")
    if case.loss_name:
        yield Fact("loss", case.loss_name, "")


def table(case: Case, findings: Sequence[Finding], seen: dict[str, float]) -> Table:
    """The table of sites: one row for all that differ only in a layer number.

    Args:
        case: What was found out.
        findings: For the column of rules and the status.
        seen: Variance ratio into batch norm, by site label.
    """
    groups = once(case.sites)
    rows: list[list[Scalar]] = []
    for sites in groups[:ROWS]:
        site = sites[0]
        gauge = case.gauge(site)
        slope = gauge.slope if gauge is not None and not unclear(gauge) else math.nan
        bias = bias_of(gauge) if gauge is not None else None
        mine = [
            f
            for f in findings
            if any(f.where.module == s.seen.where.module and f.where.line == s.seen.where.line for s in sites)
        ]
        worst = max((f.severity for f in mine), default=None)
        ratios = [seen[s.label] for s in sites if s.label in seen]
        rows.append([
            short(site.label) + (f" ×{len(sites)}" if len(sites) > 1 else ""), round(site.p, 3),
            short(follower(case, site)),
            _cell(slope), _cell(bias.ratio if bias is not None else math.nan), _cell(max(ratios, default=math.nan)),
            " ".join(sorted({f.rule.code for f in mine})[:2]), worst.word if worst is not None else state(case, site),
        ])  # fmt: skip
    columns = ["site", "p", "followed by", "slope", "mean", "var", "rule", "status"]
    kept = [n for n in range(len(columns)) if n in {0, 1, 2, 7} or any(row[n] not in {None, ""} for row in rows)]
    rest = f" ({len(groups) - ROWS} more like these)" if len(groups) > ROWS else ""
    return Table(
        f"dropout sites, training over eval{rest}", [columns[n] for n in kept],
        [[row[n] for n in kept] for row in rows], main=True,
    )  # fmt: skip


def short(text: str) -> str:
    """The end of a long name."""
    return text if len(text) <= SHORT else "…" + text[-SHORT + 1 :]


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def follower(case: Case, site: Site) -> str:
    """What reads a dropout."""
    return "itself" if site.fused else case.map.end_name(site.affine if site.affine.kind == "affine" else site.anchor)


def state(case: Case, site: Site) -> str:
    """The status of a site with no finding: in order, or not judged because it was not reached or has no scale."""
    if not site.seen.dial.acts:
        return "ok"
    gauge = case.gauge(site)
    if gauge is None:
        return "skipped"
    reason = unclear(gauge)
    return "skipped" if reason and reason != SILENT else "ok"


def figures(case: Case, ratios: dict[str, float], limit: float) -> Iterator[Observation]:
    """Yield bars per site, and histograms of the most disturbed place."""
    sites = [once_[0] for once_ in once(case.acting)][:ROWS]
    slopes, means = [], []
    for site in sites:
        gauge = case.gauge(site)
        if gauge is None:
            continue
        if not unclear(gauge):
            slopes.append((site.label, gauge.slope))
        bias = bias_of(gauge)
        if bias is not None and not math.isnan(bias.ratio):
            means.append((site.label, bias.ratio))
    variances = list(ratios.items())[:ROWS]
    for name, pairs, threshold in (
        ("variance ratio into batch norm", variances, limit), ("mean ratio behind the activation", means, None),
        ("slope of training on eval", slopes, 1.0),
    ):  # fmt: skip
        if pairs:
            labels = tuple(label for label, _ in pairs)
            yield Series(
                name, tuple(float(n) for n in range(len(pairs))), tuple(value for _, value in pairs), "ratio",
                group=name, kind="bar", threshold=threshold, labels=labels,
            )  # fmt: skip
    yield from _histograms(case, ratios)


def _histograms(case: Case, ratios: dict[str, float]) -> Iterator[Observation]:
    if case.lab is None:
        return
    worst = max(ratios, key=lambda label: ratios[label], default=None)
    site = next((s for s in case.acting if s.label == worst and s.norms), None)
    if site is not None and case.flow is not None and site.norms[0].key in case.flow.values:
        key = site.norms[0].key
        yield from _pair(f"entering '{site.norms[0].owner}'", case.lab.norm_values.get(key), case.flow.values[key])
        return
    bent = [(g, abs(b.shift)) for g in case.lab.gauges if (b := bias_of(g)) is not None and not math.isnan(b.shift)]
    if bent:
        import torch

        gauge = max(bent, key=lambda pair: pair[1])[0]
        on = torch.cat(gauge.histogram_on) if gauge.histogram_on else None
        yield from _pair(f"behind '{follower(case, gauge.site)}'", gauge.histogram_off, on)


def _pair(place: str, off: Tensor | None, on: Tensor | None) -> Iterator[Observation]:
    import torch

    if off is None or on is None or not bool(torch.isfinite(off).all() and torch.isfinite(on).all()):
        return
    low, high = float(min(off.min(), on.min())), float(max(off.max(), on.max()))
    if not high > low:
        return
    edges = torch.linspace(low, high, 41, dtype=torch.float64)
    centres = tuple(((edges[1:] + edges[:-1]) / 2).tolist())
    for name, values in (("eval", off), ("training", on)):
        counts = torch.histogram(values.double().cpu(), edges).hist / values.numel()
        yield Series(
            f"{name} {place}", centres, tuple(counts.tolist()), "share of values", "activation",
            group=f"values {place}", kind="histogram",
        )  # fmt: skip


def answer(case: Case, findings: Sequence[Finding], ratios: dict[str, float]) -> Answer:
    """The question answered in one sentence."""
    parts = [_always_on(findings), _keeping(case, findings)]
    shifts = [f for f in findings if f.rule.code == "DRP105"]
    if shifts:
        worst = max(shifts, key=lambda f: f.evidence.value or 0.0)
        ratio = worst.evidence.value or 1.0
        parts.append(
            f"the one in front of batch norm '{worst.where.next}' inflates its variance {ratio:.2f}x "
            f"(eval puts out {1 / math.sqrt(ratio):.2f} of the spread)"
        )
    elif ratios:
        parts.append(f"the variance into batch norm grows {max(ratios.values()):.2f}x at most")
    biases = [b for g in (case.lab.gauges if case.lab is not None else []) if not is_path(g.site) and (b := bias_of(g))]
    if biases:
        worst_bias = max(biases, key=lambda b: abs(b.shift) if not math.isnan(b.shift) else 0.0)
        if not math.isnan(worst_bias.ratio):
            parts.append(f"behind the next {worst_bias.activation} the mean becomes {worst_bias.ratio:.2f}x at most")
    meant = [
        site for site in case.acting if on_purpose(site) and any(s.key == site.seen.key for s in case.verdict.acting)
    ]
    if meant:
        parts.append(f"{len(meant)} stay{'s' if len(meant) == 1 else ''} on in eval by name, on purpose")
    return Answer("; ".join(part for part in parts if part) + ".")


def _always_on(findings: Sequence[Finding]) -> str:
    """Say first what makes predictions random: next to it, a kept mean is no comfort."""
    acting = [f for f in findings if f.rule.code == "DRP101"]
    if not acting:
        return ""
    name = f"'{acting[0].where.module}'" if acting[0].where.module else "The model's own forward"
    return f"{name} drops in eval mode as well"


def _nothing_or_all(case: Case, noun: str) -> str:
    """What there is to say where no site drops anything, or one drops everything."""
    if not case.acting:
        idle = any(site.p > 0 for site in case.sites)
        return f"{noun}, and none drops anything in training" if idle else f"{noun}, all with p = 0: nothing is dropped"
    gone = sum(site.p >= 1 for site in case.acting)
    return f"{gone} of {noun} with p = 1: nothing passes there in training" if gone else ""


def _keeping(case: Case, findings: Sequence[Finding]) -> str:
    count = len(case.sites)
    noun = f"{count} dropout site{'' if count == 1 else 's'}"
    if not case.sites:
        return "No dropout ran in training mode"
    extreme = _nothing_or_all(case, noun)
    if extreme:
        return extreme
    wrong = [f for f in findings if f.rule.code in {"DRP103", "DRP104"}]
    gauges = case.lab.gauges if case.lab is not None else []
    clear = [g for g in gauges if not unclear(g) and not is_augmentation(g.site)]
    if wrong:
        worst = max(wrong, key=lambda f: abs(math.log(max(f.evidence.value or 1.0, 1e-6))))
        name = f"'{worst.where.module}'" if worst.where.module else "the model's own forward"
        return f"{name} passes on {worst.evidence.value:.3g} of the mean instead of 1 ({noun})"
    if clear:
        off = max(abs(g.slope - 1) for g in clear)
        kept = len(clear)
        which = noun if kept == count else f"{kept} of {noun}"
        return f"{which} keep{'s' if kept == 1 else ''} the mean (slope 1 within {off:.2g})"
    serious = any(f.severity is Severity.ERROR for f in findings)
    return f"{noun} found" if serious else f"{noun}, rescaled by torch itself"
