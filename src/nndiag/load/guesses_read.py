"""What a forward takes, by the layers that its trace shows to read each argument, and by the arguments' names."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.load.guesses import Guess, declared_sizes, for_layer, ids, normal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from nndiag.core.errors import NndiagError
    from nndiag.lab.reading import Move, Read

_EACH = 6  # candidates of one argument
_ALL = 40  # combinations
_ONE = re.compile(r"(.*_)?(id|idx|user|users|item|items|movie|product|class|category|label|y|c|u|i|day|hour|month)s?")
_EDGES = 4  # for each node of an invented graph


def from_reading(model: nn.Module) -> Iterator[Guess]:
    """Yield inputs for what the forward was seen to take; nothing where it could not be followed."""
    from nndiag.lab.borrow import borrow, seeded
    from nndiag.lab.reading import read_forward

    try:
        with borrow(model), seeded(0):
            reads = read_forward(model)
    except Exception:  # noqa: BLE001 - graphs of other people's forwards have any form; there are other guesses
        return
    reads = _without_edges_twice(reads)
    if not reads:
        return
    known = _Known(
        any(_is_edges(str(item.path[-1])) for item in reads),
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
        place = next((index for index, part in enumerate(item.path) if _is_edges(str(part))), None)
        path = item.path if place is None else item.path[: place + 1]
        if path not in kept:
            kept[path] = replace(item, path=path)
    return list(kept.values())


@dataclass(frozen=True, slots=True)
class _Part:
    """One way to make one tensor."""

    guess: Guess
    length: int | None = None  # of its sequence, which others must share
    whole: bool = False  # its first axis does not count samples


@dataclass(frozen=True, slots=True)
class _Known:
    """What all arguments together tell."""

    graph: bool
    bags: bool  # of ids, divided by offsets
    sizes: tuple[tuple[int, int], ...]  # of images


def _combined(options: list[list[_Part]]) -> Iterator[tuple[_Part, ...]]:
    """Yield combinations, the first of each and equal lengths before others."""
    places = itertools.islice(itertools.product(*(range(len(item)) for item in options)), 20_000)

    def cost(place: tuple[int, ...]) -> float:
        chosen = [options[index][at] for index, at in enumerate(place)]
        lengths = {part.length for part in chosen if part.length}
        return sum(place) / max(len(place), 1) + 2.0 * max(len(lengths) - 1, 0)

    for place in sorted(places, key=cost)[:_ALL]:
        yield tuple(options[index][at] for index, at in enumerate(place))


def _candidates(read: Read, known: _Known) -> Iterator[_Part]:
    """Yield ways to make one tensor, likeliest first."""
    name = str(read.path[-1]).lower()
    special = next((make for pattern, make in _NAMED if pattern.fullmatch(name)), None)
    if special is not None and not _is_picture(read):
        yield from special(read)
    if read.role == "columns":
        yield _Part(_table(read.columns))
    elif read.role == "state" and read.reader is not None:
        yield _state(read.reader)
        yield _state(read.reader, 16)
    elif read.role == "offsets":
        yield _Part(Guess("offsets", lambda rows, _: _arange(rows)), whole=True)
    elif read.reader is not None:
        yield from _by_reader(read, known)
    else:
        yield from (
            _Part(guess, length) for guess, length in ((normal(16), None), (normal(), None), (normal(16, 16), 16))
        )
        yield from (_Part(normal(3, 32, 32)), _Part(ids(None, 2)))


def _by_reader(read: Read, known: _Known) -> Iterator[_Part]:
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
            yield _Part(guess)
            continue
        changed = _undone(read.moves, shape)
        if guess.ids is None:
            flat = len(changed) == 1 and _viewed(read.moves)
            yield _Part(normal(*changed), changed[-2] if len(changed) == 2 else None)
            if flat:
                yield from (_Part(other) for other in guesses[2:5])
        else:
            yield _Part(guess, shape[0] if shape else None)


def _vocabulary(reader: nn.Module) -> int:
    return int(getattr(reader, "num_embeddings", 2))


def _viewed(moves: tuple[Move, ...]) -> bool:
    return any(move.kind in {"view", "flatten"} for move in moves)


def _undone(moves: tuple[Move, ...], sample: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sample before the moves; the axis of samples is put first again."""
    batch = -1
    shape = [batch, *sample]
    for move in reversed(moves):
        numbers = [item for item in move.numbers if item is not None]
        shape = _undo(move.kind, numbers, shape)
    if batch in shape and shape[0] != batch:
        place = shape.index(batch)
        shape[0], shape[place] = shape[place], shape[0]
    return tuple(size for size in shape if size != batch)


def _undo(kind: str, numbers: list[int], shape: list[int]) -> list[int]:
    rank = len(shape)
    if kind == "permute" and len(numbers) == rank:
        before = [0] * rank
        for place, source in enumerate(numbers):
            before[source % rank] = shape[place]
        return before
    if kind == "transpose" and len(numbers) == 2 and max(abs(item) for item in numbers) <= rank:
        before = list(shape)
        first, second = (item % rank for item in numbers)
        before[first], before[second] = before[second], before[first]
        return before
    if kind == "unsqueeze" and numbers and rank > 1:
        place = numbers[0] % rank
        return shape[:place] + shape[place + 1 :] if shape[place] != -1 else shape
    if kind == "squeeze" and numbers:
        place = numbers[0] % (rank + 1)
        return [*shape[:place], 1, *shape[place:]]
    if kind == "view" and len(numbers) >= 2 and rank == len(numbers) + 1:  # view(-1, 1, 28, 28)
        return [-1, *numbers]
    return shape


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


def _state(reader: nn.Module, sequences: int | None = None) -> _Part:
    """Return zeros as a recurrent layer's state, for each row or for a fixed number of sequences."""
    import torch

    width, layers = int(reader.hidden_size), getattr(reader, "num_layers", None)  # type: ignore[arg-type]
    count = int(layers) * (2 if getattr(reader, "bidirectional", False) else 1) if isinstance(layers, int) else None

    def make(rows: int, _generator: Any) -> Any:
        zeros = torch.zeros(rows, width) if count is None else torch.zeros(count, sequences or rows, width)
        return (zeros, zeros.clone()) if "LSTM" in type(reader).__name__ else zeros

    return _Part(Guess("a state of zeros", make), whole=count is not None)


def _arange(rows: int) -> Any:
    import torch

    return torch.arange(rows)


def _is_edges(name: str) -> bool:
    return name.lower() in {"edge_index", "edges", "edge_idx"}


def _edges(_read: Read) -> Iterator[_Part]:
    """Edges of a random graph whose nodes are the rows."""
    import torch

    def make(rows: int, generator: Any) -> Any:
        return torch.randint(0, rows, (2, _EDGES * rows), generator=generator)

    yield _Part(Guess("edges", make), whole=True)


def _of_edges(read: Read) -> Iterator[_Part]:
    """Numbers for each edge."""
    import torch

    wide = [guess.sample for guess in for_layer(read.reader)][:1] if read.reader is not None else []
    for shape in (*(item for item in wide if item is not None), ()):

        def make(rows: int, generator: Any, shape: tuple[int, ...] = shape) -> Any:
            return torch.rand(_EDGES * rows, *shape, generator=generator)

        yield _Part(Guess("numbers of edges", make), whole=True)


def _adjacency(_read: Read) -> Iterator[_Part]:
    """A symmetric matrix with rows that sum to about one."""
    import torch

    def make(rows: int, generator: Any) -> Any:
        linked = (torch.rand(rows, rows, generator=generator) < 0.3).float()
        linked = ((linked + linked.T) > 0).float() + torch.eye(rows)
        return linked / linked.sum(1, keepdim=True)

    yield _Part(Guess("adjacency", make), whole=True)


def _one_graph(_read: Read) -> Iterator[_Part]:
    import torch

    yield _Part(Guess("one graph", lambda rows, _: torch.zeros(rows, dtype=torch.long)), whole=True)


def _times(read: Read) -> Iterator[_Part]:
    """Time steps: whole numbers, fractions, or a column of them."""
    import torch
    from torch import nn

    if isinstance(read.reader, nn.Embedding):
        yield _Part(ids(None, read.reader.num_embeddings))
        return
    column = _Part(Guess("times", lambda rows, generator: torch.rand(rows, 1, generator=generator)))
    if isinstance(read.reader, nn.Linear) and read.reader.in_features == 1 and not read.moves:
        yield column
    yield _Part(
        Guess("time steps below 10", lambda rows, generator: torch.randint(0, 10, (rows,), generator=generator))
    )
    yield _Part(Guess("times", lambda rows, generator: torch.rand(rows, generator=generator)))
    yield column
    yield _Part(Guess("one time", lambda _rows, generator: torch.rand((), generator=generator)), whole=True)


def _masks(_read: Read) -> Iterator[_Part]:
    """Masks that let everything pass: true or one, for each sample and position."""
    import torch

    for kind in (torch.bool, torch.float32):
        for shape in ((16,), (16, 16), (1, 1, 16)):

            def make(rows: int, _generator: Any, shape: Any = shape, kind: Any = kind) -> Any:
                return torch.ones(rows, *shape, dtype=kind)

            yield _Part(Guess("a full mask", make), shape[-1])
    yield _Part(Guess("a full mask", lambda _rows, _generator: torch.ones(16, 16, dtype=torch.bool)), 16, whole=True)


def _lengths(_read: Read) -> Iterator[_Part]:
    """How long each sequence is: full length."""
    import torch

    yield _Part(Guess("full lengths", lambda rows, _: torch.full((rows,), 16)), 16)
    yield _Part(Guess("full lengths", lambda rows, _: torch.full((rows,), 8)), 8)


_NAMED: tuple[tuple[re.Pattern[str], Callable[[Read], Iterator[_Part]]], ...] = (
    (re.compile(r"t|time|times|timesteps?|time_steps?|steps?|sigmas?|noise_level|noise_labels"), _times),
    (re.compile(r".*mask.*"), _masks),
    (re.compile(r"len|lens|lengths?|.*_lens?|.*_lengths?"), _lengths),
    (re.compile(r"edge_index|edges|edge_idx"), _edges),
    (re.compile(r"edge_attrs?|edge_weights?|edge_features?"), _of_edges),
    (re.compile(r"adj|adj_t|adjacency.*|adj_matrix"), _adjacency),
    (re.compile(r"batch|batch_idx|batch_index"), _one_graph),
)


def _joined(reads: list[Read], choice: tuple[_Part, ...]) -> Guess:
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


def _repaired(choice: tuple[_Part, ...], error: NndiagError) -> Iterator[tuple[_Part, ...]]:
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
