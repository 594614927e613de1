"""Stand-ins for the arguments of a forward, and a tracer that follows them as far as it can."""

from __future__ import annotations

import inspect
import linecache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import fx, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

_FX = str(Path(fx.__file__).parent)


class Stand(fx.Proxy):
    """A stand-in for a tensor whose sizes are one where a whole number is needed: loops over them run once."""

    def __index__(self) -> int:
        """Be one."""
        return 1

    def __int__(self) -> int:
        """Be one."""
        return 1

    def __float__(self) -> float:
        """Be one."""
        return 1.0

    def __len__(self) -> int:
        """Be one."""
        return 1


class StandInTracer(fx.Tracer):
    """Traces as far as it goes: branches on values are not taken, parts that cannot be traced are one layer."""

    parts = 2  # how many items a list among the arguments has

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a stand-in."""
        return Stand(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Take what is iterated over for a list."""
        thing: Any = obj
        return iter([thing[index] for index in range(self.parts)])

    def to_bool(self, obj: fx.Proxy) -> bool:  # noqa: ARG002 - torch's own signature
        """Hold assertions true; take no branch that depends on the inputs."""
        frame = inspect.currentframe()
        while frame is not None and (frame.f_code.co_filename == __file__ or _FX in frame.f_code.co_filename):
            frame = frame.f_back
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""
        return line.strip().startswith("assert")

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module's inside; where that fails it is a single step."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # noqa: BLE001 - loops over values and the like in other people's forwards
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
