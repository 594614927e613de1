"""What one forward did, as far as dropout cares: steps, modules, sites, and who reads whom."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from nndiag.core.findings import Where
    from nndiag.lab.dropout.ops import Dial, MaskFacts

Key = tuple[str, str, int]  # owner, operation, how many of that kind before it in that owner


@dataclass(frozen=True, slots=True)
class Step:
    """One torch function that read data."""

    index: int
    key: Key
    role: str
    reads: tuple[tuple[int, int], ...]  # (slot among the tensor arguments, id of the tensor)
    weights: tuple[int, ...]  # slots that hold parameters
    makes: tuple[int, ...]  # ids
    number: float | None = None  # a plain number among the arguments of a multiplication
    batch_statistics: bool = False  # a batch norm that learns running statistics

    @property
    def owner(self) -> str:
        """Dotted name of the innermost module."""
        return self.key[0]

    @property
    def op(self) -> str:
        """Bare name of the function."""
        return self.key[1]


@dataclass(frozen=True, slots=True)
class Span:
    """One run of one module."""

    name: str
    repeat: int
    module: nn.Module
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    first: int  # steps[first:last] ran inside
    last: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A dropout that ran: one of torch's, or a mask multiplied by hand."""

    key: Key
    variant: str  # dropout, alpha_dropout, lstm, scaled_dot_product_attention, …; "mask" for hand-written ones
    where: Where
    index: int  # of its step
    dial: Dial
    owner_training: bool = False  # the mode flag of the enclosing module
    parent_training: bool = False  # and of the module around that
    words: frozenset[str] = frozenset()  # of names, classes and functions around it, in lower case
    mask: MaskFacts | None = None
    module: nn.Module | None = None

    @property
    def handmade(self) -> bool:
        """Whether it is a mask rather than a function of torch's."""
        return self.variant == "mask"


@dataclass(frozen=True, slots=True)
class Chance:
    """A use of randomness that is no dropout."""

    what: str
    where: Where
    index: int


@dataclass
class Film:
    """Everything recorded in one forward."""

    steps: list[Step] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    sites: list[Seen] = field(default_factory=list)
    chances: list[Chance] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)
    outputs: tuple[int, ...] = ()  # ids of the tensors of the output
    foreign: list[int] = field(default_factory=list)  # fingerprints of tensors no torch function made, in order
    ran: dict[str, int] = field(default_factory=dict)  # module -> runs

    def readers(self) -> dict[int, list[Step]]:
        """Who reads each tensor, in call order."""
        table: dict[int, list[Step]] = defaultdict(list)
        for step in self.steps:
            for _, number in step.reads:
                table[number].append(step)
        return table

    def makers(self) -> dict[int, Step]:
        """Which step made each tensor."""
        return {number: step for step in self.steps for number in step.makes}

    def step_of(self, site: Seen) -> Step | None:
        """The step at which a site acted."""
        return next((step for step in self.steps if step.index == site.index), None)


def slot_of(step: Step, number: int) -> int:
    """In which tensor argument a step reads a tensor."""
    return next(slot for slot, read in step.reads if read == number)


def names(items: Sequence[str], limit: int = 3) -> str:
    """A short list for a message."""
    shown = ", ".join(f"'{item}'" for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
