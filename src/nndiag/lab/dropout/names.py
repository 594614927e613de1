"""What a dropout is called: its module, the words around it, the user's line."""

from __future__ import annotations

import ast
import linecache
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from nndiag.core.findings import Where
from nndiag.lab.watch.blame import is_users, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from torch import nn

SAID_ON = "training=True"  # among the words around a call whose line says that the mode is not to matter


def place_of_call() -> tuple[Where, set[str]]:
    """The user's line that is running, and the words in the names of the functions around it."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - looking is no computing
    words: set[str] = set()
    inside = False
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename.endswith("lab/forward.py"):
            break  # above it is whoever called nndiag
        if is_users(filename):
            words |= words_of(frame.f_code.co_name)
            if frame.f_lineno in _lines_saying_on("".join(linecache.getlines(filename))):
                words.add(SAID_ON)
            if not inside:
                return Where(file=shown(filename), line=frame.f_lineno), words
            inside = True
        frame = frame.f_back
    return Where(), words


@lru_cache(maxsize=64)
def _lines_saying_on(source: str) -> frozenset[int]:
    """The lines of calls with a literal training=True, or dropout(x, p, True)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    found: set[int] = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        third = call.args[2:3] if "dropout" in name.lower() else []
        given = [*third, *(word.value for word in call.keywords if word.arg in {"training", "train"})]
        if any(isinstance(value, ast.Constant) and value.value is True for value in given):
            found.update(range(call.lineno, (call.end_lineno or call.lineno) + 1))
    return frozenset(found)


def ancestors(model: nn.Module, modules: Mapping[str, nn.Module], owner: str) -> list[nn.Module]:
    """The modules on the way from the whole model down to the owner."""
    parts = owner.split(".")
    found = [modules.get(".".join(parts[: n + 1])) for n in range(len(parts))]
    return [model, *(module for module in found if module is not None)]


def flags(modules: Sequence[nn.Module]) -> list[str]:
    """Names of attributes that are switched on in any of the modules."""
    return [
        name for module in modules for name, value in vars(module).items()
        if value is True and name != "training" and not name.startswith("_")
    ]  # fmt: skip


def words_of(*texts: str) -> set[str]:
    """The words in identifiers of any style: MCDropout gives mc and dropout."""
    found: set[str] = set()
    for text in texts:
        for part in re.split(r"[^A-Za-z]+", text):
            found.update(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part))
    return found


def is_dropout_module(module: nn.Module) -> bool:
    """Whether a module is nothing but a dropout."""
    return "dropout" in type(module).__name__.lower() and next(module.children(), None) is None


def named_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield every module with its dotted name; Keras hides its layers from `named_modules`."""
    for name, module in model.named_modules():
        yield module, name
    for layer in getattr(model, "_flatten_layers", lambda **_: ())(include_self=False, recursive=True):
        yield layer, str(layer.name)
