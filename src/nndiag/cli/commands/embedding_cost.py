"""nndiag embedding-cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject
from nndiag.core.errors import UsageError

if TYPE_CHECKING:
    from nndiag.core.subject import Run, Subject

TABLE, JUDGING = "The table", "From where on something is said"


def _opt(*names: str, panel: str = TABLE, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


Model = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="file.py:attr, a config.json and the like.")]
Data = Annotated[str | None, typer.Argument(metavar="[DATA]", help="Real batches of ids.")]
Vocab = Annotated[int | None, _opt(help="Rows, without a model: --vocab 2000000.")]
Dim = Annotated[int | None, _opt(help="Columns, without a model: --dim 64.")]
SeqLen = Annotated[int | None, _opt(help="Ids per row of the batch: --seq-len 128.")]
Dtype = Annotated[str | None, _opt(help="Of the table, without a model: --dtype bfloat16.")]
Tokens = Annotated[
    str | None, _opt(metavar="FILE", help="Ids as npy, parquet, csv or text, or running text: --tokens ids.npy.")
]
Memory = Annotated[str | None, _opt(help="Of one device: --memory 40GiB.")]
Gpus = Annotated[int | None, _opt(help="Devices that train in parallel: --gpus 8.")]
Clip = Annotated[float | None, _opt(help="Gradients are clipped to this norm: --clip-grad-norm 1.")]
Accumulation = Annotated[int | None, _opt(help="Micro-batches per step: --accumulation 4.")]
SetToNone = Annotated[
    bool | None, _opt("--set-to-none/--no-set-to-none", help="zero_grad drops the gradient, torch's default.")
]
Tied = Annotated[bool | None, _opt("--tied/--no-tied", help="The output layer shares the table.")]
Sparse = Annotated[bool | None, _opt("--sparse/--no-sparse", help="The table is built with sparse=True.")]
Measure = Annotated[
    bool | None, _opt("--measure/--no-measure", help="Time it here; the default where there is a model.")
]
MaxShare = Annotated[float | None, _opt(panel=JUDGING, help="Share of the step from which a table is a warning: 0.3.")]
MinMs = Annotated[float | None, _opt(panel=JUDGING, help="Milliseconds per step worth a word: 20.")]
MaxNeverSeen = Annotated[float | None, _opt(panel=JUDGING, help="Share of rows that may never occur: 0.5.")]
MaxRare = Annotated[float | None, _opt(panel=JUDGING, help="Share of rows with too few updates: 0.3.")]
MinUpdates = Annotated[int | None, _opt(panel=JUDGING, help="Updates that a row needs: 5.")]
SmallRows = Annotated[int | None, _opt(panel=JUDGING, help="Tables with fewer rows get a note at most: 65536.")]


def embedding_cost(
    model: Model = None,
    data: Data = None,
    vocab: Vocab = None,
    dim: Dim = None,
    seq_len: SeqLen = None,
    dtype: Dtype = None,
    tokens: Tokens = None,
    memory: Memory = None,
    gpus: Gpus = None,
    clip_grad_norm: Clip = None,
    accumulation: Accumulation = None,
    set_to_none: SetToNone = None,
    tied: Tied = None,
    sparse: Sparse = None,
    measure: Measure = None,
    max_share: MaxShare = None,
    min_ms: MinMs = None,
    max_never_seen: MaxNeverSeen = None,
    max_rare: MaxRare = None,
    min_updates: MinUpdates = None,
    small_rows: SmallRows = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Why does a large trainable embedding slow training, and what would each cure give?

    Example: nndiag embedding-cost --vocab 2000000 --dim 64 --optimizer adam
    """
    given = dict(locals())
    settings = {word: value for word, value in given.items() if word not in _ELSEWHERE}

    def build(run: Run) -> Subject:
        subject = _subject(run, trained, model, data, tokens)
        numbers = f"{vocab:,} x {dim}" if vocab and dim else tokens or ""
        return subject if model is not None else replace(subject, name=numbers)

    execute("embedding-cost", shared, build, uses_torch=model is not None or bool(measure), **settings)


_ELSEWHERE = frozenset({"model", "data", "tokens", "shared", "trained"})


def _subject(run: Run, trained: Trained, model: str | None, data: str | None, tokens: str | None) -> Subject:
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

    return replace(subject, data=load_data(data, batch_size=subject.training.batch_size, seed=run.seed))
