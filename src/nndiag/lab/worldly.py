"""Does this code ask how many ranks there are, or talk to them? Read from its bytecode, without running it."""

from __future__ import annotations

import sys
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

WORDS = {
    "get_world_size", "all_reduce", "all_gather", "all_gather_into_tensor", "get_rank", "is_initialized",
    "reduce_scatter", "broadcast", "WORLD_SIZE", "SyncBatchNorm", "GatherLayer",
}  # fmt: skip
DEPTH = 3


def talks_to_ranks(*things: Any) -> bool:
    """Whether a loss, or a module's own forward, mentions the process group."""
    return any(_mentions(thing, DEPTH, set()) for thing in things if thing is not None)


def _mentions(thing: Any, depth: int, seen: set[int]) -> bool:
    if isinstance(thing, nn.Module):
        own = {type(part).forward for part in thing.modules() if not _is_library(type(part).__module__)}
        return any(_mentions(item, depth, seen) for item in own)
    if isinstance(thing, MethodType):
        thing = thing.__func__
    if not isinstance(thing, FunctionType):
        call = next((vars(kind)["__call__"] for kind in type(thing).__mro__ if "__call__" in vars(kind)), None)
        thing = call if isinstance(call, FunctionType) else None
    if thing is None or id(thing) in seen or _is_library(thing.__module__ or ""):
        return False
    seen.add(id(thing))
    names = _names(thing.__code__)
    if names & WORDS:
        return True
    helpers = [thing.__globals__.get(name) for name in names]
    closed = [cell.cell_contents for cell in thing.__closure__ or () if _holds(cell)]
    return depth > 0 and any(
        _mentions(item, depth - 1, seen) for item in (*helpers, *closed) if isinstance(item, FunctionType)
    )


def _names(code: CodeType) -> set[str]:
    found = {*code.co_names, *(item for item in code.co_consts if isinstance(item, str))}
    for item in code.co_consts:
        if isinstance(item, CodeType):
            found |= _names(item)
    return found


def _holds(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_library(module: str) -> bool:
    """Whether code is torch's or an installed package's: those ask for ranks for reasons of their own."""
    top = module.partition(".")[0]
    if top in ("torch", "nndiag", "builtins"):
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file
