"""nndiag entropy-floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nndiag.cli.execute import execute
from nndiag.cli.options import Shared, Trained
from nndiag.cli.subjects import model_subject
from nndiag.core.errors import UsageError
from nndiag.core.subject import Run, Subject, Training

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "FILE[:COLUMN]"

Labels = Annotated[
    str | None,
    typer.Argument(
        metavar="LABELS",
        help="Class ids or names, or rows of probabilities: npy, npz, csv, parquet, jsonl, or - for stdin.",
    ),
]
Predictions = Annotated[
    str | None, typer.Option(metavar=FILE, help="Probabilities for the same rows, e.g. --predictions p.npy")
]
Logits = Annotated[
    str | None, typer.Option(metavar=FILE, help="Logits for the same rows: exact KL, e.g. --logits z.npy")
]
Curve = Annotated[
    str | None, typer.Option(metavar=FILE, help="A loss curve, e.g. --curve run.csv:train_loss or trainer_state.json")
]
Classes = Annotated[int | None, typer.Option(help="Number of classes, where ids do not show it, e.g. 1000")]
Smoothing = Annotated[float | None, typer.Option(help="Smoothing of the loss, e.g. 0.1")]
Style = Annotated[str | None, typer.Option(help="torch: ε/C on every class; fairseq: ε/(C-1) on the wrong ones.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="LIST|FILE", help="Weights of the loss, e.g. 1,2,5 or weights.npy; with bce, its pos_weight"),
]
Temperature = Annotated[
    float | None, typer.Option(help="Distillation: labels become q^(1/T), the loss T² times as large, e.g. 4")
]
Teacher = Annotated[
    str | None,
    typer.Option(metavar=FILE, help="A teacher's probabilities or logits: alpha CE + (1-alpha) T² KL, e.g. t.npy"),
]
Alpha = Annotated[float | None, typer.Option(help="Weight of the labels beside --teacher, e.g. 0.1")]
IgnoreIndex = Annotated[int | None, typer.Option(help="Ids that the loss leaves out, e.g. -1 (default -100)")]
Units = Annotated[str | None, typer.Option(help="What the curve is in: nats or bits.")]
TailShare = Annotated[str | None, typer.Option(help="How much of the curve's end counts, e.g. 10% or 50")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="file.py:attr: its logits on --data are judged.")
]
Data = Annotated[str | None, typer.Option("--data", metavar="DATA", help="(inputs, labels) for --model.")]


def entropy_floor(
    ctx: typer.Context,
    labels: Labels = None,
    predictions: Predictions = None,
    logits: Logits = None,
    curve: Curve = None,
    classes: Classes = None,
    label_smoothing: Smoothing = None,
    smoothing_style: Style = None,
    class_weights: Weights = None,
    temperature: Temperature = None,
    teacher: Teacher = None,
    alpha: Alpha = None,
    ignore_index: IgnoreIndex = None,
    units: Units = None,
    tail: TailShare = None,
    model: Model = None,
    data: Data = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """With these labels, how low can the loss go, and can float32 still see the rest of the way?

    Example: nndiag entropy-floor labels.npy --curve run.csv:train_loss --label-smoothing 0.1
    """
    model, data = _of_these_labels(ctx, labels, model, data)
    if alpha is not None and not teacher:
        raise UsageError("--alpha goes with --teacher", hint="it weighs the labels against the teacher's answers")
    files = (labels, predictions, logits, curve, class_weights, teacher)
    execute(
        "entropy-floor",
        shared,
        _builder(files, trained, model, data),
        uses_torch=bool(model) or bool(shared.train),
        classes=classes,
        label_smoothing=label_smoothing,
        smoothing_style=smoothing_style,
        temperature=temperature,
        alpha=alpha,
        ignore_index=ignore_index,
        units=units,
        tail=tail,
    )


def _of_these_labels(
    ctx: typer.Context, labels: str | None, model: str | None, data: str | None
) -> tuple[str | None, str | None]:
    """Return model and data; the configuration's are for the other commands where labels are given."""
    if labels and _from_file(ctx, "model"):
        model = data = None
    if labels and _from_file(ctx, "data"):
        data = None
    if data and not model:
        raise UsageError(
            "--data goes with --model", hint="labels alone are the argument: nndiag entropy-floor labels.npy"
        )
    return model, data


def _builder(
    files: tuple[str | None, ...], trained: Trained, model: str | None, data: str | None
) -> Callable[[Run], Subject]:
    """What opens the files and makes the subject, once the device is known."""

    def build(run: Run) -> Subject:
        from nndiag.load.labels import entropy_inputs, entropy_subject

        if model:
            return model_subject(run, trained, model=model, data=data, inputs=entropy_inputs(*files))
        training = Training(
            loss=trained.loss,
            optimizer=trained.optimizer,
            optimizer_args=dict(_pair(item) for item in trained.optimizer_arg),
            lr=trained.lr,
            batch_size=trained.batch_size,
            steps=trained.steps,
        )
        labels, predictions, logits, curve, class_weights, teacher = files
        return entropy_subject(
            run,
            labels,
            predictions=predictions,
            logits=logits,
            curve=curve,
            class_weights=class_weights,
            teacher=teacher,
            training=training,
        )

    return build


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
