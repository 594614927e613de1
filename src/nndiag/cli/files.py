"""Writes a report completely or not at all; the old one survives a failure."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from nndiag.core.errors import UsageError


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary file beside the target, then replace the target; a device or pipe is written to as it is."""
    if path.is_dir():
        raise UsageError(f"'{path}' is a directory", hint="-o takes FORMAT:FILE, such as json:report.json")
    if path.exists() and not path.is_file():
        _write_to_device(path, text)
        return
    path = Path(os.path.realpath(path))  # a link stays one
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"no folder '{folder}' to write {path.name} into", hint=f"mkdir -p {folder}")
    try:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    except OSError as failed:
        raise UsageError(f"cannot write '{path}': {failed.strerror}", hint="choose a writable folder") from failed
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException as failed:
        with suppress(OSError):
            Path(temporary).unlink()
        if isinstance(failed, OSError):
            raise UsageError(f"cannot write '{path}': {failed.strerror}", hint="the old file is unchanged") from failed
        raise


def _write_to_device(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as failed:
        raise UsageError(f"cannot write '{path}': {failed.strerror}", hint="choose another place") from failed


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
