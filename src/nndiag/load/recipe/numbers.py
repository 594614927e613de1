"""Numbers as people write them in yaml, json and toml: 1e-3 that YAML reads as text, "8", "auto", no."""

from __future__ import annotations

import math
from typing import Any

from nndiag.core.errors import UsageError, did_you_mean

AUTO = ("auto", "null", "none", "")
WORDS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def number(value: Any, key: str, *, low: float = 0.0, strict: bool = True) -> float | None:
    """Return a number, or None for what is left to the framework ("auto", null).

    Args:
        value: What the file or the user said.
        key: Its name, for messages.
        low: Smallest value.
        strict: Whether `low` itself is refused.

    Raises:
        UsageError: It is no number, not finite, or too small.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in AUTO):
        return None
    if isinstance(value, bool):
        raise UsageError(f"{key} = {str(value).lower()} is not a number", hint="YAML reads no, off and yes as switches")
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{key} = {value!r} is not a number", hint=f"write {key} as a plain number") from None
    if not math.isfinite(found):
        raise UsageError(f"{key} = {value} is not finite", hint="write a plain number")
    if found < low or (strict and found == low):
        wanted = "positive" if low == 0 and strict else f"{'above' if strict else 'at least'} {low:g}"
        raise UsageError(f"{key} = {value} must be {wanted}", hint="leave it out when it is unknown")
    return found


def whole(value: Any, key: str, *, low: int = 1) -> int | None:
    """Return a whole number of at least `low`, or None for what is left to the framework."""
    found = number(value, key, low=low, strict=False) if low else number(value, key, low=0, strict=False)
    if found is None:
        return None
    if found != int(found):
        raise UsageError(f"{key} = {value} must be a whole number", hint=f"write {key} as a whole number")
    return int(found)


def share(value: Any, key: str) -> float | None:
    """Return a number strictly between 0 and 1, as decays and betas are."""
    found = number(value, key)
    if found is not None and found >= 1:
        raise UsageError(f"{key} = {value} must lie between 0 and 1", hint="0.999 is a usual value")
    return found


def pair(value: Any, key: str) -> tuple[float, float] | None:
    """Return Adam's two betas."""
    if value is None or (isinstance(value, str) and value.strip().lower() in AUTO):
        return None
    if isinstance(value, str):
        value = value.strip("()[] ").split(",")
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UsageError(f"{key} = {value!r} must be two numbers", hint=f"{key} = [0.9, 0.999]")
    found = [number(item, key, strict=False) for item in value]
    if any(item is None or item >= 1 for item in found):
        raise UsageError(f"{key} = {value!r} must lie between 0 and 1", hint=f"{key} = [0.9, 0.999]")
    return float(found[0] or 0), float(found[1] or 0)


def flag(value: Any, key: str) -> bool | None:
    """Return a switch, also from the words that YAML 1.2 and people use."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise UsageError(f"{key} = {value!r} must be true or false", hint=f"{key} = true")


def counts(value: Any, key: str, *, low: float = 0.0) -> tuple[float, ...]:
    """Return a list of numbers, such as milestones."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UsageError(f"{key} = {value!r} must be a list of numbers", hint=f"{key} = [30, 60, 80]")
    found = [number(item, key, low=low) for item in value]
    if any(item is None for item in found):
        raise UsageError(f"{key} = {value!r} must be a list of numbers", hint=f"{key} = [30, 60, 80]")
    return tuple(float(item) for item in found if item is not None)


def sizes(value: Any, key: str) -> tuple[int, ...]:
    """Return a list of whole numbers, 0 among them: a rank may be left without samples."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UsageError(f"{key} = {value!r} must be a list of whole numbers", hint=f"{key} = [4, 4, 2]")
    found = [whole(item, key, low=0) for item in value]
    if not any(found):
        raise UsageError(f"{key} = {value!r} holds no samples", hint=f"{key} = [4, 4, 2]")
    return tuple(item or 0 for item in found)


def choice(value: Any, key: str, known: tuple[str, ...]) -> str | None:
    """Return one of the known words."""
    if value is None:
        return None
    word = str(value).strip().lower().replace("_", "-")
    if word not in known:
        raise UsageError(
            f"{key} does not know '{value}'", hint=did_you_mean(word, known, otherwise=f"one of {', '.join(known)}")
        )
    return word


def only(table: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    """Refuse keys that nobody reads."""
    for key in table:
        if key not in known:
            raise UsageError(
                f"unknown key '{key}' in {place}",
                hint=did_you_mean(str(key), known, otherwise=f"known keys: {', '.join(known)}"),
            )
