"""What numbers does a data source hold? One pass over its inputs and targets, shared between ranks if there are any.

Files that can be read in chunks are read as arrays, without building batches; everything else by its batches.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.lab.scale_targets import TargetCollector, Targets, join_targets
from nndiag.science import moments as m
from nndiag.science.moments_profile import Profile, Profiler, join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from nndiag.core.subject import DataSource
    from nndiag.science.moments import Array

WORKERS = 2  # threads: beyond that reading is the limit
WISH = 61  # rows asked for; a source that yields other sizes has batches of its own
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, slots=True)
class Seen:
    """A data source after one pass."""

    inputs: Profile
    targets: Targets | None
    key: str = ""  # which part of the batch the inputs are, where there are several
    others: tuple[str, ...] = ()  # parts that were not looked at, or integer ids
    batch_size: int | None = None  # of the source's own batches, None for files and arrays
    last_batch: int | None = None
    complete: bool = True  # False when the budget ended the pass


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks under torchrun; (0, 1) alone."""
    try:
        return int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError:
        return 0, 1


def look(
    source: DataSource,
    axis: int | None = None,
    *,
    seconds: Callable[[], float] = lambda: 1e9,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> Seen:
    """Pass once over a data source.

    Args:
        source: Where batches or chunks come from.
        axis: The feature axis, when the user gave it.
        seconds: Tells how much time is left; a source that is not at its end by then is looked at in part.
        on_rows: Called with the number of rows seen.

    Returns:
        What it holds. Under torchrun each rank looks at its share, and all return the whole.

    Raises:
        NndiagError: Empty, without numeric inputs, or with another number of features half-way.
    """
    rank, world = rank_and_world()
    inputs, targets = Profiler(axis), TargetCollector()
    key, others, sizes, complete = "", (), [], True  # type: str, tuple[str, ...], list[int], bool
    readers = _readers(source, rank, world) or [_turns(_batches(source, sizes), rank, world)]
    for number, (piece, part) in enumerate(_computed(inputs, readers, source.name)):
        key, others = key or piece.key, others or piece.others
        inputs.add(piece.inputs, piece.start, part)
        if piece.targets is not None:
            targets.add(piece.targets)
        if number % 64 == 63:
            on_rows(piece.start)
            if seconds() <= 0:
                complete = False
                break
    profile, aims = inputs.result(), targets.result()
    if world > 1:
        profile, aims = gathered(profile, aims)
    if profile is None:
        raise NothingApplicableError(f"{source.name} holds no rows", hint="give data with at least one sample")
    whole = len(sizes) > 1 and len(set(sizes[:-1])) == 1 and sizes[0] != WISH
    return Seen(profile, aims, key, others, sizes[0] if whole else None, sizes[-1] if whole else None, complete)


def kept_targets(seen: Seen) -> tuple[Array, Array] | None:
    """Return the kept rows that are finite, (rows, features, inner), with the one target of each, (rows,).

    None where rows have several targets or some have none, and under torchrun, where targets are joined rank by rank.
    """
    targets, inputs = seen.targets, seen.inputs
    if targets is None or rank_and_world()[1] > 1 or any(axis != 1 for axis in targets.shape):
        return None
    if targets.moments.count[0] + targets.moments.nonfinite[0] != inputs.rows:
        return None
    here = inputs.index < len(targets.sample)
    rows = np.asarray(inputs.sample[here], dtype=np.float64)
    aims = targets.sample[inputs.index[here]]
    kept = np.isfinite(rows).all(axis=(1, 2)) & np.isfinite(aims)
    return (rows[kept], aims[kept]) if kept.any() else None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of inputs with their targets."""

    start: int  # number of the first row
    inputs: Array
    targets: Array | None
    key: str = ""
    others: tuple[str, ...] = ()


def _readers(source: DataSource, rank: int, world: int) -> list[Iterator[Piece]]:
    """Open a file that can be read in chunks: several times where its parts can be read by themselves, in turns."""
    files = source.chunks(rank, world) if hasattr(source, "chunks") else None
    if files is None:
        return []
    if not getattr(source, "seekable", False):
        return [_chunks(files)]
    several = 2 * WORKERS  # so that no thread waits for another's turn
    return [_chunks(source.chunks(rank + world * turn, world * several)) for turn in range(several)]  # type: ignore[attr-defined]


def _computed(inputs: Profiler, readers: list[Iterator[Piece]], name: str) -> Iterator[tuple[Piece, m.Moments]]:
    """Yield each piece with its moments, in order: the readers take turns. Threads work ahead."""
    if len(readers) == 1:
        yield from _computed_behind(inputs, readers[0], name)
        return

    def work(reader: Iterator[Piece]) -> tuple[Piece, m.Moments] | None:
        piece = next(reader, None)
        return None if piece is None else (piece, m.moments(_viewed(inputs, piece, name)))

    found = work(readers[0])  # alone: the first piece tells how all are laid out
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = deque(pool.submit(work, reader) for reader in (*readers[1:], readers[0]))
        for reader in itertools.cycle((*readers[1:], readers[0])):
            if found is None:  # the readers behind it are at their ends, too
                return
            yield found
            found = waiting.popleft().result()
            waiting.append(pool.submit(work, reader))


def _computed_behind(inputs: Profiler, pieces: Iterator[Piece], name: str) -> Iterator[tuple[Piece, m.Moments]]:
    """Compute in threads while the next piece is read here."""
    waiting: deque[tuple[Piece, Future[m.Moments]]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for piece in pieces:
            if len(piece.inputs) == 0:
                continue
            waiting.append((piece, pool.submit(m.moments, _viewed(inputs, piece, name))))
            if len(waiting) > 2 * WORKERS:
                first, part = waiting.popleft()
                yield first, part.result()
        for first, part in waiting:
            yield first, part.result()


def _viewed(inputs: Profiler, piece: Piece, name: str) -> Array:
    """The piece as moments are computed, or what does not fit."""
    try:
        return inputs.view(piece.inputs)
    except ValueError as changed:
        raise NndiagError(
            f"{name}: rows of shape {tuple(changed.args[0])} follow rows of another width",
            hint="every sample needs the same number of features or channels",
        ) from None
    except IndexError as axis:
        raise NndiagError(
            f"{name}: inputs of shape {piece.inputs.shape} have no feature axis {axis.args[0]}",
            hint="--feature-axis counts from 0 (the rows); take 1 or more, or leave it out",
        ) from None


def _chunks(chunks: Iterator[tuple[int, Array, Array | None]]) -> Iterator[Piece]:
    for start, inputs, targets in chunks:
        yield Piece(start, _numeric(inputs, "the file"), targets)


def _turns(pieces: Iterator[Piece], rank: int, world: int) -> Iterator[Piece]:
    """Of the batches of a loader, those that are this rank's."""
    return itertools.islice(pieces, rank, None, world)


def _batches(source: DataSource, sizes: list[int]) -> Iterator[Piece]:
    """The batches of a source; their sizes are noted in `sizes`."""
    start = 0
    for batch in source.batches(WISH):
        key, value, others = _main(batch.inputs)
        if value is None:
            raise NndiagError(
                f"{source.name} yields {type(batch.inputs).__name__} without numeric inputs",
                hint="yield (inputs, targets) as tensors or arrays",
            )
        inputs = _numeric(value, source.name)
        targets = _array(batch.targets) if batch.targets is not None else None
        sizes.append(len(inputs))
        yield Piece(start, inputs, targets, key, others)
        start += len(inputs)


def _main(inputs: Any) -> tuple[str, Any, tuple[str, ...]]:
    """Return name and value of the part of a batch that the scale questions are about, and the other parts' names."""
    if isinstance(inputs, Mapping):
        parts = {str(key): value for key, value in inputs.items() if str(key) not in TARGET_KEYS}
    elif isinstance(inputs, tuple | list) and inputs and any(_array(item) is not None for item in inputs):
        parts = {str(number): value for number, value in enumerate(inputs)}
    else:
        return "", _array(inputs), ()
    arrays = {key: value for key, item in parts.items() if (value := _array(item)) is not None and value.ndim > 0}
    floating = [key for key, value in arrays.items() if value.dtype.kind == "f"]
    chosen = next(iter([*floating, *arrays]), "")
    if not chosen:
        return "", None, ()
    return (chosen if len(arrays) > 1 else ""), arrays[chosen], tuple(key for key in arrays if key != chosen)


def _array(value: Any) -> Array | None:
    """Return a tensor, array, number or list of numbers as an array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biuf" else None
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        if tensor.is_sparse:
            tensor = tensor.to_dense()
        kinds = str(tensor.dtype)
        if "complex" in kinds or "quint" in kinds:
            return None
        return np.asarray(tensor.float().numpy() if "bfloat16" in kinds or "float8" in kinds else tensor.numpy())
    if isinstance(value, str | bytes) or value is None or isinstance(value, Mapping):
        return None
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _numeric(value: Any, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise NndiagError(f"{name} holds {array.dtype}, not numbers", hint="encode text columns as numbers first")
    return array if array.ndim else array.reshape(1)


def gathered(profile: Profile | None, targets: Targets | None) -> tuple[Profile | None, Targets | None]:
    """Join what all ranks saw; every rank returns the same whole.

    Uses the process group that exists, or makes a gloo one for the exchange and ends it.
    """
    import torch.distributed as dist

    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo")
    try:
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (profile, targets))
    finally:
        if own:
            dist.destroy_process_group()
    profiles = [one for one, _ in parts if one is not None]
    aims = [one for _, one in parts if one is not None]
    whole = profiles[0] if profiles else None
    for other in profiles[1:]:
        whole = join(whole, other) if whole is not None else other
    return whole, join_targets(aims)
