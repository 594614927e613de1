"""On which line was this module built? Recorded while the user's code builds the model."""

from __future__ import annotations

import contextlib
import inspect
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nndiag.core.findings import Where
from nndiag.lab.watch.blame import is_boundary, is_users, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MARK = "_nndiag_built"  # a plain attribute: it travels with copies of the module


@contextlib.contextmanager
def recording_construction() -> Iterator[None]:
    """Note, for every module built inside, the user's line that built it. For models that nndiag builds itself."""
    original: Any = nn.Module.__init__

    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        place = _builder(self, sys._getframe(1))  # noqa: SLF001 - the documented way to look up the stack
        if place is not None:
            object.__setattr__(self, MARK, place)

    nn.Module.__init__ = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]


def _builder(module: nn.Module, frame: FrameType | None) -> tuple[str, int] | None:
    """Return file and line of the user's frame outside the module's own constructors."""
    while frame is not None and not is_boundary(frame.f_code.co_filename):
        code = frame.f_code
        own = code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is module
        if not own and is_users(code.co_filename):
            return code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def locate(module: nn.Module | None, name: str | None = None, *, otherwise: Where | None = None) -> Where:
    """Return the place of a module for a finding: dotted name, class, and the line that built it.

    Args:
        module: The module itself.
        name: Its dotted name inside the model; "" is the model itself.
        otherwise: File and line to fall back on, such as the line of a call.
    """
    if module is None:
        base = otherwise or Where()
        return Where(module=name, file=base.file, line=base.line)
    cls = class_name(module)
    mark = vars(module).get(MARK)
    if mark is not None:
        return Where(module=name, cls=cls, file=shown(mark[0]), line=mark[1])
    base = otherwise or class_place(type(module))
    return Where(module=name, cls=cls, file=base.file, line=base.line)


def class_name(thing: Any) -> str:
    """Return the public qualified name of an object's class: torch.nn.Dropout, not torch.nn.modules.dropout.Dropout."""
    cls = thing if isinstance(thing, type) else type(thing)
    if getattr(nn, cls.__name__, None) is cls:
        return f"torch.nn.{cls.__name__}"
    if getattr(torch, cls.__name__, None) is cls:
        return f"torch.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def class_place(cls: type) -> Where:
    """Return where a class of the user's is written; nothing for torch's own."""
    return _class_place(cls)


@cache
def _class_place(cls: Any) -> Where:
    try:
        filename = inspect.getsourcefile(cls)
        if filename is None or not is_users(filename):
            return Where()
        return Where(file=shown(filename), line=inspect.getsourcelines(cls)[1])
    except (OSError, TypeError):
        return Where()
