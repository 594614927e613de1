"""The settings that all six questions share, told apart from the check's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.findings import Severity
from nndiag.core.report import Policy
from nndiag.core.rules import RULES, Selection, known_prefix
from nndiag.core.subject import Run

if TYPE_CHECKING:
    from nndiag.core.check import Progress

Codes: TypeAlias = str | Iterable[str]
SHARED = (
    "seed", "device", "max_seconds", "train", "select", "ignore", "severity", "fail_on", "loss", "optimizer",
    "optimizer_args", "lr", "batch_size", "steps", "weights", "on_step",
)  # fmt: skip
FOR_TRAINING = ("loss", "optimizer", "optimizer_args", "lr", "batch_size", "steps")


@dataclass(frozen=True, slots=True)
class Wishes:
    """The settings that all checks share, told apart from the check's own."""

    run: Run
    training: dict[str, Any]
    policy: Policy
    own: dict[str, Any]
    weights: Any
    on_step: Progress


def wishes_of(command: str, settings: Mapping[str, Any], also: Iterable[str], *, uses_torch: bool) -> Wishes:
    """Sort keyword arguments into run, training, policy and the check's own.

    Raises:
        UsageError: A name is unknown; the hint says which was meant.
    """
    from nndiag.load.device import resolve_device

    own = {key: value for key, value in settings.items() if key not in SHARED}
    known = {item.name for item in fields(_check_class(command))}
    for key in own:
        if key not in known:
            words = sorted({*known, *SHARED, *also})
            raise UsageError(f"{command} has no setting '{key}'", hint=did_you_mean(key, words))
    given = {key: settings[key] for key in FOR_TRAINING if settings.get(key) is not None}
    shared = {key: settings[key] for key in ("seed", "max_seconds", "train") if settings.get(key) is not None}
    selection = Selection(_codes(settings.get("select")) or ("ALL",), _codes(settings.get("ignore")))
    device = resolve_device(str(settings.get("device") or "auto"), uses_torch=uses_torch)
    quiet: Progress = lambda _step: None  # noqa: E731 - the type is said
    own |= {key: given[key] for key in ("steps",) if key in given and key in known}
    return Wishes(
        run=Run(device=device, selection=selection, **shared),
        training=given,
        policy=Policy(
            selection=selection,
            severity={_code(code): _level(word) for code, word in (settings.get("severity") or {}).items()},
            fail_on=None if settings.get("fail_on") == "never" else _level(settings.get("fail_on") or "error"),
        ),
        own=own,
        weights=settings.get("weights"),
        on_step=settings.get("on_step") or quiet,
    )


def _check_class(command: str) -> Any:
    from importlib import import_module

    from nndiag.checks import ALL

    module, name = ALL[command].split(":")
    return getattr(import_module(module), name)


def _codes(codes: Codes | None) -> tuple[str, ...]:
    words = codes.split(",") if isinstance(codes, str) else list(codes or ())
    return tuple(known_prefix(word) for word in words if word.strip())


def _code(word: str) -> str:
    if word.upper() not in RULES:
        raise UsageError(f"unknown code '{word}'", hint=did_you_mean(word.upper(), RULES))
    return word.upper()


def _level(word: str | Severity) -> Severity:
    if isinstance(word, Severity):
        return word
    try:
        return Severity[word.upper()]
    except KeyError:
        words = [level.word for level in Severity]
        raise UsageError(f"unknown level '{word}'", hint=f"one of {', '.join(words)}") from None
