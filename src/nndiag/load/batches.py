"""Data that can be read again and again: arrays, datasets, loaders, generators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.splitting import Shape, split
from nndiag.load.usercode import users_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nndiag.core.subject import Batch
    from nndiag.load.chunked import Chunked

DEFAULT_SIZE = 32  # rows, where nobody said
_CHUNK = 16 << 20  # bytes of a chunk, were it float64
_KEPT = 64  # batches remembered of an iterator that can be read once


@dataclass
class ArrayData:
    """Arrays whose first axis counts samples: read from a file in chunks, or in memory."""

    name: str
    inputs: Chunked | Mapping[str, Chunked]
    targets: Chunked | None = None
    default: int = DEFAULT_SIZE
    synthetic: bool = False
    single: bool = False  # the target is one column: drop its axis

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches of `size` rows in order; the last may be smaller."""
        from nndiag.core.subject import Batch

        rows = size or self.default
        parts = self.inputs if isinstance(self.inputs, Mapping) else {"": self.inputs}
        columns = [source.chunks(rows) for source in parts.values()]
        aims = self.targets.chunks(rows) if self.targets is not None else None
        empty = True
        for pieces in zip(*columns, strict=True):
            tensors = {key: _tensor(piece) for key, piece in zip(parts, pieces, strict=True)}
            aim = next(aims, None) if aims is not None else None
            if aims is not None and (aim is None or len(aim) != len(pieces[0])):
                raise self._uneven("more inputs than targets")
            empty = False
            yield Batch(tensors if isinstance(self.inputs, Mapping) else tensors[""], self._target(aim))
        if empty:
            raise NothingApplicableError(f"{self.name} has no rows", hint="was it written completely?")
        if aims is not None and next(aims, None) is not None:
            raise self._uneven("more targets than inputs")

    def chunks(self, rank: int = 0, world: int = 1) -> Iterator[tuple[int, Any, Any]] | None:
        """Yield row number, inputs and targets as plain arrays some MiB at a time; None when there are several inputs.

        Of `world` ranks each gets every `world`-th chunk; from plain .npy files it reads no more than that.
        """
        if isinstance(self.inputs, Mapping):
            return None
        return self._pairs(self.inputs, rank, world)

    def _pairs(self, inputs: Chunked, rank: int, world: int) -> Iterator[tuple[int, Any, Any]]:
        width = math.prod(size or 1 for size in inputs.shape[1:]) * 8
        rows = max(_CHUNK // max(width, 1), 1)
        aims = self.targets.share(rows, rank, world) if self.targets is not None else None
        for start, piece in inputs.share(rows, rank, world):
            _, aim = next(aims, (start, None)) if aims is not None else (start, None)
            if aims is not None and (aim is None or len(aim) != len(piece)):
                raise self._uneven("more inputs than targets")
            yield start, piece, self._plain(aim)
        if aims is not None and next(aims, None) is not None:
            raise self._uneven("more targets than inputs")

    def _uneven(self, words: str) -> NndiagError:
        """Inputs and targets of different length, with both counts where the file says them."""
        first = next(iter(self.inputs.values())) if isinstance(self.inputs, Mapping) else self.inputs
        counts = (first.shape[0], self.targets.shape[0] if self.targets is not None else None)
        told = f"{counts[0]} rows of inputs and {counts[1]} targets" if None not in counts else words
        return NndiagError(f"{self.name} has {told}", hint="one target for each row")

    @property
    def seekable(self) -> bool:
        """Whether `chunks` of one share cost nothing of the others."""
        if isinstance(self.inputs, Mapping) or self.inputs.part is None:
            return False
        return self.targets is None or self.targets.part is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the input columns, where there are any."""
        return () if isinstance(self.inputs, Mapping) else self.inputs.columns

    def _plain(self, aim: Any) -> Any:
        """The target as training sees it, as an array."""
        if aim is None:
            return None
        if self.single and aim.ndim == 2 and aim.shape[1] == 1:
            aim = aim[:, 0]
        if aim.dtype.kind == "f" and self.single and _whole(aim):
            aim = aim.astype("int64")  # class ids out of a table, where every number is float64
        return aim

    def _target(self, aim: Any) -> Any:
        aim = self._plain(aim)
        return None if aim is None else _tensor(aim)


def _whole(array: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(array).all() and (array == np.rint(array)).all() and (np.abs(array) < 2**53).all())


def _tensor(array: Any) -> Any:
    import numpy as np
    import torch

    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(array.shape).copy())


@dataclass
class LoaderData:
    """A loader, or any iterable of batches, begun anew each time under the same seed."""

    name: str
    begin: Callable[[int | None], Iterable[Any]]
    shape: Shape = field(default_factory=Shape)
    seed: int = 0
    synthetic: bool = False

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield the user's own batches; his loader decides their size unless it is ours to decide."""
        from nndiag.lab.borrow import RandomState, seed_all

        outside = RandomState.now()
        inside: RandomState | None = None
        iterator: Iterator[Any] | None = None
        empty = True
        try:
            while True:
                # The user's random draws go on from batch to batch, and never disturb those of the check.
                outside = RandomState.now()
                try:
                    if inside is None:
                        seed_all(self.seed)
                        with users_code(self.name):
                            iterator = iter(self.begin(size))
                    else:
                        inside.restore()
                    assert iterator is not None  # set in the first turn
                    with users_code(self.name):
                        item = next(iterator, _END)
                    inside = RandomState.now()
                finally:
                    outside.restore()
                if item is _END:
                    break
                empty = False
                yield split(item, self.shape)
        finally:
            del iterator
        if empty:
            raise NothingApplicableError(f"{self.name} yielded no batch", hint="is the data set empty?")


_END = object()


@dataclass
class Remembered:
    """An iterator that can be read once: its first batches are kept."""

    iterator: Iterator[Any]
    kept: list[Any] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        """Yield what is kept, then what is new."""
        yield from self.kept
        while len(self.kept) < _KEPT:
            try:
                item = next(self.iterator)
            except StopIteration:
                return
            self.kept.append(item)
            yield item


def collated(items: list[Any]) -> Any:
    """Stack samples into a batch as torch's loader does; lists of numbers become tensors first."""
    import torch
    from torch.utils.data import default_collate

    def ready(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: ready(value) for key, value in item.items() if not isinstance(value, str | None)}
        if isinstance(item, list) and item and all(isinstance(value, int | float) for value in item):
            return torch.tensor(item)
        if isinstance(item, tuple | list):
            return tuple(ready(value) for value in item)
        return item

    return default_collate([ready(item) for item in items])


def in_groups(samples: Iterable[Any], size: int) -> Iterator[Any]:
    """Stack consecutive samples into batches."""
    group: list[Any] = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield collated(group)
            group = []
    if group:
        yield collated(group)
