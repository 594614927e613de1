"""Samples in tar files, as WebDataset writes them: `key.jpg` beside `key.cls`, one after the other."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.door import WHOLE_BYTES, inspect, shown
from nndiag.load.images import decoded, pixels_of
from nndiag.load.splitting import TARGET_KEYS

if TYPE_CHECKING:
    from nndiag.core.subject import Batch

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_IMAGES = ("jpg", "jpeg", "png", "ppm", "pgm", "webp", "bmp", "tif", "tiff")
_TARGETS = ("cls", "cls2", "index", "label", "txt", "json", "y.npy", "target.npy", "label.npy", "labels.npy")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shards:
    """Samples in the order of the tar files; nothing in them is executed, a pickle is passed over."""

    name: str
    paths: tuple[str, ...]
    input_part: str  # what follows the key: "jpg"
    target_part: str  # "cls"; "" without targets
    default: int
    size: tuple[int, int] | None = None  # of images: that of the first one
    mode: str = "RGB"
    synthetic: bool = False

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches; images of another size are scaled to the first one's."""
        rows = size or self.default
        held: list[tuple[Any, Any]] = []
        for path in self.paths:
            for key, parts in samples(path, {self.input_part, self.target_part}):
                held.append(self._read(f"{PurePosixPath(path).name}: {shown(key)}", parts))
                if len(held) == rows:
                    yield _batch(held, self.name)
                    held = []
        if held:
            yield _batch(held, self.name)

    def _read(self, place: str, parts: dict[str, bytes]) -> tuple[Any, Any]:
        lacking = [part for part in (self.input_part, self.target_part) if part and part not in parts]
        if lacking:
            raise NndiagError(
                f"{place} has no .{lacking[0]}", hint="every sample wants the parts that the first one has"
            )
        raw = parts[self.input_part]
        target = target_of(self.target_part, parts[self.target_part], place) if self.target_part else None
        if self.size is None:
            return array_of(raw, place), target
        return pixels_of(decoded(io.BytesIO(raw), place), self.mode, self.size), target


def shards(target: str, *, size: int) -> Shards:
    """Return a source for a tar file, or for several: `train-{000..009}.tar`.

    Raises:
        NndiagError: It is damaged, or holds neither images nor arrays.
        NothingApplicableError: It is empty.
    """
    paths = tuple(expanded(target))
    for path in paths:
        inspect(path)
    key, parts = next(samples(paths[0]), ("", {}))
    if not parts:
        raise NothingApplicableError(f"'{paths[0]}' holds no sample", hint="files named key.part, such as 0001.jpg")
    place = f"{PurePosixPath(paths[0]).name}: {shown(key)}"
    target_part = next((part for part in _TARGETS if _is_target(part, parts, place)), "")
    images = [part for part in _IMAGES if part in parts]
    arrays = [part for part in parts if part.endswith("npy") and part != target_part]
    if not images and not arrays:
        held = ", ".join(f".{shown(part)}" for part in list(parts)[:6])
        raise NndiagError(f"{place} has {held}: no input that is read", hint="images (.jpg, .png …) and .npy are read")
    if not images:
        return Shards(target, paths, arrays[0], target_part, size)
    first = decoded(io.BytesIO(parts[images[0]]), place)
    mode = "L" if first.mode in {"L", "1", "I;16"} else "RGB"
    return Shards(target, paths, images[0], target_part, size, first.size, mode)


def expanded(target: str) -> Iterator[str]:
    """Yield the files that a range in braces stands for.

    Example:
        >>> list(expanded("t-{08..10}.tar"))
        ['t-08.tar', 't-09.tar', 't-10.tar']
    """
    found = _RANGE.search(target)
    if found is None:
        yield target
        return
    first, last = int(found[1]), int(found[2])
    for number in range(first, min(last, first + _MOST_SHARDS) + 1):
        yield f"{target[: found.start()]}{number:0{len(found[1])}d}{target[found.end() :]}"


def samples(path: str, wanted: set[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, contents by what follows the key), read as a stream; of the parts only those wanted."""
    try:
        with tarfile.open(path, "r|*") as archive:
            before, parts = "", dict[str, bytes]()
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith(".") or "." not in name.name:
                    continue
                stem, _, part = name.name.partition(".")
                key = str(name.parent / stem)
                if key != before and parts:
                    yield before, parts
                    parts = {}
                before, part = key, part.lower()
                if wanted is None or part in wanted:
                    parts[part] = _content(archive, member, path)
            if parts:
                yield before, parts
    except (tarfile.TarError, EOFError, OSError) as broken:
        raise NndiagError(
            f"'{path}' is damaged: {broken}", hint="it was probably cut short; write it again"
        ) from broken


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes:
    if member.size > WHOLE_BYTES:
        raise NndiagError(f"'{path}': '{shown(member.name)}' has {member.size >> 20} MiB", hint="give smaller samples")
    file = archive.extractfile(member)
    return file.read() if file is not None else b""


def array_of(raw: bytes, place: str) -> Any:
    """Return the array of a .npy file; one of Python objects is refused."""
    import numpy as np

    try:
        return np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, OSError) as broken:
        raise NndiagError(
            f"{place} is no readable array: {broken}", hint="save it as numbers, with np.save"
        ) from broken


def _is_target(part: str, parts: dict[str, bytes], place: str) -> bool:
    if part not in parts:
        return False
    try:
        target_of(part, parts[part], place)
    except NndiagError:  # a caption, or json about something else
        return False
    return True


def target_of(part: str, raw: bytes, place: str) -> Any:
    """Return a number or an array: of .npy, of text, or of json that is a number or has one under a usual name."""
    if part.endswith("npy"):
        return array_of(raw, place)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        keys = ("cls", "class", "class_id", *TARGET_KEYS)
        found = next((found[key] for key in keys if isinstance(found.get(key), int | float)), None)
    if not isinstance(found, int | float):
        raise NndiagError(f"{place}.{part} holds no number", hint="class ids as .cls, or in json under 'label'")
    return found


def _batch(held: list[tuple[Any, Any]], name: str) -> Batch:
    import numpy as np
    import torch

    from nndiag.core.subject import Batch

    shapes = {tuple(item.shape) for item, _ in held}
    if len(shapes) > 1:
        said = " and ".join(str(shape) for shape in sorted(shapes)[:2])
        raise NndiagError(f"{name}: samples of shapes {said}", hint="bring them to one shape")
    inputs = torch.from_numpy(np.stack([np.asarray(item) for item, _ in held]))
    targets = None if held[0][1] is None else torch.from_numpy(np.stack([np.asarray(target) for _, target in held]))
    if targets is not None and targets.dtype == torch.float64:
        targets = targets.float()
    return Batch(inputs, targets)
