"""Hugging Face directories and configs: the architecture they name, out of the installed transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Where
from nndiag.lab.watch.blame import one_line, said
from nndiag.load.door import inspect, require, shown
from nndiag.load.fitting import fitted_weights
from nndiag.load.sources import BuiltModel, PreparedModel
from nndiag.load.usercode import literals
from nndiag.load.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

_CONFIG_BYTES = 16 << 20
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def is_hugging_face(target: str) -> bool:
    """Whether a target is a directory with a config.json, or such a file itself."""
    path = Path(target)
    if path.is_dir():
        return (path / "config.json").is_file()
    return path.name.endswith(".json") and path.is_file() and not target.endswith(".index.json")


def load_hugging_face(
    target: str, *, args: Mapping[str, Any], seed: int, device: str, trust: bool
) -> BuiltModel | PreparedModel:
    """Return a source of the model that a config describes, with the weights beside it where there are any.

    Raises:
        NndiagError: The config is none, names no architecture known here, or wants code of its own to run.
    """
    path = Path(target)
    file = path / "config.json" if path.is_dir() else path
    fields = _read(file)
    require("transformers", "hf", f"'{target}'")
    kind = str(fields.get("model_type", ""))
    if "auto_map" in fields and not trust and not _known(kind):
        wanted = one_line(shown(str(value)) for value in dict(fields["auto_map"]).values())
        raise NndiagError(f"'{target}' wants its own code to run: {wanted}", hint="--trust imports it; read it first")
    build = _builder(str(file), fields, literals(args, "--model-arg"), trust=trust)
    note = "random weights"
    weights = next((path / name for name in _WEIGHTS if path.is_dir() and (path / name).is_file()), None)
    source = BuiltModel(target, Where(file=str(file)), build, seed, device, note)
    if weights is None:
        return source
    opened = load_weights(str(weights), trust=trust)
    source.build = lambda: fitted_weights(build(), opened)
    source.note = f"weights from {weights.name}"
    return source


def _read(file: Path) -> dict[str, Any]:
    opened = inspect(str(file))
    if opened.size > _CONFIG_BYTES:
        raise NndiagError(f"'{file}' is {opened.size} bytes long", hint="a model's config is a few kilobytes")
    try:
        fields = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise NndiagError(f"'{file}' is no JSON: {said(error)}", hint="a model's config is a JSON object") from error
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise NndiagError(f"'{file}' has no 'model_type'", hint="give the config.json that save_pretrained wrote")
    return fields


def _known(kind: str) -> bool:
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def _builder(file: str, fields: dict[str, Any], args: dict[str, Any], *, trust: bool) -> Any:
    """Return a function that builds the model with random weights."""
    import transformers

    kind = str(fields["model_type"])
    if not _known(kind) and not trust:
        from nndiag.core.errors import did_you_mean

        hint = did_you_mean(kind, list(transformers.CONFIG_MAPPING), otherwise="is this transformers too old for it?")
        raise NndiagError(f"'{file}': transformers knows no model type '{shown(kind)}'", hint=hint)
    try:
        if _known(kind):
            config = transformers.CONFIG_MAPPING[kind].from_dict({**fields, **args})
        else:
            config = transformers.AutoConfig.from_pretrained(
                str(Path(file).parent), trust_remote_code=True, local_files_only=True, **args
            )
    except NndiagError:
        raise
    except Exception as error:
        raise NndiagError(f"'{file}' is no config of {shown(kind)}: {said(error)}", hint="check its values") from error
    cls = _architecture(kind, fields)

    def build() -> nn.Module:
        try:
            if cls is not None:
                model: nn.Module = cls(config)
            else:
                model = transformers.AutoModel.from_config(config, trust_remote_code=trust)
        except Exception as error:
            raise NndiagError(f"'{file}': building it raised {said(error)}", hint="check the config") from error
        return model

    return build


def from_config(config: Any) -> Any:
    """Return a function that builds the model of a live config object, at random."""
    import transformers

    fields = {"architectures": getattr(config, "architectures", None)}
    cls = _architecture(str(config.model_type), fields)
    return (lambda: cls(config)) if cls is not None else (lambda: transformers.AutoModel.from_config(config))


def _architecture(kind: str, fields: Mapping[str, Any]) -> Any:
    """Return the class that `architectures` names, if transformers lists it for this model type.

    The name is looked up in transformers' own tables; nothing is imported because a file says so.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    listed = fields.get("architectures") or []
    wanted = str(listed[0]) if isinstance(listed, list) and listed else ""
    for name, table in vars(modeling_auto).items():
        if not name.endswith("_MAPPING_NAMES") or not hasattr(table, "get"):
            continue
        entry = table.get(kind)
        if wanted and wanted in (entry if isinstance(entry, tuple | list) else (entry,)):
            return getattr(transformers, wanted, None)
    return None
