"""Finds and reads nndiag.toml, or [tool.nndiag] of a pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from nndiag.core.errors import UsageError

MAX_BYTES = 4 * 2**20  # a configuration of more than this is something else


def find_config(start: Path | None = None) -> Path | None:
    """Return the nearest nndiag.toml, or pyproject.toml with [tool.nndiag], from `start` upwards."""
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        own = folder / "nndiag.toml"
        if own.is_file():
            return _short(own)
        project = folder / "pyproject.toml"
        if project.is_file() and "nndiag" in _document(project).get("tool", {}):
            return _short(project)
    return None


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the table of settings in this file."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no configuration file '{path}'", hint="--config takes the path of a toml file")
    document = _document(path)
    if path.name == "pyproject.toml":
        table = document.get("tool", {}).get("nndiag", {})
        return table if isinstance(table, dict) else {}
    return document


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"'{path}' is too large for a configuration file", hint="--config takes a toml file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise UsageError(f"'{path}' is not valid TOML: {broken}", hint="mend it, or run with --isolated") from broken


def _short(path: Path) -> Path:
    """Prefer a path relative to the working directory."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
