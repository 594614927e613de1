"""Opens the trainers' own files and tells by their keys whose they are."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import UsageError
from nndiag.load.door import inspect
from nndiag.load.recipe.frameworks import read_accelerate, read_deepspeed, read_hf, read_lightning

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.load.recipe.draft import Draft

MAX_BYTES = 4 * 2**20  # a configuration of more than this is something else
MAX_ALIASES = 64  # YAML's &x *x can unfold a page into gigabytes
_HF_KEYS = {
    "per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "warmup_ratio", "logging_steps",
    "per_gpu_train_batch_size", "train_batch_size", "learning_rate", "output_dir", "eval_strategy", "save_steps",
    "warmup_steps", "max_steps", "optim",
}  # fmt: skip
_DEEPSPEED_KEYS = {
    "train_micro_batch_size_per_gpu",
    "zero_optimization",
    "gradient_clipping",
    "zero_allow_untested_optimizer",
}
_ACCELERATE_KEYS = {"compute_environment", "distributed_type", "num_processes", "num_machines", "machine_rank"}


def read_native(path: str) -> Draft | Mapping[str, Any]:
    """Read one CONFIG: a draft, or for a toml file its [multigpu-lr] table.

    Raises:
        UsageError: The file is missing, not a mapping, or nobody's.
        NndiagError: It may not be opened (a pipe, a directory, damaged).
    """
    document = _document(path)
    if path.endswith(".toml"):
        table = document.get("tool", {}).get("nndiag", document) if "tool" in document else document
        return dict(table.get("multigpu-lr", table))
    return _reader(document, path)(document, path)


def _reader(document: Mapping[str, Any], path: str) -> Callable[[Mapping[str, Any], str], Draft]:
    keys = {str(key) for key in document}
    if isinstance(document.get("trainer"), dict):
        return read_lightning
    if keys & _ACCELERATE_KEYS:
        return read_accelerate
    if keys & _DEEPSPEED_KEYS or ("train_batch_size" in keys and not keys & (_HF_KEYS - {"train_batch_size"})):
        return read_deepspeed
    if keys & (_HF_KEYS - {"output_dir"}):
        return read_hf
    raise UsageError(
        f"'{path}' is none of the recipes nndiag reads",
        hint="Accelerate yaml, DeepSpeed json, Lightning config.yaml, Hugging Face training arguments or nndiag.toml",
    )


def _document(path: str) -> Mapping[str, Any]:
    opened = inspect(path)
    if opened.size > MAX_BYTES:
        raise UsageError(f"'{path}' is too large for a configuration file", hint="give the trainer's yaml or json")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        document = _parsed(text, path)
    except UnicodeDecodeError as broken:
        raise UsageError(f"'{path}' is not text", hint="give the trainer's yaml or json") from broken
    except (ValueError, RecursionError) as broken:
        first = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise UsageError(f"'{path}' cannot be read: {first}", hint="mend the file") from broken
    if not isinstance(document, dict) or not document:
        raise UsageError(f"'{path}' holds no keys", hint="a recipe is a mapping of names and values")
    return document


def _parsed(text: str, path: str) -> Any:
    if path.endswith(".toml"):
        return tomllib.loads(text)
    if text.lstrip()[:1] == "{":
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if path.endswith(".json"):
                raise
    import yaml  # only yaml needs it

    if sum(token.startswith("*") for token in text.split()) > MAX_ALIASES:
        raise ValueError("too many YAML aliases")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as broken:
        mark = getattr(broken, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"not valid YAML{line}: {getattr(broken, 'problem', None) or broken}") from broken
