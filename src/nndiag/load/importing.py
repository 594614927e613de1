"""How the user's Python files become modules: by path, inside their packages, his folders importable."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.lab.watch.blame import users_fault

_LOADED: dict[tuple[str, int, int], ModuleType] = {}  # one file is run once, however many targets name it
_FOLDERS: list[str] = []  # made importable by us, for the current directory of the time
_HERE: list[str] = []  # that directory


def import_file(path: str) -> ModuleType:
    """Run a Python file as a module; its folder, its package's and the current one are importable.

    A file with relative imports is run as a part of the package that they lead to, with or without an
    `__init__.py`.

    Raises:
        UsageError: There is no such file.
        NndiagError: Importing it raised.
    """
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
    climbs = _climbs(real)
    top = _top(real, climbs)
    make_importable(str(Path.cwd()), str(real.parent), str(top))
    name = _name_inside(path, real, top) if climbs else _free_name(real)
    spec = importlib.util.spec_from_file_location(name, real)
    if spec is None or spec.loader is None:
        raise NndiagError(f"'{path}' cannot be imported", hint="is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses, pickles and source lines find it
    loader = spec.loader
    try:
        run_import(path, lambda: loader.exec_module(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    _LOADED[key] = module
    return module


def _climbs(real: Path) -> int:
    """Return how many folders up the relative imports of a file reach: 1 for `from .layers import Block`."""
    try:
        tree = ast.parse(real.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return 0  # importing it says what is wrong
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _top(real: Path, climbs: int) -> Path:
    """Return the folder from which the file's package can be imported; its own where it is in none."""
    folder = real.parent
    for _ in range(climbs):  # `from .layers` needs one folder that is a package, `from ..layers` two
        if folder.parent != folder:
            folder = folder.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return folder


def _name_inside(path: str, real: Path, top: Path) -> str:
    """Return the dotted name of a file below `top`, with the packages above it ready."""
    folders = real.parent.relative_to(top).parts
    name, place = "", top
    for folder in folders:
        place /= folder
        name = f"{name}.{folder}" if name else _free_package(folder, place)
        if name not in sys.modules:
            _make_package(path, name, place)
    return f"{name}.{real.stem}"


def _free_package(folder: str, place: Path) -> str:
    """Return the folder's own name, unless another package or module has it."""
    taken = sys.modules.get(folder)
    if folder.isidentifier():
        if taken is not None and str(place) in map(str, getattr(taken, "__path__", ())):
            return folder
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            spec = importlib.util.find_spec(folder)
            where = list(spec.submodule_search_locations or ()) if spec is not None else [str(place)]
            if str(place) in where:
                return folder
    return f"nndiag_user_{abs(hash(str(place))):x}"


def _make_package(path: str, name: str, place: Path) -> None:
    """Enter a folder as a package, and run its `__init__.py` where there is one."""
    init = place / "__init__.py"
    if not init.is_file():
        package = ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
        return
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(place)])
    if spec is None or spec.loader is None:
        raise NndiagError(f"'{path}' cannot be imported: nor can its package {place}", hint="is it a Python package?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        run_import(path, lambda: loader.exec_module(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _free_name(real: Path) -> str:
    """Return the file's own name as module name, unless another module has it."""
    taken = sys.modules.get(real.stem)
    ours = taken is None or any(module is taken for module in _LOADED.values())
    return real.stem if ours and real.stem.isidentifier() else f"nndiag_user_{abs(hash(str(real))):x}"


def import_module(dotted: str) -> ModuleType:
    """Import a module by its dotted name; the current directory is importable.

    Raises:
        NndiagError: There is none, or importing it raised.
    """
    make_importable(str(Path.cwd()))
    found: list[ModuleType] = []
    try:
        run_import(dotted, lambda: found.append(importlib.import_module(dotted)))
    except NndiagError as error:
        cause = error.__cause__
        missing = isinstance(cause, ModuleNotFoundError) and (dotted + ".").startswith(f"{cause.name}.")
        if missing:
            raise NndiagError(f"there is no module '{dotted}'", hint=_where_it_may_be(dotted)) from error
        raise
    return found[0]


def _where_it_may_be(dotted: str) -> str:
    """Return a hint at a file of that name: here, in `src`, or in a folder beside."""
    local = dotted.replace(".", "/") + ".py"
    folders = (".", "src", *sorted(item.name for item in Path().iterdir() if item.is_dir())) if local else ()
    for folder in folders:
        if (Path(folder) / local).is_file():
            return f"did you mean {(Path(folder) / local).as_posix()}:…?"
    return "is it installed, or below this folder?"


def make_importable(*folders: str) -> None:
    """Put folders in front of the import path; those of a run in another directory leave it.

    A module of another of the user's folders steps aside where one of these folders has a module of its name.
    """
    here = str(Path.cwd())
    if [here] != _HERE:
        for folder in _FOLDERS:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
            _forget(folder)
        _FOLDERS.clear()
        _HERE[:] = [here]
    for folder in _FOLDERS:
        if folder not in folders and folder != here:
            _forget(folder, beside=folders)
    for folder in reversed(dict.fromkeys(folders)):
        if folder in _FOLDERS:  # to the front
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
                _FOLDERS.remove(folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
            _FOLDERS.append(folder)
    importlib.invalidate_caches()


def _forget(folder: str, *, beside: tuple[str, ...] = ()) -> None:
    """Drop what was imported straight from a folder, with all below it; `beside`: only names that these have too."""
    for top in [name for name in sys.modules if "." not in name and name != "nndiag"]:
        if not _comes_from(sys.modules[top], folder):
            continue
        if beside and not any(
            (Path(other) / f"{top}.py").is_file() or (Path(other) / top).is_dir() for other in beside
        ):
            continue
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def _has_module(folder: str, name: str) -> bool:
    return (Path(folder) / f"{name}.py").is_file() or (Path(folder) / name).is_dir()


def _comes_from(module: Any, folder: str) -> bool:
    """Whether a top-level module or package lies in this folder itself."""
    file = getattr(module, "__file__", None)
    places = [file] if file and not str(file).endswith("__init__.py") else list(getattr(module, "__path__", None) or ())
    return any(str(Path(str(place)).parent) == folder and "site-packages" not in str(place) for place in places)


def run_import(what: str, action: Callable[[], Any]) -> None:
    """Import the user's code: nothing is written, whatever it raises is his, and what it draws is seeded."""
    from nndiag.lab.borrow import seeded
    from nndiag.lab.watch.built import recording_construction

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
