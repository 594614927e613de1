"""Plain optimizer steps and dispatch modes, without torch's compiler: importing it outlasts a short training run."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMPILER = "torch._dynamo"
_CACHE = "__dynamo_disable"  # where torch's own decorator keeps the function it has prepared


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Let optimizers be built and meta tensors computed without importing the compiler, where nobody has imported it.

    torch marks methods of every optimizer, and the operations in Python that meta tensors run through, as not to be
    compiled, and imports the compiler to say so at their first call. The mark is filled in with the functions
    themselves, which is what it amounts to when nothing compiles.
    """
    if _COMPILER in sys.modules:
        yield
        return
    plain = [item for item in _marked() if not hasattr(item, _CACHE)]
    for item in plain:
        setattr(item, _CACHE, item)
    try:
        yield
    finally:
        for item in plain:
            with contextlib.suppress(AttributeError):
                delattr(item, _CACHE)


@functools.cache
def _marked() -> tuple[Any, ...]:
    """Return the functions inside torch's mark: of optimizers, and of operations written in Python."""
    from torch import _decomp, _refs

    tables = _decomp.global_decomposition_table.values()
    outer = [
        *vars(torch.optim.Optimizer).values(),
        *vars(_refs).values(),
        *vars(_refs.nn.functional).values(),
        *(item for table in tables for item in table.values()),
    ]
    found: dict[int, Any] = {}
    seen: set[int] = set()
    while outer:
        item = outer.pop()
        if not isinstance(item, types.FunctionType) or id(item) in seen:
            continue
        seen.add(id(item))
        held = dict(zip(item.__code__.co_freevars, map(_content, item.__closure__ or ()), strict=True))
        if item.__code__.co_filename.endswith("_compile.py") and "fn" in held:
            found[id(held["fn"])] = held["fn"]
        outer += held.values()
    return tuple(found.values())


def _content(cell: types.CellType) -> Any:
    """Return what a closure holds; None where it is not filled yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def lightened(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give one of torch's own optimizers a step and a zero_grad that do not import the compiler.

    The step is torch's own, out of its wrappers: without hooks for the profiler, under the same grad mode. Optimizers
    of other packages, compiled ones, and those with hooks stay as they are.
    """
    cls = type(optimizer)
    known = cls.__module__.startswith("torch.optim.") and not optimizer.defaults.get("differentiable", False)
    if _COMPILER in sys.modules or not known or optimizer._optimizer_step_pre_hooks:  # noqa: SLF001 - has no public name
        return optimizer
    light: Any = optimizer
    plain_step = inspect.unwrap(cls.step)
    plain_zero = inspect.unwrap(cls.zero_grad)

    @functools.wraps(plain_step)
    def step(self: Any, closure: Any = None) -> Any:
        with torch.no_grad():
            return plain_step(self) if closure is None else plain_step(self, closure)

    light.step = types.MethodType(step, optimizer)
    light.zero_grad = types.MethodType(plain_zero, optimizer)
    return optimizer


class PlainMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that runs its hook as plain Python, so that its first operation imports no compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # "skip" is what torch does by asking the compiler; nothing here is compiled anyway
