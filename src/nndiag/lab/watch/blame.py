"""Whose line was it? The user's own frame behind an exception or a call. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import nndiag
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Where

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

_OURS = str(Path(nndiag.__file__).parent) + os.sep
_SHOWCASE = _OURS + "showcase" + os.sep  # models of the demo: written as a user would
_CALLERS = tuple(_OURS + row for row in ("cli", "checks", "load", "core"))  # the user never calls these
_STDLIB = str(Path(sysconfig.get_paths()["stdlib"])) + os.sep


@cache
def _torch_folder() -> str:
    """Return torch's folder without importing it."""
    spec = importlib.util.find_spec("torch")
    return str(Path(spec.origin).parent) + os.sep if spec and spec.origin else "\0"


_KERAS = f"{os.sep}keras{os.sep}src{os.sep}"


@cache
def is_users(filename: str) -> bool:
    """Whether a source file belongs neither to torch, nor to nndiag, nor to Python itself.

    Installed packages other than torch and Keras count as the user's: a Hugging Face layer is the code that he runs.
    """
    if _KERAS in filename:
        return False
    if filename.startswith(_SHOWCASE):
        return True
    if filename.startswith(("<", _OURS, _torch_folder())):
        return False
    return "site-packages" in filename or not filename.startswith(_STDLIB)


def is_boundary(filename: str) -> bool:
    """Whether the frames further out are those of whoever started nndiag, not of the model."""
    return filename.startswith(_CALLERS)


def shown(filename: str) -> str:
    """Return the path relative to the current directory when it lies below it."""
    try:
        return Path(filename).resolve().relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return filename


def calling_place(frame: FrameType | None = None) -> Where:
    """Return file and line of the innermost frame that is the user's."""
    frame = frame or sys._getframe(1)  # noqa: SLF001 - the documented way to look up the stack
    while frame is not None and not is_boundary(frame.f_code.co_filename):
        if is_users(frame.f_code.co_filename):
            return Where(file=shown(frame.f_code.co_filename), line=frame.f_lineno)
        frame = frame.f_back
    return Where()


def blamed(error: BaseException) -> str:
    """Return `file:line` of the user's innermost frame in the error's traceback, or an empty string."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(error.filename)}:{error.lineno}"
    frames = [item for item in traceback.extract_tb(error.__traceback__) if is_users(item.filename)]
    if not frames:
        return ""
    own = [item for item in frames if "site-packages" not in item.filename]
    place = (own or frames)[-1]
    return f"{shown(place.filename)}:{place.lineno}"


def said(error: BaseException) -> str:
    """Return an exception in one line: type and first line of text, with the next after a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def users_fault(what: str, error: BaseException, *, hint: str = "", code: object = None) -> NndiagError:
    """Turn an exception of the user's code into two lines that name his file and line.

    Args:
        what: Raised it.
        error: The exception.
        hint: Instead of the one that points at the line.
        code: A function of his that was called: its first line is named when the call itself failed.
    """
    place = blamed(error) or _first_line(code)
    return NndiagError(
        f"{what} raised {said(error)}" + (f" ({place})" if place else ""),
        hint=hint or (f"the error is in {place}; --debug shows the traceback" if place else "--debug shows it all"),
    )


def _first_line(function: object) -> str:
    code = getattr(function, "__code__", None)
    return f"{shown(code.co_filename)}:{code.co_firstlineno}" if code and is_users(code.co_filename) else ""


def one_line(items: Iterable[str], *, limit: int = 5) -> str:
    """Join names, and say how many were left out."""
    names = list(items)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
