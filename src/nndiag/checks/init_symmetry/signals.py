"""Findings from one forward and one backward: dead units, lost scale, forgotten inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Evidence, Judged, Measurement, Series, Skip, Table
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Observation
    from nndiag.lab.symmetry.signal import Signals, Site

CODES = ("SYM101", "SYM102", "SYM103")
FEW = 8  # inputs below which nothing is said about "every input"
KEPT = 0.01  # share between inputs that the chain must have had before it is called lost
THROUGH = ("shape", "dropout", "pool", "activation", "normaliser", "other")
MOST_ENTRIES = 4_000_000  # of one watched forward
EXCESS = 1e12  # second moment that no layer of a trainable network has


def wide_batch(scene: Scene) -> tuple[Any, int]:
    """All the batches' inputs in one, where they can be joined; otherwise the first batch's."""
    import torch

    from nndiag.checks.init_symmetry.benches import rows_of

    batches = scene.bench.batches
    parts = [batch.inputs for batch in batches]
    alike = all(isinstance(part, torch.Tensor) for part in parts) and len({part.shape[1:] for part in parts}) == 1
    cheap = scene.bench.seconds * len(parts) * 10 < scene.subject.run.seconds_left
    if len(parts) > 1 and alike and cheap and sum(part.numel() for part in parts) <= MOST_ENTRIES:
        joined = torch.cat(parts)[: scene.check.samples]
        return joined, int(joined.shape[0])
    return parts[0], rows_of(batches[0])


def examine(scene: Scene) -> Iterator[Observation]:
    """Yield findings, the table of layers and what a plot needs."""
    seen = scene.signals
    if seen is None:
        return
    chains = chains_of(seen)
    forgotten = yield from _forgotten(scene, seen, chains)
    yield from _scale(scene, seen, chains, forgotten)
    yield from _plots(seen)


def chains_of(seen: Signals) -> list[list[Site]]:
    """Runs of weighted layers in series, each read by the next alone (no skip leaves the chain), longest first."""
    flow = seen.flow
    if flow is None:
        return []
    from nndiag.lab.symmetry.flow import halts

    sites = {site.call.index: site for site in seen.of_role("affine", "recurrent")}
    before: dict[int, int] = {}
    for index, site in sites.items():
        sources = flow.before(site.call, through=THROUGH, stop=halts)
        if len(sources) != 1 or sources[0].index not in sites:
            continue
        readers = flow.after(sources[0], through=THROUGH, stop=halts)
        if [reader.index for reader in readers] == [index] and not flow.is_output(sources[0]):
            before[index] = sources[0].index
    ends = [index for index in sites if index not in before.values()]
    chains = []
    for end in ends:
        links = [end]
        while links[-1] in before and before[links[-1]] not in links:
            links.append(before[links[-1]])
        chains.append([sites[index] for index in reversed(links)])
    return sorted(chains, key=len, reverse=True)


def _between_normalisers(seen: Signals, chain: list[Site]) -> list[list[Site]]:
    """Cut a chain where a normaliser gives the signal a new scale."""
    flow = seen.flow
    assert flow is not None
    from nndiag.lab.symmetry.flow import halts

    parts = [[chain[0]]]
    for site in chain[1:]:
        sources = flow.before(site.call, through=("shape", "dropout", "pool", "activation", "other"), stop=halts)
        if any(item.role == "normaliser" for item in sources):
            parts.append([])
        parts[-1].append(site)
    return parts


def _forgotten(scene: Scene, seen: Signals, chains: list[list[Site]]) -> Any:
    """Different inputs, one representation: judged where a chain of layers loses what it had."""
    if seen.samples < FEW:
        yield Skip("SYM103", f"{seen.samples} inputs: at least {FEW} different ones are needed")
        return set()
    lost: set[int] = set()
    limit = scene.check.min_input_share
    for chain in chains:
        last = chain[-1]
        shares = [site.read_share for site in chain]
        had = max((share for share in shares if not math.isnan(share)), default=0.0)
        if len(chain) < 3 or math.isnan(last.read_share) or last.read_share >= limit or had < KEPT:
            continue
        if any(site.outgoing == 0 for site in chain[:-1]) or _zero_weight(chain[:-1]):
            continue  # a zero layer forgets everything and wakes up: the dynamic rules judge it
        if _switched_off(seen, chain[:-1]):
            continue  # so does one whose units are all off: its own finding
        if seen.flow is None or not seen.flow.reaches_output(last.call):
            continue
        lost.update(site.call.index for site in chain)
        turn = next((site for site in chain if site.read_share < limit), last)
        cosine = 1 - last.read_share
        finding = found(
            "SYM103",
            f'different inputs reach "{last.name}" as the same representation: {last.read_share:.2g} of its second '
            f"moment differs between inputs (cosine about {cosine:.4f})",
            where=last.call.place,
            evidence=Evidence(
                value=last.read_share,
                unit="share of the second moment",
                threshold=limit,
                n={"samples": seen.samples, "layers": len(chain)},
                seed=scene.subject.run.seed,
                detail=f"from {had:.2g} at the start of {len(chain)} layers in series; below the threshold from "
                f'"{turn.name}" on',
            ),
            means="biases outweigh what is left of the input, so the output is the same for all of them and the "
            "gradient that should tell them apart is as small",
            fix="nn.init.kaiming_normal_(weight, nonlinearity='relu') with zero biases (torch's default Linear keeps a "
            "sixth of the second moment per ReLU layer), or normalisation or skip connections; Keras: 'he_normal'",
        )
        scene.findings.append(finding)
        yield finding
    yield Judged("SYM103")
    return lost


def _switched_off(seen: Signals, chain: list[Site]) -> bool:
    """Whether the activation behind a layer is zero for every input."""
    flow = seen.flow
    assert flow is not None
    from nndiag.lab.symmetry.flow import halts

    off = {site.call.index for site in seen.of_role("activation") if site.units and site.dead == site.units}
    inner = ("shape", "dropout", "pool", "normaliser", "other")
    return any(step.index in off for site in chain for step in flow.after(site.call, through=inner, stop=halts))


def _zero_weight(chain: list[Site]) -> bool:
    """Whether a layer's weight is zero throughout."""
    for site in chain:
        weight = getattr(site.call.module, "weight", None)
        if weight is not None and hasattr(weight, "any") and not bool(weight.any()):
            return True
    return False


def _scale(scene: Scene, seen: Signals, chains: list[list[Site]], forgotten: set[int]) -> Iterator[Observation]:
    """Product of the gains along each chain, forward and backward."""
    limit = scene.check.max_gain
    parts = [part for chain in chains for part in _between_normalisers(seen, chain)]
    for chain in parts:
        if len(chain) < 3 or any(site.call.index in forgotten for site in chain):
            continue
        inner = chain[:-1]
        forward = _ratio(chain[-1].incoming, chain[0].outgoing)
        backward = _ratio(chain[0].backward, inner[-1].backward)
        worst = max((forward, backward), key=lambda value: abs(math.log(value)) if value > 0 else 0.0)
        if not 0 < worst < math.inf or 1 / limit <= worst <= limit:
            continue
        way = "forward" if worst == forward else "backward"
        layers = len(inner)
        per_layer = worst ** (1 / max(1, layers - 1))
        word = "grows" if worst > 1 else "shrinks"
        what = "signal" if way == "forward" else "gradient"
        finding = found(
            "SYM102",
            f"the {what} {word} {max(worst, 1 / worst):.2g} times in second moment over {layers} layers, "
            f'"{chain[0].name}" to "{inner[-1].name}" ({per_layer:.3g} per layer)',
            where=chain[0].call.place,
            evidence=Evidence(
                value=worst,
                unit="ratio of second moments",
                threshold=limit if worst > 1 else 1 / limit,
                n={"samples": seen.samples, "layers": layers},
                seed=scene.subject.run.seed,
                detail=f"forward {forward:.3g}, backward {backward:.3g}; He's initialisation gives 1 for ReLU",
            ),
            means="layers at one end learn orders of magnitude faster than those at the other",
            fix="scale weights to the fan-in: nn.init.kaiming_normal_ for ReLU, xavier_normal_ with gain 5/3 for tanh; "
            "Keras: 'he_normal', 'glorot_normal'",
        )
        scene.findings.append(finding)
        yield finding
    yield from _overflow(scene, seen)
    yield Judged("SYM102")


def _overflow(scene: Scene, seen: Signals) -> Iterator[Observation]:
    """A signal that has left every scale, whatever is added in between."""
    weighted = seen.of_role("affine", "recurrent", "normaliser")
    site = next((item for item in weighted if not math.isfinite(item.outgoing) or item.outgoing > EXCESS), None)
    if site is None or any(item.rule.code == "SYM102" for item in scene.findings):
        return
    if seen.sites[0].incoming > EXCESS**0.5:
        return  # the inputs came that large: check-normalization's question
    finding = found(
        "SYM102",
        f'the signal reaches a second moment of {site.outgoing:.2g} at "{site.name}"',
        where=site.call.place,
        evidence=Evidence(value=site.outgoing, unit="second moment", threshold=EXCESS, n={"samples": seen.samples}),
        means="the first step will be huge or not a number",
        fix="scale the weights to the fan-in (nn.init.kaiming_normal_), or normalise",
    )
    scene.findings.append(finding)
    yield finding


def _ratio(top: float, bottom: float) -> float:
    if not (math.isfinite(top) and math.isfinite(bottom)) or top <= 0 or bottom <= 0:
        return 1.0  # an exact zero is the dynamic rules' question
    return top / bottom


def _plots(seen: Signals) -> Iterator[Observation]:
    """The gain of each layer, forward and backward, and what is left of the input."""
    layers = seen.of_role("affine", "recurrent")
    if not layers:
        return
    rows = []
    for site in layers[:60]:
        gain = site.outgoing / site.incoming if site.incoming > 0 else math.nan
        rows.append(
            (site.name, _short(gain), _theory(site), _short(site.outgoing), _short(site.backward), _short(site.share))
        )
    yield Table(
        "signal at the start; theory is fan-in x E w^2: He asks for 2 between ReLUs, Glorot for about 1",
        ("layer", "gain", "theory", "second moment", "gradient", "input share"),
        rows,
    )
    x = list(range(len(layers)))
    names = [site.name for site in layers]
    for label, values in (
        ("second moment forward", [site.outgoing for site in layers]),
        ("gradient at the output", [site.backward for site in layers]),
        ("share between inputs", [site.share for site in layers]),
    ):
        if all(math.isfinite(value) for value in values):
            yield Series(label, x, values, "", x_unit="layer", group="signal", labels=names)
    last = layers[-1]
    if math.isfinite(last.read_share):
        yield Measurement("input_share_last_layer", last.read_share, "share", last.name)


def _theory(site: Site) -> float | None:
    """The gain in second moment that independent inputs would see: fan-in times the weights' second moment."""
    import torch

    module = site.call.module
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() < 2 or site.role != "affine":
        return None
    kind = type(module).__name__
    if "Transpose" in kind or "Embedding" in kind:
        return None
    fan_in = weight.shape[0] if kind == "Conv1D" else weight[0].numel()
    own = torch.promote_types(weight.dtype, torch.float32)
    norm = float(torch.linalg.vector_norm(weight.detach(), dtype=own))
    return _short(fan_in * norm**2 / weight.numel())


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None
