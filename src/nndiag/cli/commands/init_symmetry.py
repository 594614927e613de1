"""nndiag init-symmetry."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject, required


def init_symmetry(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="file.py:attr, weights and the like.")] = None,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Real batches; invented otherwise.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="Relative distance below which two units are one.")
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="GLOB", help="Only these modules, such as 'encoder.*'.")] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Rows looked at, e.g. 256")] = None,
    max_dead_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of units that may be off for every input, e.g. 0.2")
    ] = None,
    max_gain: Annotated[
        float | None, typer.Option(min=1.0, help="Growth or decay of second moments along the layers, e.g. 1e6")
    ] = None,
    min_input_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Part of the last layer that must differ between inputs.")
    ] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Which units start identical, which stay so, and what breaks the tie?

    Example: nndiag init-symmetry models.py:build --steps 200
    """
    target = required(model, "MODEL", "nndiag init-symmetry models.py:build")
    execute(
        "init-symmetry",
        shared,
        lambda run: model_subject(run, trained, model=target, data=data),
        steps=trained.steps,
        tolerance=tolerance,
        layers=layers,
        samples=samples,
        max_dead_share=max_dead_share,
        max_gain=max_gain,
        min_input_share=min_input_share,
    )
