"""nndiag check-dropout."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject, required


def check_dropout(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="file.py:attr and the like.")] = None,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Real batches; invented otherwise.")] = None,
    masks: Annotated[int | None, typer.Option(min=2, help="Masks to average over.")] = None,
    max_variance_ratio: Annotated[
        float | None, typer.Option(min=1.0, help="Train/eval variance ratio that batch norm may see.")
    ] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Does dropout's 1/(1-p) survive the layers that follow it, and is it on exactly when it should be?

    Example: nndiag check-dropout models.py:build data.py:loader
    """
    target = required(model, "MODEL", "nndiag check-dropout models.py:build")
    execute(
        "check-dropout",
        shared,
        lambda run: model_subject(run, trained, model=target, data=data),
        masks=masks,
        max_variance_ratio=max_variance_ratio,
    )
