"""Which ids would a batch of text look up? Drawn by Zipf's law where nobody gave data."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nndiag.science.zipf import zipf_probabilities, zipf_unique


@dataclass(frozen=True, slots=True)
class ZipfIds:
    """Id batches that follow Zipf's law, shuffled over the table as hashing or spelling would."""

    lookups: int  # N per batch
    count: int = 4  # different batches: a probe that reuses one does not see a growing momentum buffer
    seed: int = 0
    exponent: float = 1.0

    def batches(self, rows: int) -> list[Tensor]:
        """Draw `count` batches of ids (N,) below `rows`."""
        return list(_draw(self, rows))

    def unique(self, rows: int) -> float:
        """Return how many different ids a batch holds on average."""
        return zipf_unique(rows, self.lookups, self.exponent)


@functools.lru_cache(maxsize=8)
def _draw(law: ZipfIds, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(law.seed)
    weights = torch.from_numpy(zipf_probabilities(rows, law.exponent)).cumsum(0)
    draws = torch.rand(law.count, law.lookups, dtype=torch.float64, generator=generator)
    ranks = torch.searchsorted(weights, draws).clamp_(max=rows - 1)
    stride = next(step for step in range(int(0.618 * rows) + 1, 2 * rows + 2) if math.gcd(step, rows) == 1)
    return ranks.mul_(stride).remainder_(rows)  # (count, N); coprime, so that no two ranks share a row
