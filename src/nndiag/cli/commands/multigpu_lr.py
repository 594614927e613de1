"""nndiag multigpu-lr."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject
from nndiag.core.subject import Run, Subject

RECIPE, MEASURED = "Recipe", "Measured"


def _opt(text: str, panel: str = RECIPE, metavar: str | None = None) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, metavar=metavar)


def multigpu_lr(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG]...",
            help="Accelerate yaml, DeepSpeed json, Lightning config.yaml, Hugging Face training arguments.",
        ),
    ] = None,
    *,
    base_lr: Annotated[float | None, _opt("Learning rate of the recipe that worked.")] = None,
    base_batch: Annotated[int | None, _opt("Samples per update of the recipe that worked.")] = None,
    gpus: Annotated[int | None, _opt("Devices (of each node).")] = None,
    nodes: Annotated[int | None, _opt("Machines; the devices multiply.")] = None,
    per_device_batch: Annotated[int | None, _opt("Samples per device and micro-batch.")] = None,
    global_batch: Annotated[int | None, _opt("Samples per update, where the total is what was written down.")] = None,
    accumulation: Annotated[int | None, _opt("Micro-batches per update.")] = None,
    warmup: Annotated[float | None, _opt("Warm-up.", metavar="STEPS")] = None,
    dataset_size: Annotated[int | None, _opt("Training samples.")] = None,
    epochs: Annotated[float | None, _opt("Passes over the data.")] = None,
    rule: Annotated[str | None, _opt("linear, sqrt, gain or none: how the rate was meant to follow the batch.")] = None,
    framework: Annotated[
        str | None,
        _opt("ddp, fsdp, accelerate, deepspeed, lightning, hf, mirrored, horovod or easgd: who steps the schedule."),
    ] = None,
    ranks: Annotated[
        int | None, _opt("Real process group of N workers, instead of emulated ones.", MEASURED, "N")
    ] = None,
    model: Annotated[str | None, _opt("MODEL, for gradients, noise scale and training.", MEASURED)] = None,
    data: Annotated[str | None, _opt("DATA, for the same.", MEASURED)] = None,
    shared: Shared,
    trained: Trained,
) -> None:
    """After going from one device to N: is it still the recipe that was tuned?

    Example: nndiag multigpu-lr --gpus 8 --per-device-batch 32 --lr 3e-4 --base-lr 3e-4 --base-batch 32

    Example: nndiag multigpu-lr accelerate.yaml --per-device-batch 32 --model model.py:Net --data x.npz --ranks 2
    """
    options = {
        "base-lr": base_lr,
        "base-batch": base_batch,
        "gpus": gpus,
        "nodes": nodes,
        "per-device-batch": per_device_batch,
        "global-batch": global_batch,
        "accumulation": accumulation,
        "warmup": warmup,
        "dataset-size": dataset_size,
        "epochs": epochs,
        "rule": rule,
        "framework": framework,
    }
    table = dict(shared.settings.tables.get("multigpu-lr", {}))

    def build(run: Run) -> Subject:
        return recipe_subject(run, trained, model, data, configs or [], options, table, shared.settings.path)

    execute("multigpu-lr", shared, build, uses_torch=model is not None, ranks=ranks)


def recipe_subject(
    run: Run,
    trained: Trained,
    model: str | None,
    data: str | None,
    configs: list[str],
    options: dict[str, Any],
    table: dict[str, Any],
    path: str = "",
) -> Subject:
    """Read the recipe; load a model and data only where they are named."""
    from dataclasses import replace

    from nndiag.core.subject import Training
    from nndiag.load.recipe import load_recipe

    said = {
        **options,
        "lr": trained.lr,
        "optimizer": trained.optimizer,
        "optimizer-arg": trained.optimizer_arg or None,
    }
    recipe = load_recipe(configs, said, table)
    if recipe is not None and path and not recipe.sources:
        recipe = replace(recipe, sources=(path,))
    inputs = {"recipe": recipe}
    if model is None:
        name = " ".join(configs) or path or "recipe"
        return Subject(name, training=Training(lr=trained.lr), run=run, inputs=inputs)
    return model_subject(run, trained, model=model, data=data, inputs=inputs)
