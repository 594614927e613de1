"""Parameters that no gradient reaches: because of their first values, or because of how the network is built?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nndiag.core.subject import Batch
from nndiag.lab.forward import mapped
from nndiag.lab.watch.roles import NORMALISER, role_of_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nndiag.lab.bench import Bench, Trial

REVIVED = 1e-8  # share of the strongest gradient that counts as arrived: far above what rounding leaves of a true zero
CROWD = 16  # units that are not all off by chance (2^-16)
MAX_SUSPECTS = 24  # layers tried one by one
FEW_FACTORS = 6  # of one product: every two of them are tried


@dataclass(frozen=True, slots=True)
class DeadPath:
    """Layers behind one blockade."""

    blockers: tuple[str, ...]  # modules (or bare parameters) whose first values block, in registration order
    zero: tuple[str, ...]  # those of them that are zero throughout
    starved: tuple[str, ...]  # parameters that get no gradient
    alone: bool  # re-initialising the first blocker alone is enough
    chance: bool = False  # few units that happen to be off for every input: another draw is as likely to be on


@dataclass(frozen=True, slots=True)
class Starvation:
    """What became of the parameters without gradient."""

    paths: tuple[DeadPath, ...]
    by_design: tuple[str, ...]  # no first values would bring gradient here
    unused: tuple[str, ...]  # not in the graph of the loss at all


def starved(trial: Trial) -> list[str]:
    """Parameters in the graph whose gradient was exactly zero at every step."""
    return [name for name in trial.arrival if not trial.strongest(name) > 0 and not math.isnan(trial.strongest(name))]


def unused(trial: Trial) -> list[str]:
    """Parameters that the graph of the loss never held."""
    return [name for name in trial.arrival if math.isnan(trial.strongest(name))]


def examine(bench: Bench, trial: Trial, loss: Callable[..., Tensor] | None, steps: int) -> Starvation:
    """Tell dead paths from parameters that have no gradient whatever their values.

    A zero factor, or a ReLU that is quiet for every input, blocks its own gradient too, so what blocks for ever is
    among the starved parameters. They are drawn afresh, all else is left: where gradient arrives now, the first values
    were to blame. Where none arrives (an output that is dropped, softmax over one element, a bias in front of batch
    norm, an expert that nothing is routed to), nothing is wrong with them.
    """
    hungry = starved(trial)
    if not hungry:
        return Starvation((), (), tuple(unused(trial)))
    woken = _revived(bench, hungry, hungry, loss, steps)
    woken -= _wakes_elsewhere(bench, woken, loss, steps)
    by_design = tuple(name for name in hungry if name not in woken)
    paths = [
        path if path.zero else replace(path, chance=_by_chance(bench, path, loss, steps))
        for path in _paths(bench, [name for name in hungry if name in woken], loss, steps)
    ]
    return Starvation(tuple(paths), by_design, tuple(unused(trial)))


def _by_chance(bench: Bench, path: DeadPath, loss: Callable[..., Tensor] | None, steps: int) -> bool:
    """Whether a quiet layer is merely small: with its weights negated, as likely a draw, gradient would arrive.

    So are biases of the size that a default layer draws; a larger one was chosen.
    """
    mine = [name for name in path.starved if _owner(bench, name) == path.blockers[0]]
    weights = [name for name in mine if bench.start[name].dim() >= 2]
    if not weights or any(bench.start[name].shape[0] >= CROWD for name in weights):
        return False
    drawn = min(math.sqrt(bench.start[name].shape[0] / bench.start[name].numel()) for name in weights)
    small = [name for name in mine if bench.start[name].dim() < 2 and float(bench.start[name].abs().max()) <= drawn]

    def negate(model: nn.Module) -> None:
        table = dict(model.named_parameters())
        for name in (*weights, *small):
            table[name].neg_()

    trial = bench.run(min(steps, 3), loss, alter=negate)
    return any(trial.strongest(name) > REVIVED for name in weights)


def _revived(
    bench: Bench, fresh: Iterable[str], watched: Iterable[str], loss: Callable[..., Tensor] | None, steps: int
) -> set[str]:
    """Which watched parameters get gradient once the `fresh` ones are drawn anew."""
    names = list(fresh)
    trial = bench.run(steps, loss, alter=lambda model: redraw(model, names, bench.seed))
    return {name for name in watched if trial.strongest(name) > REVIVED}


def _wakes_elsewhere(bench: Bench, names: set[str], loss: Callable[..., Tensor] | None, steps: int) -> set[str]:
    """Parameters that are only quiet on this batch: other inputs reach them with the values as they are."""
    if not names:
        return set()
    others = [_jittered(batch, seed) for seed in range(2) for batch in bench.batches[:2]]
    trial = bench.run(max(2, min(steps, 4)), loss, batches=others)
    return {name for name in names if trial.strongest(name) > REVIVED}


def _jittered(batch: Batch, seed: int) -> Batch:
    """The batch with floating-point inputs drawn anew at the same mean and spread."""
    source = torch.Generator().manual_seed(1009 + seed)

    def drawn(item: Tensor) -> Tensor:
        if not item.is_floating_point() or item.dim() < 2:
            return item
        noise = torch.randn(item.shape, generator=source, dtype=torch.float64).to(item.device, item.dtype)
        return item.mean() + 1.5 * item.std() * noise

    return replace(batch, inputs=mapped(batch.inputs, drawn))


def _paths(bench: Bench, names: Sequence[str], loss: Callable[..., Tensor] | None, steps: int) -> list[DeadPath]:
    """Cluster dead parameters by the layers whose re-initialisation revives them."""
    if not names:
        return []
    owners = list(dict.fromkeys(_owner(bench, name) for name in names))
    zero = [owner for owner in owners if _is_zero(bench, owner, names)]
    suspects = (zero or owners)[:MAX_SUSPECTS]
    reach = {
        owner: _revived(bench, [name for name in names if _owner(bench, name) == owner], names, loss, min(steps, 4))
        for owner in suspects
    }
    clusters: list[tuple[list[str], set[str]]] = []
    for owner in suspects:
        if not reach[owner]:
            continue
        joined = next((entry for entry in clusters if entry[1] & reach[owner]), None)
        if joined is None:
            clusters.append(([owner], set(reach[owner])))
        else:
            joined[0].append(owner)
            joined[1].update(reach[owner])
    covered = set().union(*(entry[1] for entry in clusters)) if clusters else set()
    paths = [_path(bench, owners_, found, zero, names, reach) for owners_, found in clusters]
    rest = [name for name in names if name not in covered]
    if rest:
        left = [owner for owner in (zero or owners) if any(_owner(bench, name) == owner for name in rest)]
        left = _needed(bench, left, rest, loss, steps) or [_owner(bench, rest[0])]
        paths.extend(_deep_paths(left, rest, zero))
    return paths


def _path(  # noqa: PLR0913, PLR0917 - one cluster and what is known of it
    bench: Bench, owners: list[str], found: set[str], zero: list[str], names: Sequence[str], reach: dict[str, set[str]]
) -> DeadPath:
    if not zero:  # a dead activation: the layer whose fresh draw revives most is the one in front of it
        best = max(owners, key=lambda owner: len(reach[owner]))
        owners = [best]
    # Zero layers downstream of the blocker wake with it; they are factors of the same product.
    also = [owner for owner in zero if owner not in owners and any(_owner(bench, name) == owner for name in found)]
    blockers = [owner for owner in dict.fromkeys(_owner(bench, name) for name in names) if owner in {*owners, *also}]
    return DeadPath(
        blockers=tuple(blockers),
        zero=tuple(owner for owner in blockers if owner in zero),
        starved=tuple(name for name in names if name in found),
        alone=True,
    )


def _needed(
    bench: Bench, owners: list[str], names: Sequence[str], loss: Callable[..., Tensor] | None, steps: int
) -> list[str]:
    """Those that are factors of the product: two of them kept zero block each other, whatever the others are.

    A gain that is stored as its distance from one is zero too, and starved behind a dead block, but blocks nothing.
    """
    if not 2 < len(owners) <= FEW_FACTORS:
        return owners
    factors: set[str] = set()
    for pair in itertools.combinations(owners, 2):
        if factors.issuperset(pair):
            continue
        others = [name for name in names if _owner(bench, name) in owners and _owner(bench, name) not in pair]
        kept = [name for name in names if _owner(bench, name) in pair]
        if not _revived(bench, others, kept, loss, steps):
            factors.update(pair)
    return [owner for owner in owners if owner in factors] or owners


def _deep_paths(left: list[str], rest: Sequence[str], zero: list[str]) -> list[DeadPath]:
    """Three zero factors or more in series: no single layer revives them, so neighbours count as one path."""
    return [DeadPath(tuple(left), tuple(owner for owner in left if owner in zero), tuple(rest), alone=False)]


def _owner(bench: Bench, name: str) -> str:
    """The module of a parameter; a bare parameter stands for itself and for the bias that goes with it."""
    name = bench.goes_with.get(name, name)
    owner, _, leaf = name.rpartition(".")
    return owner if leaf in {"weight", "bias"} or leaf.startswith(("weight_", "bias_", "in_proj")) else name


def _is_zero(bench: Bench, owner: str, names: Sequence[str]) -> bool:
    """Whether the owner's starved weights are zero throughout (its biases are judged by the gradient)."""
    mine = [name for name in names if _owner(bench, name) == owner]
    weights = [name for name in mine if name not in bench.goes_with and not name.rpartition(".")[2].startswith("bias")]
    return bool(weights) and all(not bool(bench.start[name].any()) for name in weights)


def redraw(model: nn.Module, names: Iterable[str], seed: int) -> None:
    """Draw parameters anew as a default initialisation would: 1/fan-in weights, small biases, unit gains."""
    source = torch.Generator().manual_seed(seed + 17)
    table = dict(model.named_parameters())
    modules = dict(model.named_modules())
    for name in names:
        item = table[name]
        owner, _, leaf = name.rpartition(".")
        normal = role_of_module(modules[owner]) == NORMALISER if owner in modules else False
        if normal:
            item.fill_(0.0 if leaf.startswith("bias") else 1.0)
            continue
        noise = torch.randn(item.shape, generator=source, dtype=torch.float64).to(item.device, item.dtype)
        if item.dim() >= 2:
            fan_in = max(1, item.numel() // max(1, item.shape[0]))
            item.copy_(noise / math.sqrt(fan_in))
        elif leaf.startswith("bias"):
            item.copy_(0.05 * noise)
        else:
            item.copy_(0.5 + 0.1 * noise)
