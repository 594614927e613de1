"""What the trainers' callbacks share: which checks to run, on what, and what to do about the answer."""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.core.findings import Severity
from nndiag.core.report import DiagnosisError, Report

LOG = logging.getLogger("nndiag")
CHECKS = ("check-dropout", "check-normalization", "embedding-cost", "init-symmetry", "multigpu-lr")
BATCHES = 8  # as many as are looked at; the loader's own order


@dataclass(frozen=True, slots=True)
class Situation:
    """The real objects at the start of a training run, as far as a trainer shows them."""

    model: Any
    batches: Sequence[Any] = ()
    optimizer: Any = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


def known_checks(checks: Iterable[str] | None) -> tuple[str, ...]:
    """Return the checks that were asked for, by command or function name."""
    wanted = tuple(word.replace("_", "-") for word in (checks if checks is not None else CHECKS))
    for word in wanted:
        if word not in CHECKS:
            raise UsageError(f"no check '{word}' for a trainer", hint=did_you_mean(word, CHECKS, otherwise=f"{CHECKS}"))
    return wanted


def first_batches(loader: Any, count: int = BATCHES) -> list[Any]:
    """Return some batches as the loader makes them, without moving the loader's own state.

    Rows of a map-style data set are drawn by a generator of our own and collated as the loader collates. Only an
    iterable data set is read from its beginning, as the training will do again.
    """
    from nndiag.lab.borrow import seeded

    if loader is None:
        return []
    dataset: Any = getattr(loader, "dataset", None)
    collate = getattr(loader, "collate_fn", None)
    size, rows = getattr(loader, "batch_size", None), size_of(dataset)
    with seeded(0):
        if not (rows and size and callable(collate) and hasattr(dataset, "__getitem__")):
            return list(itertools.islice(iter(loader), count))
        picked = random.sample(range(rows), min(rows, size * count))
        parts = [picked[start : start + size] for start in range(0, len(picked), size)]
        return [collate([dataset[row] for row in part]) for part in parts]


@contextmanager
def alone() -> Iterator[None]:
    """Let rank 0 stand alone, so that nothing it examines waits for the others: they go on to hear its verdict.

    Synchronised batch norm, a loss that averages over ranks and our own statistics would all ask the other ranks.
    Every rank must enter; on the others nothing changes.
    """
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        yield
        return
    whole, rank = dist.distributed_c10d._get_default_group(), dist.get_rank()  # noqa: SLF001 - torch offers no setter
    single = dist.new_group([0])  # made by every rank, as torch wants it
    if rank != 0:
        yield
        return
    before = {key: os.environ.get(key) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    dist.distributed_c10d._update_default_pg(single)  # noqa: SLF001 - as above
    try:
        yield
    finally:
        dist.distributed_c10d._update_default_pg(whole)  # noqa: SLF001 - as above
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
        dist.destroy_process_group(single)


def training_of(optimizer: Any) -> dict[str, Any]:
    """Return the settings that build a like optimizer: its class, its rate, its options."""
    if optimizer is None:
        return {}
    kind = type(optimizer)
    accepted = inspect.signature(kind).parameters
    group = optimizer.param_groups[0]
    options = {key: group[key] for key in optimizer.defaults if key in accepted and key in group}
    rate = options.pop("initial_lr", None) or group.get("initial_lr") or options.get("lr")
    options.pop("lr", None)
    return {"optimizer": kind, "optimizer_args": options, "lr": float(rate)} if rate else {"optimizer": kind}


def ask(checks: Sequence[str], situation: Situation, settings: Mapping[str, Any]) -> list[Report]:
    """Run the checks; what cannot be loaded or judged is a log line, never the end of the training."""
    from nndiag import api

    shared = {**training_of(situation.optimizer), **settings}
    data = list(situation.batches) or None
    reports = []
    for check in checks:
        question: Callable[..., Report] = getattr(api, check.replace("-", "_"))
        arguments: tuple[Any, ...] = (situation.model, data)
        own = dict(shared)
        if check == "multigpu-lr":
            arguments = ()
            own |= {key: value for key, value in situation.recipe.items() if key not in settings and value is not None}
        elif check == "check-normalization" and data is None:
            LOG.warning("nndiag %s: skipped, the trainer shows no batches", check)
            continue
        else:
            own = {key: value for key, value in own.items() if key not in _recipe_keys()}
        try:
            reports.append(question(*arguments, **own))
        except UsageError:
            raise
        except NndiagError as failed:
            LOG.warning("nndiag %s could not run: %s", check, failed.message)
    return reports


def _recipe_keys() -> set[str]:
    from nndiag.load.recipe import OPTIONS, TABLE_KEYS

    return {key.replace("-", "_") for key in (*OPTIONS, *TABLE_KEYS)} - {"lr", "optimizer"}


def tell(reports: Sequence[Report]) -> None:
    """Log every finding that nobody has accepted, worst first."""
    levels = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.NOTE: logging.INFO}
    findings = [item for report in reports for item in report.active]
    for item in sorted(findings, key=lambda found: -found.severity):
        where = f" ({item.where.module})" if item.where.module else ""
        LOG.log(levels[item.severity], "%s %s%s; fix: %s", item.rule.code, item.message, where, item.fix)


def stop_if_needed(reports: Sequence[Report], fail_on: str) -> None:
    """Raise DiagnosisError when a finding is at or above `fail_on`."""
    if fail_on == "never":
        return
    for report in reports:
        report.raise_for_findings(fail_on)


def level(fail_on: str) -> str:
    """Check the word that was given for `fail_on`."""
    words = [*(item.word for item in Severity), "never"]
    if fail_on not in words:
        raise UsageError(f"fail_on does not know '{fail_on}'", hint=did_you_mean(fail_on, words, otherwise=f"{words}"))
    return fail_on


def size_of(dataset: Any) -> int | None:
    """Return how many samples there are, where the data set knows."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


__all__ = [
    "BATCHES",
    "CHECKS",
    "DiagnosisError",
    "Situation",
    "alone",
    "ask",
    "first_batches",
    "known_checks",
    "level",
    "size_of",
    "stop_if_needed",
    "tell",
    "training_of",
]
