"""Configuration as defaults: command line > environment > configuration file > built in.

Click keeps that order itself once the file's values are a context's `default_map`; here they are found, checked against
the options that really exist, and put there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
import typer.main

from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.report import Suppression
from nndiag.core.rules import known_prefix

# Keys of a command's table that have no option of their own; the command's loader judges them.
FURTHER_KEYS = {
    "multigpu-lr": (
        "base-betas",
        "base-ema-decay",
        "ema-decay",
        "betas",
        "shard-sizes",
        "sampler",
        "set-epoch",
        "drop-last",
        "split-batches",
        "max-grad-norm",
        "schedule",
        "gradient-reduction",
        "accumulation-reduction",
        "intervals",
        "base-intervals",
    ),
}
TABLE_KEYS = ("model-args", "optimizer-args")  # tables whose items become repeated K=V options
NOT_IN_FILES = {"config", "isolated", "help", "debug"}


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration file, checked."""

    path: str = ""
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # further keys, per command
    suppressions: tuple[Suppression, ...] = ()


def read_config(ctx: typer.Context, value: Any) -> Config:
    """Eager callback of --config: find, read and check the file, and make it the command's defaults."""
    if ctx.resilient_parsing or (value is None and ctx.params.get("isolated")):
        return Config()
    from nndiag.load.config import find_config, read_toml

    path = str(value or find_config() or "")
    if not path:
        return Config()
    document = read_toml(path)
    commands = _options_of_every_command()
    _refuse_unknown(document, commands, path)
    own = document.get(ctx.info_name or "", {})
    suppressions = _suppressions(document, path)
    common = {key: item for key, item in document.items() if key not in commands}
    if suppressions:
        common.pop("ignore")
    values = _flat(common) | _flat(own)
    base = Path(path).resolve().parent
    known = commands.get(ctx.info_name or "", set())
    ctx.default_map = {key.replace("-", "_"): _from_file(item, base) for key, item in values.items() if key in known}
    further = {
        name: {key: item for key, item in document.get(name, {}).items() if key in keys}
        for name, keys in FURTHER_KEYS.items()
    }
    return Config(path, further, suppressions)


def _options_of_every_command() -> dict[str, set[str]]:
    """Return every command's options, also of those that are not called: one file serves them all."""
    from nndiag.cli.app import app

    group: Any = typer.main.get_command(app)
    return {
        name: {(parameter.name or "").replace("_", "-") for parameter in command.params}
        for name, command in group.commands.items()
    }


def _refuse_unknown(document: Mapping[str, Any], commands: Mapping[str, set[str]], path: str) -> None:
    every = set().union(*commands.values(), TABLE_KEYS) - NOT_IN_FILES
    for key, item in document.items():
        if key in commands and key not in every and not isinstance(item, dict):
            raise UsageError(f"'{key}' in {path} is no table", hint=f"write [{key}] and its keys below")
        if key in commands and isinstance(item, dict):
            allowed = (commands[key] | set(TABLE_KEYS) | set(FURTHER_KEYS.get(key, ()))) - NOT_IN_FILES
            _refuse(item, allowed, f"[{key}] of {path}")
        else:
            _refuse([key], every | set(commands), str(path))


def _refuse(keys: Iterable[str], allowed: Iterable[str], place: str) -> None:
    allowed = sorted(allowed)
    for key in keys:
        if key not in allowed:
            raise UsageError(
                f"unknown key '{key}' in {place}",
                hint=did_you_mean(key, allowed, otherwise=f"known keys: {', '.join(allowed)}"),
            )


def _suppressions(document: Mapping[str, Any], path: str) -> tuple[Suppression, ...]:
    """Read `[[ignore]]`; a plain list of codes under the same key is the option --ignore."""
    entries = document.get("ignore", [])
    if not isinstance(entries, list) or not any(isinstance(entry, dict) for entry in entries):
        return ()
    made = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(f"'ignore' in {path} mixes codes and tables", hint="use [[ignore]] tables or a list")
        _refuse(entry, ("code", "where", "reason"), f"[[ignore]] of {path}")
        if "code" not in entry:
            raise UsageError(f"an [[ignore]] of {path} has no code", hint='add code = "DRP105"')
        code = known_prefix(str(entry["code"]))
        made.append(Suppression(code, str(entry.get("where", "*")), str(entry.get("reason", ""))))
    return tuple(made)


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Turn tables into options: `optimizer = {name, lr, …}`, `model-args = {…}`, `severity = {…}`."""
    flat: dict[str, Any] = {}
    for key, item in table.items():
        if not isinstance(item, dict):
            flat[key] = item
        elif key == "optimizer":
            rest = {name.replace("-", "_"): value for name, value in item.items()}
            for name in ("name", "lr"):
                if name in rest:
                    flat.setdefault("optimizer" if name == "name" else name, rest.pop(name))
            flat["optimizer-arg"] = _pairs(rest)
        elif key in TABLE_KEYS:
            flat[key.removesuffix("s")] = _pairs(item)
        else:
            flat[key] = _pairs(item, text=True)
    return flat


def _pairs(table: Mapping[str, Any], *, text: bool = False) -> list[str]:
    return [f"{name}={value if text else repr(value)}" for name, value in table.items()]


def _from_file(item: Any, base: Path) -> Any:
    """Read paths relative to the configuration file, where such a file exists."""
    if isinstance(item, list):
        return [_from_file(part, base) for part in item]
    if isinstance(item, str) and item:
        head, colon, tail = item.rpartition(":") if ":" in item else (item, "", "")
        for path, rest in ((item, ""), (head, colon + tail)):
            near = base / path
            if path and not Path(path).exists() and near.exists():
                return f"{near}{rest}"
    return item
