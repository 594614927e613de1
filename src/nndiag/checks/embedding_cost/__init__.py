"""Why does a large trainable embedding slow training, and what would each cure give?"""

from __future__ import annotations

from nndiag.checks.embedding_cost.check import EmbeddingCost

__all__ = ["EmbeddingCost"]
