"""On which line was this module built? Recorded while the user's code builds the model."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from nndiag.core.findings import Where
from nndiag.lab.watch.blame import is_boundary, is_users, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MARK = "_nndiag_built"  # a plain attribute: it travels with copies of the module
LEARNT = "_nndiag_learnt"  # on a parameter that an optimizer has moved, and on a module that weights were loaded into


@contextlib.contextmanager
def recording_construction() -> Iterator[None]:
    """Note, for every module built inside, the user's line that built it. For models that nndiag builds itself.

    What an optimizer moves inside, and what weights are loaded into, is marked too: see `moved` and `loaded`.
    """
    original: Any = nn.Module.__init__
    loading: Any = nn.Module.load_state_dict

    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        place = _builder(self, sys._getframe(1))  # noqa: SLF001 - the documented way to look up the stack
        if place is not None:
            object.__setattr__(self, MARK, place)

    @functools.wraps(loading)
    def marking(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outcome = loading(self, *args, **kwargs)
        object.__setattr__(self, LEARNT, True)
        return outcome

    nn.Module.__init__ = noting  # type: ignore[method-assign]
    nn.Module.load_state_dict = marking  # type: ignore[method-assign]
    stepping = register_optimizer_step_post_hook(_stepped)
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]
        nn.Module.load_state_dict = loading  # type: ignore[method-assign]
        stepping.remove()


def _stepped(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    """Mark what an optimizer has just moved."""
    for group in optimizer.param_groups:
        for item in group["params"]:
            setattr(item, LEARNT, True)


def moved(model: nn.Module) -> bool:
    """Whether a parameter was moved by an optimizer while the user's code ran, or still has a gradient from it."""
    return any(hasattr(item, LEARNT) or (item.is_leaf and item.grad is not None) for item in model.parameters())


def loaded(model: nn.Module) -> bool:
    """Whether a state dict was loaded into it, or into a part of it, while the user's code ran."""
    return any(hasattr(module, LEARNT) for module in model.modules())


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
