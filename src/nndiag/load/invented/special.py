"""Inputs that are more than numbers or ids: states, edges of graphs, time steps, masks, lengths; by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.load.invented.guesses import Guess, for_layer, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from nndiag.lab.watch.reading import Read

_EDGES = 4  # for each node of an invented graph


@dataclass(frozen=True, slots=True)
class Part:
    """One way to make one tensor."""

    guess: Guess
    length: int | None = None  # of its sequence, which others must share
    whole: bool = False  # its first axis does not count samples


def state(reader: nn.Module, sequences: int | None = None) -> Part:
    """Return zeros as a recurrent layer's state, for each row or for a fixed number of sequences."""
    import torch

    width, layers = int(reader.hidden_size), getattr(reader, "num_layers", None)  # type: ignore[arg-type]
    count = int(layers) * (2 if getattr(reader, "bidirectional", False) else 1) if isinstance(layers, int) else None

    def make(rows: int, _generator: Any) -> Any:
        zeros = torch.zeros(rows, width) if count is None else torch.zeros(count, sequences or rows, width)
        return (zeros, zeros.clone()) if "LSTM" in type(reader).__name__ else zeros

    text = f"a state of zeros for {sequences}" if sequences else "a state of zeros"
    return Part(Guess(text, make), whole=count is not None)


def count_up(rows: int) -> Any:
    """Return 0, 1, 2 …: where each bag of ids begins when every bag has one."""
    import torch

    return torch.arange(rows)


def is_edges(name: str) -> bool:
    """Whether an argument of this name holds the edges of a graph."""
    return name.lower() in {"edge_index", "edges", "edge_idx"}


def _edges(_read: Read) -> Iterator[Part]:
    """Edges of a random graph whose nodes are the rows."""
    import torch

    def make(rows: int, generator: Any) -> Any:
        return torch.randint(0, rows, (2, _EDGES * rows), generator=generator)

    yield Part(Guess("edges", make), whole=True)


def _of_edges(read: Read) -> Iterator[Part]:
    """Numbers for each edge."""
    import torch

    wide = [guess.sample for guess in for_layer(read.reader)][:1] if read.reader is not None else []
    for shape in (*(item for item in wide if item is not None), ()):

        def make(rows: int, generator: Any, shape: tuple[int, ...] = shape) -> Any:
            return torch.rand(_EDGES * rows, *shape, generator=generator)

        yield Part(Guess("numbers of edges", make), whole=True)


def _adjacency(_read: Read) -> Iterator[Part]:
    """A symmetric matrix with rows that sum to about one."""
    import torch

    def make(rows: int, generator: Any) -> Any:
        linked = (torch.rand(rows, rows, generator=generator) < 0.3).float()
        linked = ((linked + linked.T) > 0).float() + torch.eye(rows)
        return linked / linked.sum(1, keepdim=True)

    yield Part(Guess("adjacency", make), whole=True)


def _one_graph(_read: Read) -> Iterator[Part]:
    import torch

    yield Part(Guess("one graph", lambda rows, _: torch.zeros(rows, dtype=torch.long)), whole=True)


def _times(read: Read) -> Iterator[Part]:
    """Time steps: whole numbers, fractions, or a column of them."""
    import torch
    from torch import nn

    if isinstance(read.reader, nn.Embedding):
        yield Part(ids(None, read.reader.num_embeddings))
        return
    column = Part(Guess("times", lambda rows, generator: torch.rand(rows, 1, generator=generator)))
    if isinstance(read.reader, nn.Linear) and read.reader.in_features == 1 and not read.moves:
        yield column
    yield Part(Guess("time steps below 10", lambda rows, generator: torch.randint(0, 10, (rows,), generator=generator)))
    yield Part(Guess("times", lambda rows, generator: torch.rand(rows, generator=generator)))
    yield column
    yield Part(Guess("one time", lambda _rows, generator: torch.rand((), generator=generator)), whole=True)


def _masks(_read: Read) -> Iterator[Part]:
    """Masks that let everything pass: true or one, for each sample and position."""
    import torch

    for kind in (torch.bool, torch.float32):
        for shape in ((16,), (16, 16), (1, 1, 16)):

            def make(rows: int, _generator: Any, shape: Any = shape, kind: Any = kind) -> Any:
                return torch.ones(rows, *shape, dtype=kind)

            yield Part(Guess("a full mask", make), shape[-1])
    yield Part(Guess("a full mask", lambda _rows, _generator: torch.ones(16, 16, dtype=torch.bool)), 16, whole=True)


def _lengths(_read: Read) -> Iterator[Part]:
    """How long each sequence is: full length."""
    import torch

    yield Part(Guess("full lengths", lambda rows, _: torch.full((rows,), 16)), 16)
    yield Part(Guess("full lengths", lambda rows, _: torch.full((rows,), 8)), 8)


NAMED: tuple[tuple[re.Pattern[str], Callable[[Read], Iterator[Part]]], ...] = (
    (re.compile(r"t|time|times|timesteps?|time_steps?|steps?|sigmas?|noise_level|noise_labels"), _times),
    (re.compile(r".*mask.*"), _masks),
    (re.compile(r"len|lens|lengths?|.*_lens?|.*_lengths?"), _lengths),
    (re.compile(r"edge_index|edges|edge_idx"), _edges),
    (re.compile(r"edge_attrs?|edge_weights?|edge_features?"), _of_edges),
    (re.compile(r"adj|adj_t|adjacency.*|adj_matrix"), _adjacency),
    (re.compile(r"batch|batch_idx|batch_index"), _one_graph),
)
