"""Keras 3 models, from files and live, on the torch backend."""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Where
from nndiag.lab.blame import said
from nndiag.load.door import inspect, open_zip, shown
from nndiag.load.sources import CopiedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from nndiag.core.subject import ModelSource

_CONFIG_BYTES = 64 << 20


def load_keras(target: str, *, seed: int, device: str, trust: bool) -> ModelSource:
    """Load a .keras or .h5 file, written by any backend.

    Args:
        target: The file.
        seed: For what Keras draws while it builds the layers.
        device: Where models are put.
        trust: Whether Lambda layers and classes that the file names may run.

    Raises:
        UsageError: There is no such file.
        NndiagError: It is damaged, holds code, or a layer has no counterpart.
    """
    from nndiag.lab.borrow import seeded

    _check_file(target, trust=trust)
    keras = _keras()
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimizer states and the like, of no concern here
        try:
            with keras.device("cpu"):
                model = keras.saving.load_model(target, compile=False, safe_mode=not trust)
        except Exception as error:
            raise NndiagError(
                f"'{target}' cannot be loaded by Keras: {shown(said(error), 120)}",
                hint="is it whole, and does it hold the model, not its weights alone?",
            ) from error
        graph, notes = as_torch(model, target)
    return CopiedModel(named(target, notes), Where(cls=_class(model), file=target), graph, device)


def as_torch(model: Any, name: str) -> tuple[nn.Module, list[str]]:
    """Return a Keras model as torch layers of the same names, and what was left out."""
    from nndiag.lab.keras_translate import translated

    return translated(model, name)


def is_keras_model(thing: Any) -> bool:
    """Whether an object is a Keras model; does not import Keras."""
    if "keras" not in sys.modules:
        return False
    from nndiag.lab.keras_translate import is_keras

    return is_keras(thing)


def live_source(name: str, model: Any, where: Where, device: str) -> ModelSource:
    """Return a source for a Keras model that lives in this process."""
    graph, notes = as_torch(model, name)
    return CopiedModel(named(name, notes), where, graph, device)


def prepare_backend() -> None:
    """Choose the torch backend before user code imports Keras, unless he has chosen."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")


def named(name: str, notes: list[str]) -> str:
    """Say that the report is about a translation."""
    return f"{name} (Keras, as torch layers{''.join(f'; {note}' for note in notes)})"


def _class(model: Any) -> str:
    return f"keras.{type(model).__name__}"


def _keras() -> Any:
    if find_spec("keras") is None:
        raise NndiagError("Keras files need keras, which is not installed", hint="pip install 'nndiag[keras]'")
    prepare_backend()
    try:
        import keras
    except Exception as error:
        backend = os.environ.get("KERAS_BACKEND", "")
        raise NndiagError(
            f"keras cannot be imported with the {backend} backend: {said(error)}", hint="set KERAS_BACKEND=torch"
        ) from error
    if keras.backend.backend() != "torch":
        raise NndiagError(
            f"Keras was imported with the {keras.backend.backend()} backend",
            hint="set KERAS_BACKEND=torch before it is imported",
        )
    return keras


def _check_file(target: str, *, trust: bool) -> None:
    """Look at a file before Keras does: is it whole, and does its config name code?"""
    opened = inspect(target)
    if opened.kind == "hdf5":
        config = _config_in_h5(target)
    elif opened.kind in {"keras", "zip"}:
        config = _config_in_zip(target)
    else:
        raise NndiagError(f"'{target}' is {opened.kind}, not a Keras file", hint="write it with model.save(…)")
    if not trust:
        for problem in _code_in(config):
            raise NndiagError(f"'{target}' holds {problem}: code that loading runs", hint="--trust runs it")


def _config_in_zip(target: str) -> Any:
    import zipfile

    opened = inspect(target)
    try:
        with open_zip(opened) as archive:
            if (bad := archive.testzip()) is not None:
                raise NndiagError(f"'{target}' is damaged: '{shown(bad)}' fails its checksum", hint="write it again")
            return json.loads(archive.read("config.json"))
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        OSError,
        EOFError,
        ValueError,
        RecursionError,
    ) as bad:
        raise NndiagError(f"'{target}' is damaged: {said(bad)}", hint="write it again") from bad
    except KeyError as missing:
        raise NndiagError(
            f"'{target}' is a zip file without Keras's config.json", hint="write it with model.save('model.keras')"
        ) from missing


def _config_in_h5(target: str) -> Any:
    if find_spec("h5py") is None:
        raise NndiagError(".h5 files need h5py, which is not installed", hint="pip install 'nndiag[keras]'")
    import h5py

    try:
        with h5py.File(Path(target), "r") as file:
            text = file.attrs.get("model_config")
            if text is None:
                raise NndiagError(
                    f"'{target}' holds weights without a model", hint="save both: model.save('model.keras')"
                )
            text = text.decode() if isinstance(text, bytes) else str(text)
            return json.loads(text[:_CONFIG_BYTES])
    except (OSError, ValueError, RuntimeError, KeyError, RecursionError) as broken:
        raise NndiagError(f"'{target}' is damaged: {shown(said(broken), 120)}", hint="write it again") from broken


def _code_in(config: Any) -> Iterator[str]:
    """Yield what in a config is code or would be imported: names found inside data are text."""
    todo = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            kind, module = item.get("class_name"), item.get("module")
            inner = item.get("config")
            name = inner.get("name") if isinstance(inner, dict) else inner
            if kind in {"Lambda", "__lambda__"}:
                yield f"a Lambda layer '{shown(str(name))}'"
            elif isinstance(module, str) and module.split(".")[0] != "keras":
                yield f"{shown(str(kind))} '{shown(str(name))}' of {shown(module)}"
            elif isinstance(kind, str) and module is None and ">" in str(item.get("registered_name") or kind):
                yield f"the class {shown(kind)}"
            elif kind == "function" and str(module).startswith(("keras.utils", "keras.src.utils", "keras.saving")):
                yield f"the function '{shown(str(name))}' of {shown(str(module))}"
            todo += item.values()
        elif isinstance(item, list):
            todo += item
