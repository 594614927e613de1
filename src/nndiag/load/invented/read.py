"""What a forward takes, by the layers that its trace shows to read each argument, and by the arguments' names."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.load.invented.guesses import Guess, declared_sizes, for_layer, ids, normal
from nndiag.load.invented.special import NAMED, Part, count_up, is_edges, state
from nndiag.load.invented.undone import undone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from nndiag.core.errors import NndiagError
    from nndiag.lab.watch.followed import Move
    from nndiag.lab.watch.reading import Read

_EACH = 6  # candidates of one argument
_ALL = 40  # combinations
_ONE = re.compile(r"(.*_)?(id|idx|user|users|item|items|movie|product|class|category|label|y|c|u|i|day|hour|month)s?")


def from_reading(model: nn.Module) -> Iterator[Guess]:
    """Yield inputs for what the forward was seen to take; nothing where it could not be followed."""
    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.watch.reading import read_forward

    if hasattr(getattr(model, "config", None), "model_type"):
        return  # its config and its arguments' names tell more
    try:
        with borrow(model, weights=False), seeded(0):
            reads = read_forward(model)
    except Exception:  # noqa: BLE001 - graphs of other people's forwards have any form; there are other guesses
        return
    reads = _without_edges_twice(
        [item for item in reads if len(item.path) > 1 or not str(item.path[0]).startswith("*")]
    )
    if not reads:
        return
    known = _Known(
        any(is_edges(str(item.path[-1])) for item in reads),
        any(item.role == "offsets" for item in reads),
        tuple(declared_sizes(model)),
    )
    each = _EACH if len(reads) > 1 else 4 * _EACH
    options = [list(itertools.islice(_candidates(item, known), each)) for item in reads]
    for choice in _combined(options):
        yield _joined(reads, choice)


def _without_edges_twice(reads: list[Read]) -> list[Read]:
    """Take the two rows of a graph's edges as the one tensor they are."""
    kept: dict[tuple[Any, ...], Read] = {}
    for item in reads:
        place = next((index for index, part in enumerate(item.path) if is_edges(str(part))), None)
        path = item.path if place is None else item.path[: place + 1]
        if path not in kept:
            kept[path] = replace(item, path=path)
    return list(kept.values())


@dataclass(frozen=True, slots=True)
class _Known:
    """What all arguments together tell."""

    graph: bool
    bags: bool  # of ids, divided by offsets
    sizes: tuple[tuple[int, int], ...]  # of images


def _combined(options: list[list[Part]]) -> Iterator[tuple[Part, ...]]:
    """Yield combinations, the first of each and equal lengths before others."""
    places = itertools.islice(itertools.product(*(range(len(item)) for item in options)), 20_000)

    def cost(place: tuple[int, ...]) -> float:
        chosen = [options[index][at] for index, at in enumerate(place)]
        lengths = {part.length for part in chosen if part.length}
        return sum(place) / max(len(place), 1) + 2.0 * max(len(lengths) - 1, 0)

    for place in sorted(places, key=cost)[:_ALL]:
        yield tuple(options[index][at] for index, at in enumerate(place))


def _candidates(read: Read, known: _Known) -> Iterator[Part]:
    """Yield ways to make one tensor, likeliest first."""
    name = str(read.path[-1]).lower()
    special = next((make for pattern, make in NAMED if pattern.fullmatch(name)), None)
    if special is not None and not _is_picture(read):
        yield from special(read)
    if read.role == "columns":
        yield Part(_table(read.columns))
    elif read.role == "state" and read.reader is not None:
        yield state(read.reader)
        yield state(read.reader, 16)
    elif read.role == "offsets":
        yield Part(Guess("offsets", lambda rows, _: count_up(rows)), whole=True)
    elif read.reader is not None:
        yield from _by_reader(read, known)
    else:
        yield from (
            Part(guess, length) for guess, length in ((normal(16), None), (normal(), None), (normal(16, 16), 16))
        )
        yield from (Part(normal(3, 32, 32)), Part(ids(None, 2)))


def _by_reader(read: Read, known: _Known) -> Iterator[Part]:
    """Yield what the layer takes, with what happens on the way undone."""
    from torch import nn

    assert read.reader is not None  # the caller's condition
    guesses = list(for_layer(read.reader, known.sizes))
    if isinstance(read.reader, nn.Embedding | nn.EmbeddingBag):
        one = known.bags or known.graph or _ONE.fullmatch(str(read.path[-1]).lower()) is not None
        one = one or any(move.kind == "unsqueeze" for move in read.moves)
        lengths: tuple[int | None, ...] = (None, 16) if one else (16, None, 8, 4, 32)
        guesses = [ids(length, read.reader.num_embeddings) for length in lengths]
    elif read.role == "sequence":
        guesses = guesses[1:2] + guesses[:1]
    for guess in guesses:
        shape = guess.sample if guess.ids is None else guess.ids[1:]
        if shape is None:
            yield Part(guess)
            continue
        changed = undone(read.moves, shape)
        if guess.ids is None:
            flat = len(changed) == 1 and _viewed(read.moves)
            yield Part(normal(*changed), changed[-2] if len(changed) == 2 else None)
            if flat:
                yield from (Part(other) for other in guesses[2:5])
        else:
            yield Part(guess, shape[0] if shape else None)


def _vocabulary(reader: nn.Module) -> int:
    return int(getattr(reader, "num_embeddings", 2))


def _viewed(moves: tuple[Move, ...]) -> bool:
    return any(move.kind in {"view", "flatten"} for move in moves)


def _is_picture(read: Read) -> bool:
    from torch import nn

    return isinstance(read.reader, nn.Conv2d | nn.Conv3d)


def _table(readers: tuple[nn.Module, ...]) -> Guess:
    """Return a column of ids for each table that reads one."""
    import torch

    sizes = [_vocabulary(reader) for reader in readers]

    def make(rows: int, generator: Any) -> Any:
        return torch.stack([torch.randint(0, size, (rows,), generator=generator) for size in sizes], 1)

    return Guess(f"{len(sizes)} columns of ids", make)


def _joined(reads: list[Read], choice: tuple[Part, ...]) -> Guess:
    """Put the tensors where the forward takes them from."""
    if len(reads) == 1 and len(reads[0].path) == 1 and not str(reads[0].path[0]).startswith("*"):
        return replace(choice[0].guess, whole=choice[0].whole)
    order = sorted(range(len(reads)), key=lambda index: choice[index].whole)  # what counts samples comes first
    attributes = any(item.attributes for item in reads)

    def make(rows: int, generator: Any) -> Any:
        made = {reads[index].path: choice[index].guess.inputs(rows, generator) for index in order}
        return _as_arguments(_tree(made, attributes=attributes))

    def instead(error: NndiagError) -> Iterator[Guess]:
        return (_joined(reads, other) for other in _repaired(choice, error))

    text = ", ".join(f"{_dotted(item.path)} {part.guess.text}" for item, part in zip(reads, choice, strict=True))
    return Guess(text, make, whole=any(part.whole for part in choice), repair=instead)


def _repaired(choice: tuple[Part, ...], error: NndiagError) -> Iterator[tuple[Part, ...]]:
    """Yield the parts with one of them changed as the error asks, and before that all that were like it."""
    for place, part in enumerate(choice):
        alike = [item.guess.sample is not None and item.guess.sample == part.guess.sample for item in choice]
        for other in part.guess.repair(error) if part.guess.repair is not None else ():
            changed = replace(part, guess=other)
            if sum(alike) > 1:
                yield tuple(changed if same else item for item, same in zip(choice, alike, strict=True))
            yield (*choice[:place], changed, *choice[place + 1 :])


def _as_arguments(tree: dict[str, Any]) -> Any:
    """Return what is passed: a tuple for *args, one value alone, else a mapping by keyword."""
    first = next(iter(tree))
    keywords: dict[str, Any] = next((value for key, value in tree.items() if key.startswith("**")), {})
    if len(tree) == 1 and not keywords:
        return tree[first]
    return {**{key: value for key, value in tree.items() if not key.startswith("*")}, **keywords}


def _tree(made: dict[tuple[str | int, ...], Any], *, attributes: bool) -> dict[str, Any]:
    """Return nested containers, as the paths to the values say."""
    heads: dict[Any, dict[tuple[str | int, ...], Any]] = {}
    for path, value in made.items():
        heads.setdefault(path[0], {})[path[1:]] = value
    return {key: _container(inner, attributes=attributes) for key, inner in heads.items()}


def _container(made: dict[tuple[str | int, ...], Any], *, attributes: bool) -> Any:
    if () in made:
        return made[()]
    tree = _tree(made, attributes=attributes)
    if all(isinstance(key, int) for key in tree):
        return tuple(tree[key] for key in sorted(tree))
    return make_dataclass("Data", list(tree))(**tree) if attributes else tree


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part).lstrip("*") for part in path)
