"""Keras 3 models, from files and live, on the torch backend."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Where
from nndiag.lab.watch.blame import said
from nndiag.load.door import shown
from nndiag.load.keras_config import check_file
from nndiag.load.sources import CopiedModel

if TYPE_CHECKING:
    from torch import nn

    from nndiag.core.subject import ModelSource


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

    keras = _keras()
    check_file(target, trust=trust)
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimizer states and the like, of no concern here
        try:
            with keras.device("cpu"):
                model = keras.saving.load_model(target, compile=False, safe_mode=not trust)
        except Exception as error:
            raise NndiagError(
                f"'{target}' cannot be loaded by Keras: {shown(said(error), 120)}",
                hint="is it whole, and does it hold the model, not its weights alone?"
                if target.endswith(".keras")
                else "Keras cannot read all that it writes as .h5: save it as model.keras",
            ) from error
        graph, notes = as_torch(model, target)
    return CopiedModel(named(target, notes), Where(cls=_class(model), file=target), graph, device, stored=True)


def as_torch(model: Any, name: str) -> tuple[nn.Module, list[str]]:
    """Return a Keras model as torch layers of the same names, and what was left out; later, if it has no shape yet."""
    from nndiag.lab.keras.translate import check_backend, has_shape, translated
    from nndiag.lab.keras.unbuilt import Unbuilt, completed

    check_backend(name)
    whole = completed(model) if has_shape(model) else None
    if whole is None:
        return Unbuilt(model, name), []
    return translated(whole, name)


def is_keras_model(thing: Any) -> bool:
    """Whether an object is a Keras model; does not import Keras."""
    if "keras" not in sys.modules:
        return False
    from nndiag.lab.keras.translate import is_keras

    return is_keras(thing)


def fresh_names() -> AbstractContextManager[None]:
    """Let Keras number its layers from the start, as in a process of its own (dense, dense_1, …)."""
    if "keras" not in sys.modules:
        return nullcontext()
    from nndiag.lab.keras.copy import fresh_names as names

    return names()


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
