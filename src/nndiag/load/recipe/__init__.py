"""What recipe is this? Options, the [multigpu-lr] table and the trainers' own files become one `Recipe`."""

from __future__ import annotations

from nndiag.load.recipe.assemble import OPTIONS, TABLE_KEYS, load_recipe

__all__ = ["OPTIONS", "TABLE_KEYS", "load_recipe"]
