"""nndiag embedding-cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject
from nndiag.core.errors import UsageError

TABLE, JUDGING = "The table", "From where on something is said"


def _opt(*names: str, panel: str = TABLE, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


def embedding_cost(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="file.py:attr, a config.json and the like.")
    ] = None,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Real batches of ids.")] = None,
    vocab: Annotated[int | None, _opt(help="Rows, without a model: --vocab 2000000.")] = None,
    dim: Annotated[int | None, _opt(help="Columns, without a model: --dim 64.")] = None,
    seq_len: Annotated[int | None, _opt(help="Ids per row of the batch: --seq-len 128.")] = None,
    dtype: Annotated[str | None, _opt(help="Of the table, without a model: --dtype bfloat16.")] = None,
    tokens: Annotated[
        str | None, _opt(metavar="FILE", help="Ids as npy, parquet, csv or text, or running text: --tokens ids.npy.")
    ] = None,
    memory: Annotated[str | None, _opt(help="Of one device: --memory 40GiB.")] = None,
    gpus: Annotated[int | None, _opt(help="Devices that train in parallel: --gpus 8.")] = None,
    clip_grad_norm: Annotated[
        float | None, _opt(help="Gradients are clipped to this norm: --clip-grad-norm 1.")
    ] = None,
    tied: Annotated[bool | None, _opt("--tied/--no-tied", help="The output layer shares the table.")] = None,
    sparse: Annotated[bool | None, _opt("--sparse/--no-sparse", help="The table is built with sparse=True.")] = None,
    measure: Annotated[
        bool | None, _opt("--measure/--no-measure", help="Time it here; the default where there is a model.")
    ] = None,
    max_share: Annotated[
        float | None, _opt(panel=JUDGING, help="Share of the step from which a table is a warning: 0.3.")
    ] = None,
    min_ms: Annotated[float | None, _opt(panel=JUDGING, help="Milliseconds per step worth a word: 20.")] = None,
    max_never_seen: Annotated[
        float | None, _opt(panel=JUDGING, help="Share of rows that may never occur: 0.5.")
    ] = None,
    max_rare: Annotated[float | None, _opt(panel=JUDGING, help="Share of rows with too few updates: 0.3.")] = None,
    min_updates: Annotated[int | None, _opt(panel=JUDGING, help="Updates that a row needs: 5.")] = None,
    small_rows: Annotated[
        int | None, _opt(panel=JUDGING, help="Tables with fewer rows get a note at most: 65536.")
    ] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Why does a large trainable embedding slow training, and what would each cure give?

    Example: nndiag embedding-cost --vocab 2000000 --dim 64 --optimizer adam
    """

    def build(run: Any) -> Any:
        if data is not None and model is None:
            raise UsageError("DATA without a MODEL", hint="give ids with --tokens FILE when there is no model")
        inputs = {}
        if tokens is not None:
            from nndiag.load.tokens import load_tokens

            inputs["tokens"] = load_tokens(tokens)
        subject = model_subject(run, trained, model=model, inputs=inputs, need_data=False)
        if model is None or data is None:
            return subject
        # Without the model: it would be built in full to see whether it takes the data, and ids that lie outside a
        # table are a finding here, not a failure.
        from nndiag.load.data import load_data

        batches = load_data(data, batch_size=subject.training.batch_size, seed=run.seed)
        return replace(subject, data=batches)

    execute(
        "embedding-cost",
        shared,
        build,
        uses_torch=model is not None or bool(measure),
        vocab=vocab,
        dim=dim,
        seq_len=seq_len,
        dtype=dtype,
        memory=memory,
        gpus=gpus,
        clip_grad_norm=clip_grad_norm,
        tied=tied,
        sparse=sparse,
        measure=measure,
        max_share=max_share,
        min_ms=min_ms,
        max_never_seen=max_never_seen,
        max_rare=max_rare,
        min_updates=min_updates,
        small_rows=small_rows,
    )
