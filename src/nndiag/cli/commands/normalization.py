"""nndiag check-normalization."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject, required


def check_normalization(
    first: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="file.py:attr and the like; may be left out.")
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="DATA", help="x.npy, table.csv, images/, data.py:loader …")
    ] = None,
    model: Annotated[str | None, typer.Option(hidden=True)] = None,
    data: Annotated[str | None, typer.Option(hidden=True)] = None,
    serve: Annotated[
        str | None, typer.Option(metavar="DATA", help="What the model is fed in production: --serve serve.npy.")
    ] = None,
    feature_axis: Annotated[
        int | None, typer.Option(metavar="AXIS", help="Axis that holds features or channels: --feature-axis 1.")
    ] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Are the inputs on the scale that model and learning rate assume, in training as in serving?

    Example: nndiag check-normalization models.py:build train.npz --serve serve.npz --lr 0.1
    """
    given = [item for item in (first, second) if item]
    data = required(given.pop() if given else data, "DATA", "nndiag check-normalization train.npy")
    model = given.pop() if given else model
    execute(
        "check-normalization",
        shared,
        lambda run: model_subject(run, trained, model=model, data=data, serve=serve),
        feature_axis=feature_axis,
    )
