"""What could one feed a model that looks up ids, when nobody gave data? Guesses, best first."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from nndiag.lab.embedding.ids import ZipfIds
from nndiag.lab.forward import signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

_STATE = ("hidden", "state", "h0", "hx", "memory", "cache")


def candidates(model: nn.Module, rows: int, batch: int, length: int, *, seed: int = 0) -> Iterator[Any]:
    """Yield inputs that the model may accept: ids of shape (B, T), (B,), (T, B), or flat ones with offsets.

    Args:
        model: Whose forward signature is read.
        rows: Ids are drawn below this, by Zipf's law.
        batch: B.
        length: T.
        seed: Of the draw.
    """
    known = signature(model)
    parameters = [] if known is None else list(known.parameters.values())
    names = [item.name for item in parameters]
    kinds = {item.kind for item in parameters}
    draw = _Draw(rows, batch, length, seed)
    if "input_ids" in names:
        yield from _hugging(names, draw)
    required = [
        item.name
        for item in parameters
        if item.default is inspect.Parameter.empty
        and item.kind in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    ] or (["ids"] if not parameters or inspect.Parameter.VAR_POSITIONAL in kinds or names else [])
    shapes: tuple[tuple[int, ...], ...] = ((batch, length), (batch,), (length, batch), (batch * length,))
    if any("offset" in name.lower() for name in required):
        shapes = shapes[-1:]
    for shape in shapes:
        yield tuple(draw.by_name(name, shape) for name in required)
    optional = [item.name for item in parameters if item.default is not inspect.Parameter.empty]
    if any("offset" in name for name in optional):
        wanted = [*required, next(name for name in optional if "offset" in name)]
        yield tuple(draw.by_name(name, (batch * length,)) for name in wanted)


def _hugging(names: list[str], draw: _Draw) -> Iterator[dict[str, Tensor]]:
    ids = draw.ids((draw.batch, draw.length))
    plain = {"input_ids": ids}
    if "decoder_input_ids" in names:
        plain["decoder_input_ids"] = ids
    if "labels" in names:
        yield {**plain, "labels": ids}
    yield plain


class _Draw:
    """Draws ids and what goes with them."""

    def __init__(self, rows: int, batch: int, length: int, seed: int) -> None:
        self.rows, self.batch, self.length, self._seed = rows, batch, length, seed

    def ids(self, shape: tuple[int, ...]) -> Tensor:
        count = 1
        for side in shape:
            count *= side
        self._seed += 1
        return ZipfIds(count, count=1, seed=self._seed).batches(min(self.rows, 10**6))[0].reshape(shape)

    def by_name(self, name: str, shape: tuple[int, ...]) -> Any:
        word = name.lower()
        if "offset" in word:
            return torch.arange(0, self.batch * self.length, self.length)
        if "length" in word or word.endswith("lens"):
            return torch.full((self.batch,), self.length)
        if "mask" in word:
            return torch.ones(self.batch, self.length, dtype=torch.bool)
        if any(part in word for part in _STATE):
            return None
        return self.ids(shape)
