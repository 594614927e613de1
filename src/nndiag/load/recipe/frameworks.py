"""What Accelerate, DeepSpeed, Lightning and Hugging Face write into their files, and what they take by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nndiag.core.recipe import Schedule
from nndiag.load.recipe.draft import Draft
from nndiag.load.recipe.numbers import flag, number, pair, whole
from nndiag.load.recipe.schedule import TORCH_SCHEDULERS, from_torch_class, hf_name


def read_accelerate(document: Mapping[str, Any], path: str) -> Draft:
    """Read `accelerate config`: num_processes counts every process of every machine."""
    draft = Draft(path)
    deepspeed = _table(document, "deepspeed_config")
    kind = document.get("distributed_type")
    alone = kind is False or str(kind).upper() == "NO"  # YAML reads NO as false
    processes = whole(document.get("num_processes"), "num_processes")
    draft.say(
        framework="accelerate",
        devices=1 if alone else processes,
        nodes=whole(document.get("num_machines"), "num_machines"),
        accumulation=whole(
            document.get("gradient_accumulation_steps", deepspeed.get("gradient_accumulation_steps")),
            "gradient_accumulation_steps",
        ),
        max_grad_norm=number(deepspeed.get("gradient_clipping"), "gradient_clipping", strict=False),
        split_batches=flag(_table(document, "dataloader_config").get("split_batches"), "split_batches")
        if "dataloader_config" in document
        else flag(document.get("split_batches"), "split_batches"),
    )
    return draft


def read_deepspeed(document: Mapping[str, Any], path: str) -> Draft:
    """Read a DeepSpeed json; "auto" leaves a value to whoever launches it."""
    draft = Draft(path)
    optimizer, params = _typed(document.get("optimizer"))
    draft.say(
        framework="deepspeed",
        global_batch=whole(document.get("train_batch_size"), "train_batch_size"),
        per_device_batch=whole(document.get("train_micro_batch_size_per_gpu"), "train_micro_batch_size_per_gpu"),
        accumulation=whole(document.get("gradient_accumulation_steps"), "gradient_accumulation_steps"),
        optimizer=optimizer.lower() if optimizer else None,
        lr=number(params.get("lr"), "optimizer.params.lr", strict=False),
        betas=pair(params.get("betas"), "optimizer.params.betas"),
        eps=number(params.get("eps"), "optimizer.params.eps"),
        max_grad_norm=number(document.get("gradient_clipping"), "gradient_clipping", strict=False),
        schedule=_deepspeed_schedule(document.get("scheduler")),
        where_lr="optimizer.params.lr" if params.get("lr") not in (None, "auto") else None,
    )
    name, params = _typed(document.get("scheduler"))
    if name.startswith("Warmup") and draft.values.get("lr") is None:
        draft.say(lr=number(params.get("warmup_max_lr"), "warmup_max_lr", strict=False))
    return draft


def _deepspeed_schedule(item: Any) -> Schedule | None:
    """DeepSpeed steps its scheduler once per update, and its cosine stays down past its end."""
    name, params = _typed(item)
    shape = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}.get(name)
    if shape is None:
        return None
    warmup = number(params.get("warmup_num_steps"), "warmup_num_steps", strict=False)
    return Schedule(
        shape,
        total_steps=number(params.get("total_num_steps"), "total_num_steps"),
        warmup_steps=warmup,
        stepped_per="optimizer",
        periodic=False,
    )


def read_lightning(document: Mapping[str, Any], path: str) -> Draft:
    """Read a LightningCLI config.yaml: world = devices × num_nodes, schedulers step per epoch unless interval: step."""
    draft = Draft(path)
    trainer = _table(document, "trainer")
    optimizer, params = _classed(document.get("optimizer"))
    data = _arguments(document.get("data"))
    model = _arguments(document.get("model"))
    nodes = whole(trainer.get("num_nodes"), "trainer.num_nodes") or 1
    devices = _lightning_devices(trainer.get("devices"))
    epochs = trainer.get("max_epochs")
    steps = trainer.get("max_steps")
    draft.say(
        framework="lightning",
        devices=devices * nodes if devices else None,
        nodes=nodes,
        accumulation=whole(trainer.get("accumulate_grad_batches"), "trainer.accumulate_grad_batches"),
        epochs=number(epochs, "trainer.max_epochs") if epochs not in (None, -1) else None,
        updates=whole(steps, "trainer.max_steps") if steps not in (None, -1) else None,
        max_grad_norm=number(trainer.get("gradient_clip_val"), "trainer.gradient_clip_val", strict=False),
        per_device_batch=whole(_first(data, "batch_size", "train_batch_size"), "data.batch_size"),
        optimizer=optimizer.rsplit(".", 1)[-1].lower() if optimizer else None,
        lr=number(_first(params, "lr", "learning_rate") or _first(model, "lr", "learning_rate"), "lr", strict=False),
        betas=pair(params.get("betas"), "optimizer.init_args.betas"),
        momentum=number(params.get("momentum"), "optimizer.init_args.momentum", strict=False),
        schedule=_lightning_schedule(document.get("lr_scheduler")),
    )
    if trainer.get("use_distributed_sampler") is False:
        draft.say(sampler=None)
    else:
        draft.assume(sampler="distributed", set_epoch=True)
    return draft


def _lightning_schedule(item: Any) -> Schedule | None:
    name, params = _classed(item)
    interval = (item or {}).get("interval", params.get("interval")) if isinstance(item, dict) else None
    cls = name.rsplit(".", 1)[-1]
    if cls not in TORCH_SCHEDULERS:
        return None
    return from_torch_class(cls, params, stepped_per="optimizer" if interval == "step" else "epoch")


def _lightning_devices(item: Any) -> int | None:
    """Read devices: 4, "4", "0,1", [0, 1]; -1 and auto depend on the machine."""
    if isinstance(item, list):
        return len(item) or None
    if isinstance(item, str) and "," in item:
        return len([part for part in item.split(",") if part.strip()])
    if item in (-1, "-1"):
        return None
    return whole(item, "trainer.devices")


def read_hf(document: Mapping[str, Any], path: str) -> Draft:
    """Read transformers.TrainingArguments; its Trainer counts its own scheduler's steps, once per update."""
    draft = Draft(path)
    steps = document.get("max_steps")
    epochs = number(document.get("num_train_epochs"), "num_train_epochs")
    limited = steps not in (None, -1, "-1")
    warmup, ratio = _hf_warmup(document)
    name = hf_name(document.get("lr_scheduler_type", "linear"))
    draft.say(
        framework="hf",
        per_device_batch=whole(
            _first(document, "per_device_train_batch_size", "per_gpu_train_batch_size"), "per_device_train_batch_size"
        ),
        accumulation=whole(document.get("gradient_accumulation_steps"), "gradient_accumulation_steps"),
        devices=whole(_first(document, "world_size"), "world_size"),
        lr=number(document.get("learning_rate"), "learning_rate", strict=False),
        epochs=None if limited else epochs,
        updates=whole(steps, "max_steps") if limited else None,
        optimizer=_hf_optimizer(document.get("optim")),
        betas=_hf_betas(document),
        eps=number(document.get("adam_epsilon"), "adam_epsilon"),
        max_grad_norm=number(document.get("max_grad_norm"), "max_grad_norm", strict=False),
        drop_last=flag(document.get("dataloader_drop_last"), "dataloader_drop_last"),
        split_batches=flag(_table(document, "accelerator_config").get("split_batches"), "split_batches"),
        schedule=Schedule(name, warmup_steps=warmup, warmup_ratio=ratio, managed=True),
        intervals=_hf_intervals(document) or None,
        where_lr="learning_rate" if "learning_rate" in document else None,
    )
    draft.assume(per_device_batch=8.0, epochs=None if limited else 3.0, optimizer="adamw", lr=5e-5)
    draft.assume(sampler="distributed", set_epoch=True)
    return draft


def _hf_warmup(document: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return warm-up steps and ratio; below 1, warmup_steps is itself a ratio."""
    steps = number(document.get("warmup_steps"), "warmup_steps", strict=False) or 0.0
    ratio = number(document.get("warmup_ratio"), "warmup_ratio", strict=False) or 0.0
    if 0 < steps < 1:
        return 0.0, steps
    return steps, ratio if ratio and not steps else None


def _hf_betas(document: Mapping[str, Any]) -> tuple[float, float] | None:
    if "adam_beta1" not in document and "adam_beta2" not in document:
        return None
    return pair([document.get("adam_beta1", 0.9), document.get("adam_beta2", 0.999)], "adam_beta1, adam_beta2")


def _hf_optimizer(item: Any) -> str | None:
    word = str(item).rsplit(".", 1)[-1].lower() if item else ""
    known = ("adamw", "adafactor", "sgd", "adagrad", "rmsprop", "lion", "lamb", "lomo", "galore")
    return next((name for name in known if name in word), word or None)


def _hf_intervals(document: Mapping[str, Any]) -> dict[str, float]:
    found = {key.removesuffix("_steps"): number(document.get(key), key) for key in
             ("logging_steps", "eval_steps", "save_steps")}  # fmt: skip
    return {key: item for key, item in found.items() if item is not None and item >= 1}


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    item = document.get(key)
    return item if isinstance(item, dict) else {}


def _typed(item: Any) -> tuple[str, Mapping[str, Any]]:
    """Read DeepSpeed's {type, params}."""
    if not isinstance(item, dict):
        return "", {}
    return str(item.get("type") or ""), _table(item, "params")


def _classed(item: Any) -> tuple[str, Mapping[str, Any]]:
    """Read jsonargparse's {class_path, init_args}; a plain string is a class."""
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, dict):
        return "", {}
    return str(item.get("class_path") or ""), _table(item, "init_args")


def _arguments(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        return {}
    return _table(item, "init_args") or item


def _first(table: Mapping[str, Any], *keys: str) -> Any:
    return next((table[key] for key in keys if table.get(key) is not None), None)
