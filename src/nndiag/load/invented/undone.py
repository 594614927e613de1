"""The shape that an argument has before the moves on its way to the layer that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nndiag.lab.watch.followed import Move


def undone(moves: tuple[Move, ...], sample: tuple[int, ...]) -> tuple[int, ...]:
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
