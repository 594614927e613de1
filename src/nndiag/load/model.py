"""From what the user typed as MODEL to a source of private models."""

from __future__ import annotations

import inspect as introspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.core.findings import Where
from nndiag.load.fitting import fitted_weights
from nndiag.load.huggingface import is_hugging_face, load_hugging_face
from nndiag.load.programs import load_program, pickled_module, program_kind
from nndiag.load.sources import BuiltModel, CopiedModel, PreparedModel, WeightsFile, placed
from nndiag.load.usercode import Target, called, is_code, line_of, literals, resolve
from nndiag.load.weights import find_state_dict, load_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from nndiag.core.subject import ModelSource

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".index.json")


def load_model(  # noqa: PLR0913 - what is typed, and how it is made
    target: str,
    *,
    args: Mapping[str, Any] | Iterable[str] | None = None,
    weights: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    trust: bool = False,
) -> ModelSource | WeightsFile:
    """Resolve a MODEL.

    Args:
        target: `file.py:attr`, `pkg.mod:attr`, a Hugging Face directory or config, or a file of weights.
        args: Arguments for a factory or class, as a mapping or as k=v texts.
        weights: A file of weights to load into the model.
        seed: Factories are called under it.
        device: Where models are put.
        trust: Whether pickled objects and remote code may run.

    Returns:
        A source whose `make` gives a private model, or a `WeightsFile` when there are only weights.

    Raises:
        UsageError: The target does not exist, or an argument is unknown.
        NndiagError: It cannot be loaded; with the user's file and line where it was his code.
    """
    source = _source(target, literals(args, "--model-arg"), seed=seed, device=device, trust=trust)
    if weights is None:
        return source
    if isinstance(source, WeightsFile):
        raise UsageError(f"{target} is weights already", hint="name the model's factory: file.py:build --weights …")
    opened = load_weights(weights, trust=trust)
    return PreparedModel(source, lambda model: placed(fitted_weights(model, opened), device), f"weights from {weights}")


def source_of(model: Any, *, seed: int = 0, device: str = "cpu") -> ModelSource | WeightsFile:
    """Return a source for a live object: a module, a factory, a state dict."""
    from torch import nn

    from nndiag.lab.watch.built import class_name, class_place
    from nndiag.load.keras import is_keras_model, live_source

    if is_keras_model(model):
        return live_source(type(model).__name__, model, Where(cls=class_name(model)), device)
    if isinstance(model, nn.Module):
        place = class_place(type(model))
        return CopiedModel(
            type(model).__name__, Where(cls=class_name(model), file=place.file, line=place.line), model, device
        )
    if hasattr(model, "make") and hasattr(model, "name"):
        given: ModelSource = model
        return given
    if isinstance(model, str | Path):
        return load_model(str(model), seed=seed, device=device)
    if callable(model):
        name = getattr(model, "__name__", type(model).__name__)
        return _from_factory(name, model, {}, seed=seed, device=device)
    if tensors := find_state_dict(model):
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
        return WeightsFile("state dict", shapes, lambda: iter(tensors.items()))
    raise UsageError(f"a {type(model).__name__} is no model", hint="pass a torch module or a function that builds one")


def _source(target: str, args: dict[str, Any], *, seed: int, device: str, trust: bool) -> ModelSource | WeightsFile:
    if is_code(target):
        from nndiag.load.keras import prepare_backend

        prepare_backend()
        return _from_code(resolve(target, what="model"), args, seed=seed, device=device)
    if is_hugging_face(target):
        return load_hugging_face(target, args=args, seed=seed, device=device, trust=trust)
    path = Path(target)
    if path.is_dir():
        raise NndiagError(f"'{target}' has no config.json", hint="a Hugging Face directory has one; name a file inside")
    if not path.exists() and not target.endswith(WEIGHT_SUFFIXES):
        raise UsageError(f"there is no model '{target}'", hint=_advice(target))
    if args:
        raise UsageError(f"{target} takes no --model-arg", hint="arguments are for factories and classes")
    if target.endswith((".keras", ".h5", ".hdf5")):
        from nndiag.load.keras import load_keras

        return load_keras(target, seed=seed, device=device, trust=trust)
    if program := _program(target, device=device, trust=trust):
        return program
    if trust and (module := pickled_module(target, device=device)):
        return module
    return load_weights(target, trust=trust)


def _advice(target: str) -> str:
    """Say what a MODEL can be, closest first."""
    here = [entry.name for entry in Path().iterdir() if entry.suffix in {".py", *WEIGHT_SUFFIXES}]
    close = did_you_mean(target.partition(":")[0], here)
    return close or "name file.py:attr, pkg.mod:attr, a Hugging Face directory, or a file of weights"


def _program(target: str, *, device: str, trust: bool) -> ModelSource | WeightsFile | None:
    """Return a source for TorchScript and exported programs, which only run when trusted; a .pt2's weights always."""
    from nndiag.load.exported import exported_weights

    kind = program_kind(target)
    if kind == "export" and not trust and (weights := exported_weights(target)) is not None:
        return weights
    return load_program(target, kind, device=device, trust=trust) if kind else None


def _from_code(target: Target, args: dict[str, Any], *, seed: int, device: str) -> ModelSource | WeightsFile:
    from torch import nn

    from nndiag.lab.watch.built import class_name, class_place
    from nndiag.load.keras import is_keras_model, live_source

    thing = target.thing
    if is_keras_model(thing):
        if args:
            raise UsageError(f"{target.typed} is an instance and takes no --model-arg", hint="name its factory")
        place = Where(cls=class_name(thing), file=_place(None, module=target.module).file, line=line_of(target))
        return live_source(target.typed, thing, place, device)
    if isinstance(thing, nn.Module):
        if args:
            raise UsageError(
                f"{target.typed} is an instance and takes no --model-arg", hint="name its class or factory"
            )
        place = class_place(type(thing))
        if place.file is None:  # one of torch's own containers, filled in the user's file
            place = Where(file=_place(None, module=target.module).file, line=line_of(target))
        where = Where(cls=class_name(thing), file=place.file, line=place.line)
        return CopiedModel(target.typed, where, thing, device)
    if type(thing).__name__.endswith("Config") and hasattr(thing, "model_type"):
        from nndiag.load.huggingface import from_config

        return BuiltModel(
            target.typed, _place(None, module=target.module), from_config(thing), seed, device, "random weights"
        )
    if callable(thing):
        return _from_factory(target.typed, thing, args, seed=seed, device=device)
    if tensors := find_state_dict(thing):
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
        return WeightsFile(target.typed, shapes, lambda: iter(tensors.items()))
    raise NndiagError(
        f"{target.typed} is a {type(thing).__name__}, not a model",
        hint="name a torch module, its class, or a function that returns one",
    )


def _from_factory(name: str, build: Any, args: dict[str, Any], *, seed: int, device: str) -> ModelSource:
    from torch import nn

    from nndiag.load.keras import as_torch, fresh_names, is_keras_model, named

    def checked() -> nn.Module:
        with fresh_names():
            made = called(name, build, args)
        if is_keras_model(made):
            graph, notes = as_torch(made, name)
            source.name = named(name, notes)
            return graph
        if not isinstance(made, nn.Module):
            word = type(made).__name__
            kind = "nothing" if made is None else f"an {word}" if word[0] in "aeiou" else f"a {word}"
            inner = (
                " (it holds one)"
                if isinstance(made, tuple | list) and any(isinstance(x, nn.Module) for x in made)
                else ""
            )
            raise NndiagError(f"{name} returned {kind}, not a torch module{inner}", hint="return the model itself")
        return made

    source = BuiltModel(name, _place(build), checked, seed, device)
    return source


def _place(thing: Any, *, module: Any = None) -> Where:
    """Return where a factory, a class or else a file is."""
    from nndiag.lab.watch.blame import shown
    from nndiag.lab.watch.built import class_name

    try:
        file = introspect.getsourcefile(thing)
        line = introspect.getsourcelines(thing)[1]
    except (TypeError, OSError):
        file, line = getattr(module, "__file__", None), None
    cls = class_name(thing) if isinstance(thing, type) else None
    return Where(cls=cls, file=shown(file) if file else None, line=line)
