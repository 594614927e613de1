"""The one door: what a file is, and whether its size can be what it says, before anything is read from it.

Every loader asks `inspect` first. It looks at the kind of file (a FIFO would hang the reader), sniffs the
first bytes (content decides the format, the suffix only helps the message) and reads nothing else. Readers then
take bounded chunks, and compare declared with real sizes before they allocate.
"""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STDIN = "-"
HEAD = 1 << 12  # bytes looked at to tell what a file is
CHUNK_BYTES = 16 << 20  # one read
WHOLE_BYTES = 2 << 30  # the most that is ever held in memory as one array
LINE_BYTES = 64 << 20  # no line of text is longer
ZIP_FREE = 256 << 20  # a member may unpack to this much at any ratio
ZIP_RATIO = 200  # beyond that, more than this is a bomb or wants np.savez

_MAGIC = (
    (b"\x93NUMPY", "npy"),
    (b"PAR1", "parquet"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x1f\x8b", "gzip"),
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"%PDF", "pdf"),
)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that passed the door: what it is by content, and how long it really is."""

    path: str  # as the user typed it; "-" is stdin
    size: int  # bytes; 0 for stdin, whose length nobody knows
    kind: str  # npy npz torch keras zip safetensors parquet hdf5 gzip pickle events image pdf json text binary
    head: bytes

    @property
    def shown(self) -> str:
        """The name for messages."""
        return "stdin" if self.path == STDIN else self.path


def inspect(path: str, *, empty_ok: bool = False) -> Opened:
    """Return what `path` is, by its content.

    Args:
        path: A regular file, or "-" for stdin.
        empty_ok: Whether a file of no bytes is let in, as kind "text".

    Raises:
        UsageError: It does not exist.
        NothingApplicableError: It is empty.
        NndiagError: It is a directory, a FIFO, a device, or may not be read.
    """
    if path == STDIN:
        head = _peek_stdin()
        if not head.strip() and not empty_ok:
            raise NothingApplicableError("stdin is empty", hint="pipe CSV or JSON lines into nndiag")
        return Opened(path, 0, _kind(head, path, None), head)
    _regular(path)
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD)
    except PermissionError as denied:
        raise NndiagError(f"'{path}' may not be read", hint="check its permissions") from denied
    except OSError as broken:
        raise NndiagError(f"'{path}' cannot be read: {broken.strerror}", hint="check the path") from broken
    if not size and not empty_ok:
        raise NothingApplicableError(f"'{path}' is empty", hint="the file has no bytes: was it written completely?")
    return Opened(path, size, _kind(head, path, size), head)


def _regular(path: str) -> None:
    """Let in regular files only: a FIFO hangs its reader, a device never ends."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - an embedded NUL must raise ValueError here
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise UsageError(f"there is no file '{path}'", hint=_neighbours(path)) from missing
    except (OSError, ValueError) as broken:
        raise UsageError(f"'{path}' is no usable path: {broken}", hint="check the path") from broken
    if stat.S_ISDIR(mode):
        raise NndiagError(f"'{path}' is a directory", hint="name a file inside it")
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise NndiagError(
            f"'{path}' is a pipe or a device, not a regular file", hint="pipe it into stdin and name it '-'"
        )


def _neighbours(path: str) -> str:
    """Suggest a file beside the one that is missing."""
    folder = Path(path).parent
    try:
        names = [entry.name for entry in os.scandir(folder)][:2000]
    except OSError:
        return f"there is no folder '{folder}' either"
    return did_you_mean(Path(path).name, names, otherwise="check the path; relative ones start where nndiag was called")


def _kind(head: bytes, path: str, size: int | None) -> str:
    """Tell the format from the first bytes."""
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    if kind:
        return kind
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if b"brain.Event:" in head[:64]:
        return "events"
    if _is_safetensors(head, size):
        return "safetensors"
    return _kind_of_bytes(head)


def _kind_of_bytes(head: bytes) -> str:
    """Tell apart pickles, text and the rest."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if any(head.startswith(bom) for bom, _ in _BOMS):
        return "text"
    if b"\0" in head:
        return "binary"
    return "json" if head.lstrip()[:1] in (b"{", b"[") else "text"


def _is_safetensors(head: bytes, size: int | None) -> bool:
    """Whether this begins with a header length that fits the file, and a JSON object."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and (size is None or 2 <= length <= max(size - 8, 2) or length < 1 << 40)


def _kind_of_zip(path: str) -> str:
    """Tell apart what lives in zip files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return "npz" if path.endswith(".npz") else "zip"  # damaged: the reader says so
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if any(name.endswith((".npy", "/")) for name in names):
        return "npz"
    if "metadata.json" in names and any(name.endswith(".h5") for name in names):
        return "keras"
    return "zip" if names else "npz"


def open_zip(opened: Opened) -> zipfile.ZipFile:
    """Open a zip file whose directory has been compared with its real size.

    Raises:
        NndiagError: It is damaged, or a member unpacks to absurdly more than it holds.
    """
    try:
        archive = zipfile.ZipFile(opened.path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as broken:
        raise NndiagError(
            f"'{opened.path}' is damaged: {broken}", hint="it was probably cut short; write it again"
        ) from broken
    for member in archive.infolist():
        packed, real, name = member.compress_size, member.file_size, shown(member.filename)
        if packed > opened.size:
            archive.close()
            said = f"'{name}' claims {packed} bytes of a {opened.size}-byte file"
            raise NndiagError(f"'{opened.path}' is damaged: {said}", hint="write it again")
        if real > ZIP_FREE and real > ZIP_RATIO * max(packed, 1):
            archive.close()
            raise NndiagError(
                f"'{opened.path}': '{name}' unpacks from {packed} to {real} bytes; refused",
                hint="if it is yours, store it uncompressed (np.savez, not np.savez_compressed)",
            )
    return archive


def _peek_stdin() -> bytes:
    """Look at the first bytes of stdin without losing them."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise UsageError("stdin is closed", hint="pipe CSV or JSON lines into nndiag")
    if hasattr(stream, "peek"):
        return cast("bytes", stream.peek(HEAD)[:HEAD])
    head = cast("bytes", stream.read(HEAD))  # a stand-in that seeks instead
    stream.seek(0)
    return head


def text_lines(opened: Opened, again: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of a text file, none longer than `LINE_BYTES`.

    Args:
        opened: What the door let in.
        again: Lines already taken from stdin, which can be read once; yielded first.

    Raises:
        NndiagError: The content is not text, or a line is no line.
    """
    if opened.kind not in ("text", "json"):
        raise NndiagError(f"{opened.shown} is {opened.kind}, not text", hint="give CSV or JSON lines")
    yield from again
    encoding = next((name for bom, name in _BOMS if opened.head.startswith(bom)), "utf-8")
    if opened.path == STDIN:
        raw = iter(lambda: sys.stdin.buffer.readline(LINE_BYTES), b"")
        yield from (_one_line(line.decode(encoding, "surrogateescape"), opened) for line in raw)
        return
    with Path(opened.path).open(encoding=encoding, errors="surrogateescape", newline="") as text:
        for line in iter(lambda: text.readline(LINE_BYTES), ""):
            yield _one_line(line, opened)


def _one_line(line: str, opened: Opened) -> str:
    """Refuse a line that no table of numbers has."""
    if len(line) >= LINE_BYTES:
        raise NndiagError(f"{opened.shown} has a line of {LINE_BYTES >> 20} MiB or more", hint="is it a table?")
    return line


def split_column(spec: str) -> tuple[str, str | None]:
    """Split "run.csv:train_loss" at its last colon when the part before it exists.

    Example:
        >>> split_column("nowhere/run.csv")
        ('nowhere/run.csv', None)
    """
    if spec == STDIN or Path(spec).exists() or ":" not in spec:
        return spec, None
    path, column = spec.rsplit(":", 1)
    if path == STDIN or Path(path).exists():
        return path, column
    # a Windows drive or a missing file: the door will say which
    return (path, column) if "." in Path(path).name and "/" not in column else (spec, None)


def missing_column(name: str, known: Sequence[str], place: str) -> UsageError:
    """Say which columns exist."""
    listed = ", ".join(shown(column) for column in known[:12]) + (", …" if len(known) > 12 else "")
    close = did_you_mean(name, known)
    hint = f"{close} it has {listed}" if close else f"it has {listed}"
    return UsageError(f"{place} has no column '{shown(name)}'", hint=hint if known else "it has no named columns")


def require(module: str, extra: str, purpose: str) -> Any:
    """Import an optional dependency, or say in two lines how to get it."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise NndiagError(
            f"{purpose} needs {module.split('.', maxsplit=1)[0]}, which is not installed",
            hint=f"pip install 'nndiag[{extra}]'",
        ) from missing


def shown(text: str, limit: int = 60) -> str:
    """Make a name that came out of a file safe to print on one line."""
    clean = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
