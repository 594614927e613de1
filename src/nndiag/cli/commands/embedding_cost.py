"""nndiag embedding-cost."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject


def embedding_cost(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="file.py:attr and the like.")] = None,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Real batches of ids.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Rows of the table.")] = None,
    dim: Annotated[int | None, typer.Option(help="Columns of the table.")] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Why does a large trainable embedding slow training, and what would each cure give?

    Example: nndiag embedding-cost --vocab 2000000 --dim 64 --optimizer adam
    """
    execute(
        "embedding-cost",
        shared,
        lambda run: model_subject(run, trained, model=model, data=data, need_data=False),
        uses_torch=model is not None,
        vocab=vocab,
        dim=dim,
    )
