"""Looks for what nndiag could examine in a folder: models, data, trainers' configs. Reads text only, runs nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 400
MAX_BYTES = 2**20
SKIPPED_FOLDERS = {".git", ".venv", "venv", "node_modules", "__pycache__", "build", "dist", "site-packages", "tests"}
MODEL_NAME = re.compile(
    r"^(build|make|create|get|load)_?(the_)?(model|net|network|module)|^model$|^net$", re.IGNORECASE
)
DATA_NAME = re.compile(
    r"^(?!.*(val|test|eval|pred)).*((train|data).*(loader|set|batches)|(^|_)(loader|batches|dataset|data)$)",
    re.IGNORECASE,
)
TRAINER_MARKS = (
    "num_processes",  # Accelerate
    "train_micro_batch_size_per_gpu",  # DeepSpeed
    "per_device_train_batch_size",  # Hugging Face
    "accumulate_grad_batches",  # Lightning
)
MODULE_BASES = {"Module", "LightningModule", "PreTrainedModel", "Sequential", "Model"}


@dataclass(frozen=True, slots=True)
class Discovered:
    """What was found, best first; each a target as the user would type it."""

    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()


def discover(folder: Path) -> Discovered:
    """Return candidates below `folder`, two levels deep."""
    models: list[tuple[int, str]] = []
    data: list[tuple[int, str]] = []
    curves, configs = [], []
    for path in _files(folder):
        shown = path.relative_to(folder).as_posix()
        if path.suffix == ".py":
            for rank, name in _definitions(path, models=True):
                models.append((rank, f"{shown}:{name}"))
            for rank, name in _definitions(path, models=False):
                data.append((rank, f"{shown}:{name}"))
        elif path.name in ("trainer_state.json", "metrics.csv") or _is_loss_log(path):
            curves.append(shown)
        elif path.suffix in (".json", ".yaml", ".yml") and _is_trainer_config(path):
            configs.append(shown)
        elif path.suffix in (".npz", ".npy"):
            data.append((5, shown))
        elif path.suffix in (".keras", ".safetensors", ".ckpt"):
            models.append((5, shown))
    return Discovered(_best(models), _best(data), tuple(sorted(curves)), tuple(sorted(configs)))


def _best(found: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(name for _rank, name in sorted(found))


def _files(folder: Path) -> Iterator[Path]:
    seen = 0
    for path in sorted([*folder.glob("*"), *folder.glob("*/*"), *folder.glob("*/*/*")]):
        inside = path.relative_to(folder).parts
        if any(part in SKIPPED_FOLDERS or part.startswith(".") for part in inside[:-1]) or not path.is_file():
            continue
        seen += 1
        if seen > MAX_FILES:
            return
        yield path


def _definitions(path: Path, *, models: bool) -> Iterator[tuple[int, str]]:
    """Yield (rank, name) of top-level definitions that look like a model, or like data; low ranks are likelier."""
    if path.stat().st_size > MAX_BYTES:
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    pattern = MODEL_NAME if models else DATA_NAME
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and pattern.search(node.name) and not _needs_arguments(node.args):
            yield 0, node.name
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if pattern.search(node.targets[0].id):
                yield 1, node.targets[0].id
        elif models and isinstance(node, ast.ClassDef) and any(_last_name(base) in MODULE_BASES for base in node.bases):
            yield (2 if _constructs_freely(node) else 4), node.name


def _needs_arguments(args: ast.arguments) -> bool:
    required = len(args.posonlyargs) + len(args.args) - len(args.defaults)
    return required > 0 or any(default is None for default in args.kw_defaults)


def _constructs_freely(node: ast.ClassDef) -> bool:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            own = len(item.args.args) - 1 - len(item.args.defaults)
            return own <= 0 and all(default is not None for default in item.args.kw_defaults)
    return True


def _last_name(base: ast.expr) -> str:
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _is_loss_log(path: Path) -> bool:
    """Whether a CSV file's first line names a loss, as loggers write it."""
    if path.suffix != ".csv":
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return any("loss" in column.lower() for column in file.readline(4096).split(","))


def _is_trainer_config(path: Path) -> bool:
    if path.stat().st_size > MAX_BYTES:
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return any(mark in text for mark in TRAINER_MARKS)
