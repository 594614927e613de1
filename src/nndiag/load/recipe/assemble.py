"""Joins what the command line, the table and the native files say, and does the batch arithmetic once."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nndiag.core.errors import UsageError
from nndiag.core.recipe import FRAMEWORKS, RULES_OF_SCALING, Recipe, Schedule
from nndiag.core.subject import Training
from nndiag.load.recipe.batches import resolve_batches
from nndiag.load.recipe.draft import Draft, join
from nndiag.load.recipe.native import read_native
from nndiag.load.recipe.numbers import choice, flag, number, only, pair, share, sizes, whole
from nndiag.load.recipe.schedule import read_schedule

# Options of the command; each is also a key of the table.
OPTIONS = (
    "base-lr", "base-batch", "gpus", "nodes", "per-device-batch", "global-batch", "accumulation", "lr", "warmup",
    "dataset-size", "epochs", "optimizer", "rule", "framework", "ranks", "model", "data",
)  # fmt: skip
# Keys of the table that have no option.
TABLE_KEYS = (
    "base-betas", "betas", "base-ema-decay", "ema-decay", "shard-sizes", "sampler", "set-epoch", "drop-last",
    "split-batches", "max-grad-norm", "schedule", "gradient-reduction", "accumulation-reduction", "intervals",
    "base-intervals",
)  # fmt: skip
EVERY_KEY = OPTIONS + TABLE_KEYS
ALSO = ("optimizer-arg", "optimizer-args", "loss", "seed", "steps", "batch-size", "device", "max-seconds", "train")
_SELF_SAMPLING = ("accelerate", "lightning", "hf")  # these shard the loader and set its epoch themselves
_PER_UPDATE = "optimizer"


def load_recipe(
    configs: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    training: Training | None = None,
) -> Recipe | None:
    """Return the recipe, with command line > table > files > a framework's own defaults.

    Args:
        configs: Accelerate, DeepSpeed, Lightning, Hugging Face or toml files.
        options: The command's own options by name, None for what was not given.
        table: Keys of [multigpu-lr] that have no option.
        training: Where --lr, --optimizer and their arguments went.

    Returns:
        The recipe; None when nothing at all was said.

    Raises:
        UsageError: A value is impossible, unknown, or contradicts another.
    """
    tables, drafts = [], []
    for path in configs:
        found = read_native(path)
        if isinstance(found, Draft):
            drafts.append(found)
        else:
            only(dict(found), EVERY_KEY + ALSO, path)
            tables.append(dict(found))
    only(dict(table or {}), EVERY_KEY + ALSO, "[multigpu-lr]")
    said: dict[str, Any] = {}
    for layer in (*tables, dict(table or {}), dict(options or {})):
        said.update({key.replace("_", "-"): item for key, item in layer.items() if item is not None})
    native = join(drafts)
    own = _own(said, training or Training(), "the [multigpu-lr] table")
    values = {**native.defaults, **native.values, **own}
    if not values:
        return None
    assumed = {key: f"{native.place}: the default" for key in native.defaults if values[key] is native.defaults[key]
               and key not in native.values and key not in own}  # fmt: skip
    return _finished(values, assumed, tuple(configs))


def _own(said: Mapping[str, Any], training: Training, place: str) -> dict[str, Any]:
    """Read options and table under the names of `Recipe`."""
    optimizer, args = _optimizer(said, training)
    gpus, nodes = whole(said.get("gpus"), "gpus"), whole(said.get("nodes"), "nodes")
    read: dict[str, Any] = {
        "framework": choice(said.get("framework"), "framework", FRAMEWORKS),
        "rule": choice(said.get("rule"), "rule", RULES_OF_SCALING),
        "gpus": gpus,
        "nodes": nodes,
        "per_device_batch": whole(said.get("per-device-batch"), "per-device-batch"),
        "accumulation": whole(said.get("accumulation"), "accumulation"),
        "global_batch": whole(said.get("global-batch"), "global-batch"),
        "base_batch": whole(said.get("base-batch"), "base-batch"),
        "base_lr": number(said.get("base-lr"), "base-lr"),
        "lr": number(said.get("lr", args.pop("lr", training.lr)), "lr"),
        "dataset_size": whole(said.get("dataset-size"), "dataset-size"),
        "epochs": number(said.get("epochs"), "epochs"),
        "warmup": number(said.get("warmup"), "warmup", strict=False),
        "optimizer": optimizer,
        "betas": pair(said.get("betas", args.get("betas")), "betas"),
        "base_betas": pair(said.get("base-betas"), "base-betas"),
        "eps": number(args.get("eps"), "eps"),
        "momentum": number(args.get("momentum"), "momentum", strict=False),
        "ema_decay": share(said.get("ema-decay"), "ema-decay"),
        "base_ema_decay": share(said.get("base-ema-decay"), "base-ema-decay"),
        "shard_sizes": sizes(said.get("shard-sizes"), "shard-sizes") or None,
        "sampler": choice(said.get("sampler"), "sampler", ("distributed", "none")),
        "set_epoch": flag(said.get("set-epoch"), "set-epoch"),
        "drop_last": flag(said.get("drop-last"), "drop-last"),
        "split_batches": flag(said.get("split-batches"), "split-batches"),
        "max_grad_norm": number(said.get("max-grad-norm"), "max-grad-norm"),
        "gradient_reduction": choice(said.get("gradient-reduction"), "gradient-reduction", ("mean", "sum")),
        "accumulation_reduction": choice(said.get("accumulation-reduction"), "accumulation-reduction", ("mean", "sum")),
        "schedule": read_schedule(said.get("schedule"), place),
        "intervals": _intervals(said.get("intervals"), "intervals"),
        "base_intervals": _intervals(said.get("base-intervals"), "base-intervals"),
    }
    return {key: item for key, item in read.items() if item is not None}


def _optimizer(said: Mapping[str, Any], training: Training) -> tuple[str | None, dict[str, Any]]:
    """Return the optimizer's name and arguments, from a name, a table or what the shared options hold."""
    item = said.get("optimizer", training.optimizer)
    args: dict[str, Any] = {}
    for text in said.get("optimizer-arg") or ():
        key, _, value = str(text).partition("=")
        args[key.strip().replace("-", "_")] = _literal(value)
    args |= {str(key).replace("-", "_"): value for key, value in training.optimizer_args.items()}
    if isinstance(item, Mapping):
        args = {str(key).replace("-", "_"): value for key, value in item.items()} | args
        item = args.pop("name", None)
    if item is None:
        return None, args
    name = item if isinstance(item, str) else getattr(item, "__name__", type(item).__name__)
    return (name.lower().replace("_", "").replace("-", "") if ":" not in name else name), args


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def _intervals(item: Any, key: str) -> dict[str, float] | None:
    if item is None:
        return None
    if not isinstance(item, Mapping):
        raise UsageError(f"{key} = {item!r} must be a table", hint=f"{key} = {{ evaluate = 500, save = 1000 }}")
    found = {str(name): number(value, f"{key}.{name}") for name, value in item.items()}
    return {name: value for name, value in found.items() if value is not None}


def _finished(values: dict[str, Any], assumed: dict[str, str], sources: tuple[str, ...]) -> Recipe:
    """Do the batch arithmetic, fill in what follows from the framework, and check what must agree."""
    gpus, nodes = values.pop("gpus", None), values.get("nodes")
    if gpus is not None:
        values["devices"] = gpus * (nodes or 1)
    warmup = values.pop("warmup", None)
    if values.get("shard_sizes") and values.get("devices") is None:
        values["devices"] = len(values["shard_sizes"])
    deduced = dict(assumed)
    values.update(resolve_batches(values, deduced))
    shards = values.get("shard_sizes", ())
    if shards and len(shards) != values["devices"]:
        raise UsageError(
            f"shard-sizes holds {len(shards)} sizes for {values['devices']} devices", hint="one size for each rank"
        )
    framework = values.get("framework")
    if framework in _SELF_SAMPLING:
        for key, item in (("sampler", "distributed"), ("set_epoch", True)):
            if key not in values and values.get("devices", 1):
                values[key], deduced[key] = item, f"{framework} does it itself"
    values["schedule"] = _schedule(values.get("schedule"), warmup, values)
    known = set(Recipe.__dataclass_fields__)
    kept = {key: item for key, item in values.items() if key in known and item is not None}
    return Recipe(**{**kept, "deduced": deduced, "sources": sources})


def _schedule(schedule: Schedule | None, warmup: float | None, values: Mapping[str, Any]) -> Schedule | None:
    """Put --warmup into the schedule, and the framework's habit of stepping it."""
    if schedule is None:
        return None if warmup is None else Schedule(warmup_steps=warmup, stepped_per=_habit(values))
    if warmup is not None and schedule.warmup_steps not in (None, 0.0, warmup):
        raise UsageError(
            f"warmup = {warmup:g} contradicts schedule.warmup-steps = {schedule.warmup_steps:g}",
            hint="which holds? give one of them",
        )
    if warmup is not None:
        schedule = replace(schedule, warmup_steps=warmup)
    managed = values.get("framework") == "hf" and schedule.total_steps is None and schedule.factory is None
    return replace(
        schedule,
        stepped_per=schedule.stepped_per or _habit(values),
        managed=schedule.managed or (managed and not schedule.milestones and not schedule.decay_steps),
    )


def _habit(values: Mapping[str, Any]) -> str:
    """Return how often the framework's own loop calls scheduler.step()."""
    return {"accelerate": "process", "lightning": "epoch"}.get(values.get("framework", ""), _PER_UPDATE)
