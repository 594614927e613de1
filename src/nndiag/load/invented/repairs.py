"""What to try instead of inputs that did not fit: other sizes, by the two numbers that the error compares."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST = 1024  # a side of an image
_LONGEST = 1 << 17  # samples of a sound
_COMMON = (28, 32, 48, 56, 60, 64, 84, 96, 100, 112, 128, 150, 160, 192, 200, 224, 227, 256, 299, 320, 384, 448, 512)
_PRODUCT = re.compile(r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")
_UNEQUAL = re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")
_VIEW = re.compile(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)")
_NORMED = re.compile(r"normalized_shape=\[([\d, ]+)\].*input of size\[([\d, ]+)\]")
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
_UNPACKED = re.compile(r"not enough values to unpack \(expected (\d+), got (\d+)\)")
_SMALL = re.compile(
    r"[Kk]ernel size can't be greater|[Oo]utput size is too small|smaller than kernel|should be at least"
    r"|index k out of range"
)


def other_shapes(sample: tuple[int, ...], said: str) -> Iterator[tuple[int, ...]]:
    """Yield shapes of one sample that the error of this one asks for, likeliest first.

    Args:
        sample: A shape that did not fit: (width), (channels, length), (channels, height, width).
        said: What the error says.
    """
    seen = {sample}
    for shape in _wanted(sample, said):
        fits = all(1 <= size <= (_LARGEST if len(shape) > 2 else _LONGEST) for size in shape)
        if fits and shape not in seen:
            seen.add(shape)
            yield shape


def unequal(said: str) -> list[tuple[int, int]]:
    """Return the two sizes that an error compares, either of which may be the wrong one."""
    found = _UNEQUAL.search(said)
    return [(int(found[1]), int(found[2])), (int(found[2]), int(found[1]))] if found else []


def _wanted(sample: tuple[int, ...], said: str) -> Iterator[tuple[int, ...]]:
    if found := _CHANNELS.search(said):
        yield (int(found[1]), *sample[1:])
    for got, wanted in _compared(said):
        if got in sample and (len(sample) < 3 or got == sample[-1]):
            place = len(sample) - 1 - sample[::-1].index(got)
            yield (*sample[:place], wanted, *sample[place + 1 :])
        ratios = [wanted / max(got, 1)]
        if min(got, wanted) > 1:  # tokens of patches, and one of the class
            ratios.append((wanted - 1) / (got - 1))
            if math.isqrt(got - 1) ** 2 == got - 1 and math.isqrt(wanted - 1) ** 2 == wanted - 1:
                ratios.reverse()
        for ratio in ratios:
            yield from _scaled(sample, ratio)
    if (found := _UNPACKED.search(said)) and int(found[2]) == len(sample) + 1:  # a channel is missing
        yield ((1,) * (int(found[1]) - int(found[2])) + sample)
    if len(sample) == 1 and (found := _NORMED.search(said)):  # a sequence of vectors was meant
        yield (16, int(found[1].split(",")[-1]))
    if _SMALL.search(said):
        yield from (_spatial(sample, factor) for factor in (2, 4, 8, 16))
    yield from _named(sample, said)


def _compared(said: str) -> Iterator[tuple[int, int]]:
    """Yield what the layer got and what it wanted."""
    if found := _PRODUCT.search(said):
        yield int(found[1]), int(found[2])
    elif _UNEQUAL.search(said):
        yield from unequal(said)
    elif found := _VIEW.search(said):
        sizes = [int(size) for size in found[1].split(",")]
        given = math.prod(size for size in sizes if size > 0) * (4 if -1 in sizes else 1)  # of the four rows of a trial
        yield int(found[2]), given
    elif found := _NORMED.search(said):
        wanted, got = ([int(size) for size in found[k].split(",")] for k in (1, 2))
        yield got[-1], wanted[-1]


def _scaled(sample: tuple[int, ...], ratio: float) -> Iterator[tuple[int, ...]]:
    """Change the axes of space such that their product grows by this ratio, or one of them does."""
    if len(sample) < 2 or ratio <= 0:
        return
    if len(sample) == 4:  # a video, whose frames stay as many
        yield from ((*sample[:2], *shape[1:]) for shape in _scaled((sample[0], *sample[2:]), ratio))
        return
    root = ratio ** (1 / (len(sample) - 1))
    if len(sample) == 3:
        side = sample[1] * root
        yield from ((sample[0], size, size) for size in _COMMON if side * 0.99 <= size <= side * 1.06)
    yield _spatial(sample, root)
    yield _spatial(sample, root, up=True)


def _spatial(sample: tuple[int, ...], factor: float, *, up: bool = False) -> tuple[int, ...]:
    turn = math.ceil if up else round
    return (sample[0], *(max(int(turn(size * factor - 1e-9)), 1) for size in sample[1:]))


def _named(sample: tuple[int, ...], said: str) -> Iterator[tuple[int, ...]]:
    """Take a size that the message names beside the one it got: "input height (32) doesn't match model (224)"."""
    if len(sample) < 2:
        return
    numbers = [int(word) for word in re.findall(r"(?<![\w.])\d{1,4}(?![\w.])", said.split(" (/", maxsplit=1)[0])]
    for number in [item for item in dict.fromkeys(numbers) if item >= 4][:3]:
        if number not in sample:
            yield (sample[0], *(number for _ in sample[1:]))
