"""Keeps stdout for the report: whatever foreign code prints goes to stderr, also from C."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nndiag.core.errors import UsageError


class ReaderLeftError(Exception):
    """The reader of stdout has gone away. No OSError: Click would turn that into exit 1."""


@contextmanager
def reserved_stdout() -> Iterator[int]:
    """Point file descriptor 1 at stderr; yield a descriptor of the real stdout."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    try:
        real = os.dup(1)
    except OSError:  # closed by the parent
        real = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed: nowhere to talk
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
    python_stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield real
    finally:
        sys.stdout = python_stdout
        with suppress(OSError):
            os.dup2(real, 1)
        os.close(real)


def write_all(descriptor: int, text: str) -> None:
    """Write everything, or raise ReaderLeftError."""
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError as closed:
        raise ReaderLeftError from closed
    except OSError as failed:
        raise UsageError(f"cannot write to stdout: {failed.strerror}", hint="is the disk full?") from failed


def put(text: str) -> None:
    """Print on stdout, for commands that make no report."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # captured in a test or a notebook
        sys.stdout.write(f"{text}\n")
        return
    write_all(descriptor, f"{text}\n")


def is_first_rank() -> bool:
    """Whether this process speaks: under torchrun only rank 0 prints and writes."""
    return os.environ.get("RANK", "0") in ("", "0")


def ended_by_torchrun() -> str:
    """Return the two lines for a SIGTERM from torchrun, which ends every rank once one is lost; "" elsewhere.

    Rank 0 says them; rank 1 does too, for rank 0 may be the lost one.
    """
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ or world == "1" or rank not in ("0", "1"):
        return ""
    return (
        f"error: torchrun ended rank {rank} of {world}: another rank was lost\n"
        "hint: torchrun names it and its exit code below; out of memory, or killed?\n"
    )


def say(*lines: str) -> None:
    """Talk to the person, on stderr; never fail for it."""
    with suppress(OSError, ValueError):
        for line in lines:
            print(line, file=sys.stderr)  # noqa: T201 - this is where talk happens
        sys.stderr.flush()


def say_error(message: str, hint: str = "") -> None:
    """Print the two lines of an error. Control characters from outside are shown, not obeyed."""
    say(f"error: {visible(message)}", *([f"hint: {visible(hint)}"] if hint else []))


def visible(text: str) -> str:
    """Return one line in which every control character is spelled out."""
    line = " ".join(text.split("\n"))
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def encoding_is_utf8() -> bool:
    """Whether stdout can show more than ASCII."""
    name = (getattr(sys.__stdout__, "encoding", None) or "").lower().replace("-", "")
    return name.startswith("utf8")
