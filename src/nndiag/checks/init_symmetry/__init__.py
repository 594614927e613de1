"""Which units start identical, which stay so for ever, and what tells the others apart?"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from nndiag.core.errors import NothingApplicableError
from nndiag.core.findings import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject


@dataclass(frozen=True)
class InitSymmetry:
    """Static groups of identical units, signal at the start, and the judge: a few steps on a private copy."""

    name: ClassVar[str] = "init-symmetry"

    steps: int = 100  # of the longer runs: rounding, accuracy
    tolerance: float = 1e-5  # of a unit's displacement (after steps) or norm (at the start)
    layers: str = "*"  # glob over module names
    max_dead_share: float = 0.2  # beyond the share of units that are never off: chance gives as many of either
    max_gain: float = 1e6  # per chain of layers, in second moments, either way
    min_input_share: float = 1e-3  # of the second moment of the last representation that differs between inputs
    samples: int = 256  # rows looked at

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Yield what the weights, one forward and backward, and a few steps say."""
        if subject.weights is not None:  # tensors without a model around them
            from nndiag.checks.init_symmetry.weights import examine_weights

            yield from examine_weights(self, subject)
            return
        if subject.model is None:
            raise NothingApplicableError(
                "init-symmetry needs a model or weights", hint="nndiag init-symmetry file.py:build"
            )
        yield Step("loading")
        if subject.data is None:
            from nndiag.checks.init_symmetry.weights import examine_still

            yield from examine_still(self, subject)
            return
        from nndiag.checks.init_symmetry.live import examine_model

        yield from examine_model(self, subject)

    def wants_layer(self, name: str) -> bool:
        """Whether the user asked for this module."""
        return self.layers in {"", "*"} or any(fnmatchcase(name, glob.strip()) for glob in self.layers.split(","))
