"""Units that are zero for every input at the start, and the layer that makes them so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry.groups import place
from nndiag.core.findings import Evidence, Judged, Severity, Skip
from nndiag.core.rules import found
from nndiag.science.signal import excess_interval, share_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Observation, Where
    from nndiag.lab.symmetry.signal import Signals, Site
    from nndiag.lab.units.layers import UnitView
    from nndiag.lab.watch.calls import Call

SEEN = 32  # inputs times positions that a dead unit was silent on
MANY = 4  # features of which one direction is a collapse
ONE = 1.01  # participation ratio of what varies along one direction


def examine(scene: Scene, seen: Signals) -> Iterator[Observation]:
    """Units that are zero for every input, where more are so than are never zero."""
    cuts = [site for site in seen.of_role("activation") if site.units]
    if not cuts:
        yield Skip("SYM101", "no activation here has a range where it is zero")
        return
    enough = [site for site in cuts if site.seen >= SEEN]
    if not enough:
        yield Skip("SYM101", f"units were seen on fewer than {SEEN} inputs and positions")
        return
    limit = scene.check.max_dead_share
    told: set[tuple[str, str | None]] = set()  # a layer that runs on several views has one finding
    for site in enough:
        if not site.dead or site.share < scene.check.min_input_share:
            continue  # what no longer depends on the input is on or off for all of them: SYM103
        if _silenced(seen, site):
            continue  # by a layer that has its own finding
        pruned = _zero_rows(scene, seen, site)
        dead = site.dead - pruned
        chance = 0 if _reads_data(seen, site) else site.always
        excess = (dead - chance) / site.units
        low, high = excess_interval(dead, chance, site.units) if chance else share_interval(dead, site.units)
        if low <= limit * 0.75 or excess <= limit:
            if limit < pruned / site.units < 1:
                why = f"{pruned} of {site.units} units are off for all inputs, their weights zero: pruned or left empty"
                yield Skip("SYM101", why, _origin(scene, seen, site).module or site.name)
            continue
        if dead < site.units and _collapsed(seen, site):
            yield Skip("SYM101", "what the layer reads varies in one direction: an earlier layer decides", site.name)
            continue
        starved, origin = _starved(scene, seen, site), _origin(scene, seen, site)
        if (site.name, origin.module) in told:
            continue
        told.add((site.name, origin.module))
        finding = found(
            "SYM101",
            f'{dead} of {site.units} units behind "{site.name}" are zero for every input ({dead / site.units:.0%})',
            where=origin,
            evidence=Evidence(
                value=excess,
                unit="share of units",
                interval=(low, high),
                threshold=limit,
                n={"samples": seen.samples, "positions": site.seen, "units": site.units},
                seed=scene.subject.run.seed,
                detail=f"{site.always} units are never zero"
                + (": as many may be off by chance, so the value is what is off beyond them" if chance else "")
                + "; units whose weights are zero are not counted",
            ),
            means="why no gradient reaches the layer: SYM202 says what that does"
            if starved
            else "a unit that is off for every input gets no gradient and stays off",
            fix="start biases at 0, centre the inputs (nndiag check-normalization), or use LeakyReLU or GELU; "
            "Keras: bias_initializer='zeros'",
            severity=Severity.NOTE if starved else None,
        )
        scene.findings.append(finding)
        yield finding
    yield Judged("SYM101")


def _in_front(seen: Signals, site: Site) -> tuple[Call, ...]:
    """What makes the units that an activation cuts."""
    from nndiag.lab.symmetry.flow import halts

    through = ("shape", "dropout", "pool", "normaliser", "other")
    return seen.flow.before(site.call, through=through, stop=halts) if seen.flow else ()


def _source(seen: Signals, site: Site) -> Site | None:
    """The weighted layer in front of an activation, where it is the only one."""
    calls = _in_front(seen, site)
    known = {item.call.index: item for item in seen.of_role("affine")}
    return known.get(calls[0].index) if len(calls) == 1 else None


def _origin(scene: Scene, seen: Signals, site: Site) -> Where:
    """The weighted layer whose units are cut, where it is known; the activation is its reader."""
    source = _source(seen, site)
    if source is None:
        return site.call.place
    bare = _bare(source)
    return place(scene, bare, site.name) if bare else replace(source.call.place, next=site.name)


def _bare(source: Site) -> str:
    """The parameter that a product outside any layer multiplies with."""
    from nndiag.lab.symmetry.flow import weight_of

    return weight_of(source.call).name if source.call.module is None else ""


def _reads_data(seen: Signals, site: Site) -> bool:
    """Whether the layer in front is the first to weigh the data: an offset of the data turns its units off.

    Deeper in, what a layer reads has a mean of its own, and chance leaves as many units always on as always off.
    """
    from nndiag.lab.watch.roles import WEIGHTED

    source = _source(seen, site)
    if source is None or seen.flow is None:
        return False
    return not any(step.role in WEIGHTED for step in seen.flow.upstream(source.call))


def _silenced(seen: Signals, site: Site) -> bool:
    """Whether the layer in front reads nothing but zeros."""
    source = _source(seen, site)
    return source is not None and source.incoming == 0


def _starved(scene: Scene, seen: Signals, site: Site) -> bool:
    """Whether the layer in front is on a dead path: that finding is the headline, this one its reason."""
    source = _source(seen, site)
    if source is None or scene.starvation is None:
        return False
    starved = {name for path in scene.starvation.paths if not path.chance for name in path.starved}
    return _bare(source) in starved or source.call.name in {name.rpartition(".")[0] for name in starved}


def _collapsed(seen: Signals, site: Site) -> bool:
    """Whether the layer in front reads one direction only, though the model's inputs have more.

    Half of its units are then off on one side by their sign alone, until the layers before have come apart.
    """
    source, first = _source(seen, site), next(iter(seen.of_role("affine")), None)
    if source is None or first is None or source is first or source.read_width < MANY:
        return False
    return source.directions < ONE < first.directions


def _zero_rows(scene: Scene, seen: Signals, site: Site) -> int:
    """How many of the dead units were put to zero on purpose: their weights are zero throughout."""
    for source in _in_front(seen, site):
        view = next((item for item in scene.views if item.module == source.name and item.units == site.units), None)
        if source.kind == "module" and view is not None:
            rows = view.rows({**scene.bench.start, **_masked(source, view, scene.bench.start)})
            return sum(1 for unit in site.quiet if not rows[unit].any())
    return 0


def _masked(source: Call, view: UnitView, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weight as the layer uses it, where that is not the parameter itself: times a pruning mask, say."""
    used, name = getattr(source.module, "weight", None), view.weights[0]
    return {name: used.detach()} if used is not None and used.shape == start[name].shape else {}
