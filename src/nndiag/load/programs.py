"""TorchScript, exported programs and pickled modules: code in a file, run only when trusted."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Where
from nndiag.lab.watch.blame import said
from nndiag.load.door import inspect, open_zip
from nndiag.load.sources import CopiedModel

if TYPE_CHECKING:
    from nndiag.core.subject import ModelSource


def program_kind(target: str) -> str:
    """Return "script" for TorchScript, "export" for a .pt2 program, and nothing for anything else."""
    if not Path(target).is_file() or not zipfile.is_zipfile(target):
        return ""
    with open_zip(inspect(target)) as archive:
        inner = {name.split("/", 1)[-1] for name in archive.namelist()}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "script"
    exported = "archive_format" in inner or any(name.startswith("models/") for name in inner)
    return "export" if exported or "serialized_exported_program.json" in inner else ""


def load_program(target: str, kind: str, *, device: str, trust: bool) -> ModelSource:
    """Load a program as a model.

    Raises:
        NndiagError: It is not trusted, or cannot be loaded.
    """
    word = "TorchScript" if kind == "script" else "an exported program"
    if not trust:
        raise NndiagError(f"'{target}' is {word}: code that loading runs", hint="--trust runs it; or give a state dict")
    import torch

    try:
        if kind == "script":
            model: torch.nn.Module = torch.jit.load(target, map_location="cpu")  # type: ignore[no-untyped-call]
        else:
            model = torch.export.load(target).module()
    except Exception as error:
        raise NndiagError(
            f"'{target}' cannot be loaded: {said(error)}", hint="was it written by this torch?"
        ) from error
    return CopiedModel(target, Where(file=target), model, device, f"{word}: layers inside are hidden", stored=True)


def pickled_module(target: str, *, device: str) -> ModelSource | None:
    """Return the module that a trusted file of torch.save holds, alone or in a dict; None where it holds none."""
    import torch

    from nndiag.lab.watch.built import class_name, class_place
    from nndiag.load.weights import read_torch

    if not Path(target).is_file():
        return None
    opened = inspect(target)
    if opened.kind not in {"torch", "pickle", "zip"}:
        return None
    content = read_torch(opened, trust=True)
    parts = list(content.values()) if isinstance(content, dict) else [content]
    modules = [item for item in parts if isinstance(item, torch.nn.Module)]
    if len(modules) != 1:
        return None
    place = class_place(type(modules[0]))
    where = Where(cls=class_name(modules[0]), file=place.file or target, line=place.line)
    return CopiedModel(target, where, modules[0], device, "pickled module", stored=True)
