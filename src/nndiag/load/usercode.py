"""Targets the user typed: `file.py:attr` and `pkg.mod:attr`. Running his code is what they are for."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.lab.blame import one_line, said, users_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

_LOADED: dict[tuple[str, int, int], ModuleType] = {}  # one file is run once, however many targets name it
_FOLDERS: list[str] = []  # made importable by us


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
    module = _import_file(head) if head.endswith(".py") else _import_module(head)
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


def _import_file(path: str) -> ModuleType:
    """Run a Python file as a module; its folder and the current one are importable."""
    file = Path(path)
    if not file.is_file():
        folder = file.parent
        near = [entry.as_posix() for entry in folder.glob("*.py")] if folder.is_dir() else []
        raise UsageError(f"there is no file '{path}'", hint=did_you_mean(path, near, otherwise="check the path"))
    real = file.resolve()
    stat = real.stat()
    key = (str(real), stat.st_mtime_ns, stat.st_size)
    if key in _LOADED:
        return _LOADED[key]
    make_importable(str(Path.cwd()), str(real.parent))
    name = _free_name(real)
    spec = importlib.util.spec_from_file_location(name, real)
    if spec is None or spec.loader is None:
        raise NndiagError(f"'{path}' cannot be imported", hint="is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses, pickles and source lines find it
    loader = spec.loader
    try:
        _run(path, lambda: loader.exec_module(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    _LOADED[key] = module
    return module


def _free_name(real: Path) -> str:
    """Return the file's own name as module name, unless another module has it."""
    taken = sys.modules.get(real.stem)
    ours = taken is None or any(module is taken for module in _LOADED.values())
    return real.stem if ours and real.stem.isidentifier() else f"nndiag_user_{abs(hash(str(real))):x}"


def _import_module(dotted: str) -> ModuleType:
    make_importable(str(Path.cwd()))
    found: list[ModuleType] = []
    try:
        _run(dotted, lambda: found.append(importlib.import_module(dotted)))
    except NndiagError as error:
        cause = error.__cause__
        missing = isinstance(cause, ModuleNotFoundError) and (dotted + ".").startswith(f"{cause.name}.")
        if missing:
            local = dotted.replace(".", "/") + ".py"
            hint = f"did you mean {local}:…?" if Path(local).is_file() else "is it installed, or below this folder?"
            raise NndiagError(f"there is no module '{dotted}'", hint=hint) from error
        raise
    return found[0]


def make_importable(*folders: str) -> None:
    """Put folders in front of the import path, in place of those of an earlier run in this process."""
    stale = [folder for folder in _FOLDERS if folder not in folders]
    for folder in stale:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        _FOLDERS.remove(folder)
        _forget(folder)
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
            _FOLDERS.append(folder)
    importlib.invalidate_caches()


def _forget(folder: str) -> None:
    """Drop modules that came straight from a folder that is importable no more: their names may return elsewhere."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and os.path.dirname(file) == folder and "site-packages" not in file:  # noqa: PTH120 - strings compared
            del sys.modules[name]


def _run(what: str, action: Callable[[], Any]) -> None:
    """Import the user's code: nothing is written, whatever it raises is his, and what it draws is seeded."""
    from nndiag.lab.borrow import seeded
    from nndiag.lab.built import recording_construction

    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with seeded(0), recording_construction():
            action()
    except NndiagError:
        raise
    except SystemExit as left:
        raise NndiagError(
            f"importing {what} ended in sys.exit({left.code})",
            hint='put what runs as a script under if __name__ == "__main__":',
        ) from left
    except Exception as error:
        raise users_fault(f"importing {what}", error) from error
    finally:
        sys.dont_write_bytecode = before


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


__all__ = ["Target", "called", "is_code", "literals", "make_importable", "resolve", "said", "users_code"]
