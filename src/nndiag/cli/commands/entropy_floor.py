"""nndiag entropy-floor."""

from __future__ import annotations

from typing import Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject
from nndiag.core.errors import UsageError
from nndiag.core.subject import Run, Subject, Training

FILE = "FILE[:COLUMN]"


def entropy_floor(
    ctx: typer.Context,
    labels: Annotated[
        str | None,
        typer.Argument(
            metavar="LABELS", help="Class ids or rows of probabilities: npy, npz, csv, parquet, jsonl, or - for stdin."
        ),
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar=FILE, help="Probabilities for the same rows, e.g. --predictions p.npy")
    ] = None,
    logits: Annotated[
        str | None, typer.Option(metavar=FILE, help="Logits for the same rows: exact KL, e.g. --logits z.npy")
    ] = None,
    curve: Annotated[
        str | None,
        typer.Option(metavar=FILE, help="A loss curve, e.g. --curve run.csv:train_loss or trainer_state.json"),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes, where ids do not show it, e.g. 1000")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Smoothing of the loss, e.g. 0.1")] = None,
    smoothing_style: Annotated[
        str | None, typer.Option(help="torch: ε/C on every class; fairseq: ε/(C-1) on the wrong ones.")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(metavar="LIST|FILE", help="Weights of the loss, e.g. 1,2,5 or weights.npy")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Distillation: labels become q^(1/T), the loss T² times as large, e.g. 4")
    ] = None,
    ignore_index: Annotated[
        int | None, typer.Option(help="Ids that the loss leaves out, e.g. -1 (default -100)")
    ] = None,
    units: Annotated[str | None, typer.Option(help="What the curve is in: nats or bits.")] = None,
    tail: Annotated[str | None, typer.Option(help="How much of the curve's end counts, e.g. 10% or 50")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="file.py:attr: its logits on --data are judged.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="(inputs, labels) for --model.")] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """With these labels, how low can the loss go, and can float32 still see the rest of the way?

    Example: nndiag entropy-floor labels.npy --curve run.csv:train_loss --label-smoothing 0.1
    """
    if labels and _from_file(ctx, "model"):  # the file's model is for the other commands: these labels are not its data
        model = data = None
    if labels and _from_file(ctx, "data"):
        data = None
    if data and not model:
        raise UsageError(
            "--data goes with --model", hint="labels alone are the argument: nndiag entropy-floor labels.npy"
        )

    def build(run: Run) -> Subject:
        from nndiag.load.labels import entropy_inputs, entropy_subject

        if model:
            inputs = entropy_inputs(labels, predictions, logits, curve, class_weights)
            return model_subject(run, trained, model=model, data=data, inputs=inputs)
        arguments = dict(_pair(item) for item in trained.optimizer_arg)
        training = Training(
            loss=trained.loss, optimizer=trained.optimizer, optimizer_args=arguments, lr=trained.lr,
            batch_size=trained.batch_size, steps=trained.steps,
        )  # fmt: skip
        return entropy_subject(
            run,
            labels,
            predictions=predictions,
            logits=logits,
            curve=curve,
            class_weights=class_weights,
            training=training,
        )

    execute(
        "entropy-floor",
        shared,
        build,
        uses_torch=bool(model) or bool(shared.train),
        classes=classes,
        label_smoothing=label_smoothing,
        smoothing_style=smoothing_style,
        temperature=temperature,
        ignore_index=ignore_index,
        units=units,
        tail=tail,
    )


def _from_file(ctx: typer.Context, name: str) -> bool:
    """Whether an option's value comes from the configuration file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def _pair(item: str) -> tuple[str, object]:
    """One K=V, its value read as Python would."""
    import ast

    name, _, text = item.partition("=")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text
