"""Which ids does each table look up in the batches that follow?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nndiag.lab.forward import as_tensors, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from nndiag.lab.embedding.uses import LookupWatch


def watched_ids(inputs: Any, watch: LookupWatch) -> dict[str, Callable[[Any], list[NDArray[np.int64]]]]:
    """Return, per table, a reader of its ids in further batches of the same structure.

    Only ids that come in the batch as they are looked up can be followed; what the model computes itself (positions) is
    not data.

    Args:
        inputs: The batch that was watched.
        watch: What was seen.

    Returns:
        Parameter name -> function from inputs to the flat ids of each lookup.
    """
    leaves = tensors_in(as_tensors(inputs))
    whole = [not leaf.is_floating_point() and leaf.dtype != torch.bool for leaf in leaves]
    readers: dict[str, Callable[[Any], list[NDArray[np.int64]]]] = {}
    for name, use in watch.uses.items():
        if use.calls == 0 or not use.ids:
            continue
        seen = {(ids.numel(), hash(ids[:64].numpy().tobytes())) for ids in use.ids}
        places = []
        for place, leaf in enumerate(leaves):
            if not whole[place]:
                continue
            flat = leaf.reshape(-1).to(torch.int64)
            inside = flat[(flat >= 0) & (flat < use.rows)]
            if (inside.numel(), hash(inside[:64].numpy().tobytes())) in seen:
                places.append(place)
        if places:
            readers[name] = _reader(tuple(places))
    return readers


def _reader(places: tuple[int, ...]) -> Callable[[Any], list[NDArray[np.int64]]]:
    def read(inputs: Any) -> list[NDArray[np.int64]]:
        leaves = tensors_in(as_tensors(inputs))
        return [leaves[place].reshape(-1).to("cpu", torch.int64).numpy() for place in places if place < len(leaves)]

    return read
