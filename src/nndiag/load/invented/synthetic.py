"""Invented data: `synthetic:normal,shape=3x32x32,classes=10`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from nndiag.core.subject import Batch

KINDS = ("normal", "uniform", "ints", "zeros", "ones")
_DENSE = 1 << 22  # entries of a random projection
_KEYS = ("shape", "classes", "outputs", "n", "scale", "mean", "low", "high", "vocab", "seed")


@dataclass(frozen=True)
class SyntheticData:
    """Batches made by a function of rows and a generator; the same at every reading."""

    name: str
    make: Callable[[int, Generator], Batch] = field(repr=False)
    samples: int = 512
    default: int = 32
    seed: int = 0
    synthetic: bool = True

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield `samples` rows in batches of `size`."""
        import torch

        rows = size or self.default
        done = 0
        while done < max(self.samples, rows):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + done)
            yield self.make(rows, generator)
            done += rows


def parse_synthetic(target: str, *, size: int, seed: int) -> SyntheticData:
    """Read a `synthetic:` target.

    Kinds: normal (mean, scale), uniform (low, high), ints (vocab), zeros, ones. Further: shape=3x32x32 of one
    sample, classes=K for class ids as targets or outputs=K for numbers, n= samples, seed=.

    Raises:
        UsageError: A kind or key is unknown, or a value is no number.
    """
    words = [word.strip() for word in target.partition(":")[2].split(",") if word.strip()]
    kind = "normal"
    if words and "=" not in words[0]:
        kind = words.pop(0).lower()
    if kind not in KINDS:
        raise UsageError(
            f"unknown synthetic data '{kind}'",
            hint=did_you_mean(kind, KINDS, otherwise="take one of " + ", ".join(KINDS)),
        )
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _KEYS:
            raise UsageError(
                f"'{target}': unknown '{key}'", hint=did_you_mean(key, _KEYS, otherwise="it takes " + ", ".join(_KEYS))
            )
        given[key] = value
    shape = _shape(given.get("shape", "16"), target)
    numbers = {key: _number(value, key, target) for key, value in given.items() if key != "shape"}
    seed = int(numbers.get("seed", seed))
    draw = _drawing(kind, shape, numbers)
    aim = _targets(numbers, seed)

    def make(rows: int, generator: Generator) -> Batch:
        from nndiag.core.subject import Batch

        x = draw(rows, generator)
        return Batch(x, aim(x))

    return SyntheticData(target, make, int(numbers.get("n", 512)), size, seed)


def _shape(text: str, target: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.replace("×", "x").split("x") if part)
    except ValueError:
        sizes = (-1,)
    if any(size < 1 for size in sizes):
        raise UsageError(f"'{target}': shape={text} is no shape", hint="write shape=3x32x32: one sample, no batch axis")
    return sizes


def _number(text: str, key: str, target: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"'{target}': {key}={text} is no number", hint=f"write {key}=10") from None


def _drawing(kind: str, shape: tuple[int, ...], numbers: dict[str, float]) -> Callable[[int, Generator], Tensor]:
    import torch

    def draw(rows: int, generator: Generator) -> Tensor:
        size = (rows, *shape)
        if kind == "normal":
            return torch.randn(size, generator=generator) * numbers.get("scale", 1.0) + numbers.get("mean", 0.0)
        if kind == "uniform":
            low, high = numbers.get("low", 0.0), numbers.get("high", 1.0)
            return torch.rand(size, generator=generator) * (high - low) + low
        if kind == "ints":
            return torch.randint(0, int(numbers.get("vocab", 100)), size, generator=generator)
        return torch.full(size, float(kind == "ones"))

    return draw


def _targets(numbers: dict[str, float], seed: int) -> Callable[[Tensor], Any]:
    if "classes" in numbers:
        return lambda x: taught_classes(x, int(numbers["classes"]), seed)
    if "outputs" in numbers:
        return lambda x: taught_numbers(x, int(numbers["outputs"]), seed)
    return lambda _x: None


def taught_classes(x: Tensor, classes: int, seed: int) -> Tensor:
    """Return class ids that can be learned from x: the largest of fixed random projections."""
    import torch

    if x.is_floating_point():
        return taught_numbers(x, classes, seed).argmax(1)
    return torch.remainder(x.reshape(len(x), -1).sum(1), classes)


def taught_numbers(x: Tensor, outputs: int, seed: int) -> Tensor:
    """Return (rows, outputs) fixed random projections of x, of about unit variance for unit inputs."""
    import torch

    flat = x.reshape(len(x), -1).float()
    if not x.is_floating_point():
        flat = torch.sin(12.9898 * flat)  # ids are names: their size means nothing
    if flat.shape[1] * outputs > _DENSE:  # a projection of images to images: the pixels themselves, moved, do as well
        return flat.roll(seed + 1, 1).repeat(1, -(-outputs // flat.shape[1]))[:, :outputs].contiguous()
    generator = torch.Generator().manual_seed(seed + 7919)
    weight = torch.randn(flat.shape[1], outputs, generator=generator) / max(flat.shape[1], 1) ** 0.5
    taught: Tensor = flat @ weight
    return taught
