"""nndiag multigpu-lr."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject


def multigpu_lr(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG]...", help="Accelerate, DeepSpeed, Lightning, HF files."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="MODEL, for gradients and noise scale.")] = None,
    data: Annotated[str | None, typer.Option(help="DATA, for gradients and noise scale.")] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """After going from one device to N: is it still the recipe that was tuned?

    Example: nndiag multigpu-lr --gpus 8 --per-device-batch 32 --lr 3e-4 --base-lr 3e-4 --base-batch 32
    """
    table = dict(shared.settings.tables.get("multigpu-lr", {}))
    execute(
        "multigpu-lr",
        shared,
        lambda run: model_subject(
            run,
            trained,
            model=model,
            data=data,
            inputs={"configs": configs or [], "table": table},
            need_data=False,
        ),
        uses_torch=model is not None,
    )
