"""A folder with one folder of images per class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.door import inspect, require

if TYPE_CHECKING:
    from nndiag.core.subject import Batch

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_MOST = 100_000
_PIXELS = 1 << 26  # of one image: what is larger wants to fill the memory


@dataclass(frozen=True)
class ImageFolder:
    """Images in the order of their classes dealt in turn, as float32 in [0, 1], channels first."""

    name: str
    files: tuple[tuple[Path, int], ...]
    classes: tuple[str, ...]
    width: int
    height: int
    mode: str  # RGB or L
    default: int
    synthetic: bool = False

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches; images of another size are scaled to the first one's."""
        import torch

        from nndiag.core.subject import Batch

        rows = size or self.default
        for start in range(0, len(self.files), rows):
            chosen = self.files[start : start + rows]
            images = torch.stack([self._read(path) for path, _ in chosen])
            yield Batch(images, torch.tensor([label for _, label in chosen]))

    def _read(self, path: Path) -> Any:
        import torch

        return torch.from_numpy(pixels_of(_open(path), self.mode, (self.width, self.height)))


def pixels_of(image: Any, mode: str, size: tuple[int, int]) -> Any:
    """Return an image as (channels, height, width) float32 in [0, 1], scaled to (width, height)."""
    import numpy as np

    image = image.convert(mode)
    if image.size != size:
        image = image.resize(size)
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()


def _open(path: Path) -> Any:
    inspect(str(path))
    return decoded(path, f"'{path}'")


def decoded(file: Any, place: str) -> Any:
    """Return the image in a file, unless its pixels would fill the memory."""
    pillow = require("PIL.Image", "data", "reading images")
    try:
        image = pillow.open(file)
        large = image.size[0] * image.size[1] > _PIXELS
        if not large:
            image.load()
    except Exception as broken:
        raise NndiagError(f"{place} is no readable image: {broken}", hint="write it again") from broken
    if large:
        raise NndiagError(f"{place} has {image.size[0]} x {image.size[1]} pixels", hint="give smaller images")
    return image


def image_folder(target: str, *, size: int) -> ImageFolder:
    """Return a source for a folder of images by class.

    Raises:
        NndiagError: There is no folder of images in it.
        NothingApplicableError: The folders hold no image.
    """
    folder = Path(target)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise NndiagError(f"'{target}' has no folders", hint="one folder of images for each class, or name a file")
    per_class = [
        sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _SUFFIXES)[:_MOST]
        for name in classes
    ]
    longest = max(map(len, per_class))
    if not longest:
        raise NothingApplicableError(f"the folders in '{target}' hold no images", hint="png, jpg and the like are read")
    dealt = tuple(
        (paths[turn], label) for turn in range(longest) for label, paths in enumerate(per_class) if turn < len(paths)
    )
    first = _open(dealt[0][0])
    mode = "L" if first.mode in {"L", "1", "I;16"} else "RGB"
    return ImageFolder(target, dealt, tuple(classes), first.size[0], first.size[1], mode, size)
