"""Targets the user typed: `file.py:attr` and `pkg.mod:attr`. Running his code is what they are for."""

from __future__ import annotations

import ast
import contextlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.lab.watch.blame import one_line, said, users_fault
from nndiag.load.importing import import_file, import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType


@dataclass(frozen=True, slots=True)
class Target:
    """What a user typed, resolved: the module it came from and the object."""

    typed: str
    module: ModuleType
    name: str
    thing: Any


def is_code(target: str) -> bool:
    """Whether a target names Python code rather than a file of data: `file.py`, `file.py:attr` or `pkg.mod:attr`."""
    if target.endswith(".py"):
        return True
    head, colon, tail = target.rpartition(":")
    if not colon or head == "synthetic" or not tail.replace(".", "").isidentifier():
        return False
    if head.endswith(".py"):
        return True
    return not Path(target).exists() and all(part.isidentifier() for part in head.split("."))


def resolve(target: str, *, what: str = "object") -> Target:
    """Import the module of a target and return the object it names.

    Raises:
        UsageError: The file or attribute is not named, or does not exist.
        NndiagError: Importing raised, or there is no such attribute.
    """
    head, colon, name = target.rpartition(":")
    if target.endswith(".py") or not colon:
        head, name = target, ""
    module = import_file(head) if head.endswith(".py") else import_module(head)
    names = [word for word in vars(module) if not word.startswith("_")]
    own = _own_names(module) or names
    if not name:
        likely = [word for word in own if callable(getattr(module, word, None))] or own
        example = f"{head}:{likely[0]}" if likely else f"{head}:attr"
        raise UsageError(f"'{target}' does not say which {what}", hint=f"name one, such as {example}")
    thing: Any = module
    for part in name.split("."):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            known = own if thing is module else [word for word in dir(thing) if not word.startswith("_")]
            listed = f"it defines {one_line(known, limit=8)}" if known else "it defines nothing"
            hint = did_you_mean(part, names if thing is module else known, otherwise=listed)
            raise NndiagError(f"{head} has no '{part}'", hint=hint) from None
        except Exception as error:
            raise users_fault(target, error) from error
    return Target(target, module, name, thing)


def line_of(target: Target) -> int | None:
    """Return the line on which the file first gives its attribute a value."""
    try:
        tree = ast.parse(Path(str(target.module.__file__)).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        places = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(place, ast.Name) and place.id == target.name for place in places):
            return node.lineno
    return None


def _own_names(module: ModuleType) -> list[str]:
    """Return functions, classes and values that the module itself defines, not what it imports."""
    names = []
    for name, value in vars(module).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        home = getattr(value, "__module__", module.__name__)
        if home == module.__name__ or not (inspect.isclass(value) or inspect.isroutine(value)):
            names.append(name)
    return names


def literals(pairs: Mapping[str, Any] | Iterable[str] | None, option: str) -> dict[str, Any]:
    """Return k=v arguments with their values read as Python literals, as text where they are none.

    Example:
        >>> literals(["width=64", "act=relu", "sizes=(1, 2)"], "--model-arg")
        {'width': 64, 'act': 'relu', 'sizes': (1, 2)}
    """
    if pairs is None:
        return {}
    if not hasattr(pairs, "items"):
        made = {}
        for pair in pairs:
            key, equals, value = str(pair).partition("=")
            if not equals or not key.strip():
                raise UsageError(f"'{pair}' is not of the form name=value", hint=f"write {option} width=64")
            made[key.strip().replace("-", "_")] = _literal(value.strip())
        return made
    return {str(key).replace("-", "_"): value for key, value in pairs.items()}


def _literal(text: str) -> Any:
    lowered = {"true": True, "false": False, "none": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def called(target: str, build: Callable[..., Any], args: Mapping[str, Any], *, option: str = "--model-arg") -> Any:
    """Call the user's factory or class with named arguments.

    Raises:
        UsageError: It takes no argument of that name.
        NndiagError: It needs more arguments, or raised.
    """
    known = _signature(build)
    if known is not None:
        _check_arguments(target, known, args, option)
    try:
        return build(**args)
    except NndiagError:
        raise
    except Exception as error:
        raise users_fault(target, error) from error


def _check_arguments(target: str, known: inspect.Signature, args: Mapping[str, Any], option: str) -> None:
    parameters = known.parameters.values()
    open_ended = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    names = [item.name for item in parameters if item.kind not in variadic]
    for name in args:
        if name not in names and not open_ended:
            listed = f"it takes {one_line(names, limit=8)}" if names else "it takes no arguments"
            raise UsageError(f"{target} takes no '{name}'", hint=did_you_mean(name, names, otherwise=listed))
    needed = [
        item.name
        for item in parameters
        if item.kind not in variadic and item.default is inspect.Parameter.empty and item.name not in args
    ]
    if needed:
        hint = f"give {option} {needed[0]}=…, or name a function that needs none"
        raise NndiagError(f"{target} needs arguments: {one_line(needed)}", hint=hint)


def _signature(build: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(build)
    except (TypeError, ValueError):
        return None


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what the user's code raises inside into two lines with his file and line."""
    try:
        yield
    except NndiagError:
        raise
    except Exception as error:
        raise users_fault(what, error) from error


__all__ = ["Target", "called", "is_code", "literals", "resolve", "said", "users_code"]
