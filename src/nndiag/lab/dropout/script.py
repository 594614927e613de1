"""How a forward is to be played: which dropouts act, at which rate, fed with what, and who watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from nndiag.lab.dropout.graph import Key, Seen


@dataclass(frozen=True)
class Watch:
    """Who looks at a tensor argument before a step runs; what it returns takes the tensor's place."""

    slot: int
    reader: Callable[[Tensor, Any, Any], Tensor | None]


@dataclass
class Script:
    """How a forward is to be played."""

    off: bool = False  # every site passes its mean on
    only: frozenset[Key] | None = None  # sites that act; the others pass their mean on
    rates: Mapping[Key, float] = field(default_factory=dict)  # keep rates of hand-written masks, for their means
    feed: Mapping[Key, tuple[Tensor, ...]] = field(default_factory=dict)  # what sites are given: x, or q, k and v
    watch: Mapping[Key, list[Watch]] = field(default_factory=dict)  # step -> readers of its tensor arguments
    after: Mapping[Key, list[Callable[[Tensor], None]]] = field(default_factory=dict)  # step -> readers of its output
    after_module: Mapping[tuple[str, int], list[Callable[[Tensor], None]]] = field(default_factory=dict)
    at_site: Callable[[Seen, Tensor, Any], None] | None = None  # sees (site, its input, arguments)
    places: bool = True  # look up source lines
    drawn: frozenset[int] = frozenset()  # tensors from outside torch whose values change from run to run, by order

    def acts(self, key: Key) -> bool:
        """Whether a site draws its mask."""
        return not self.off and (self.only is None or key in self.only)
