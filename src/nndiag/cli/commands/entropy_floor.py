"""nndiag entropy-floor."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject


def entropy_floor(
    labels: Annotated[str | None, typer.Argument(metavar="LABELS", help="Class ids or rows of probabilities.")] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """With these labels, how low can the loss go, and can float32 still see the rest of the way?

    Example: nndiag entropy-floor labels.npy --curve run.csv:train_loss --label-smoothing 0.1
    """
    execute(
        "entropy-floor",
        shared,
        lambda run: model_subject(run, trained, model=None, inputs={"labels": labels}, need_data=False),
        uses_torch=False,
    )
