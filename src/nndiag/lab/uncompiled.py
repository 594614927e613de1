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
    """Let optimizers be built without importing the compiler, where nobody has imported it.

    torch marks four methods of every optimizer as not to be compiled, and imports the compiler to say so at their
    first call. The mark is filled in with the methods themselves, which is what it amounts to when nothing compiles.
    """
    if _COMPILER in sys.modules:
        yield
        return
    marked = [_marked(item) for item in vars(torch.optim.Optimizer).values()]
    plain = [item for item in marked if item is not None and not hasattr(item, _CACHE)]
    for item in plain:
        setattr(item, _CACHE, item)
    try:
        yield
    finally:
        for item in plain:
            with contextlib.suppress(AttributeError):
                delattr(item, _CACHE)


def _marked(method: Any) -> Any:
    """Return the function inside torch's mark, or None for a method without one."""
    inner = getattr(method, "__wrapped__", None)
    code = getattr(method, "__code__", None)
    return inner if inner is not None and code is not None and code.co_filename.endswith("_compile.py") else None


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
