"""What entropy-floor reads: labels, predictions for the same rows, a curve, class weights. Files in, chunks out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Run, Subject, Training
from nndiag.load.arrays import open_arrays, pick
from nndiag.load.door import STDIN, Opened, inspect, shown, split_column
from nndiag.load.tables import Table, open_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nndiag.load.chunked import Chunked

ARRAYS = ("npy", "npz", "safetensors")
TARGETS = ("y", "labels", "label", "targets", "target", "soft_labels", "q", "probs", "classes", "class")
INPUTS = ("x", "X", "inputs", "images", "features", "data")
PREDICTIONS = ("predictions", "probs", "p", "pred", "preds", "y_pred", "probabilities")
LOGITS = ("logits", "z", "scores", "predictions", "outputs", "pred")


def entropy_subject(  # noqa: PLR0913 - what the command takes, all by name
    run: Run,
    labels: str | None,
    *,
    predictions: str | None = None,
    logits: str | None = None,
    curve: str | None = None,
    class_weights: str | None = None,
    teacher: str | None = None,
    training: Training | None = None,
) -> Subject:
    """Open everything that was named and put it into a Subject; nothing is read but the curve and the weights.

    Raises:
        UsageError: Nothing to judge was named, or two things that exclude each other.
    """
    inputs = entropy_inputs(labels, predictions, logits, curve, class_weights, teacher)
    name = labels or curve or "numbers"
    return Subject(name=name, training=training or Training(), run=run, inputs=inputs)


def entropy_inputs(  # noqa: PLR0913, PLR0917 - one per file that can be named
    labels: str | None,
    predictions: str | None = None,
    logits: str | None = None,
    curve: str | None = None,
    class_weights: str | None = None,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Return the material by name: labels, x, predictions, logits, curve, class_weights, teacher."""
    if predictions and logits:
        raise UsageError("--predictions and --logits exclude each other", hint="give the logits: they are exact")
    if [labels, predictions, logits, teacher].count(STDIN) > 1:
        raise UsageError("stdin can be read once", hint="give the other one as a file")
    inputs: dict[str, Any] = {}
    if labels:
        inputs.update(_labels(labels))
    if predictions:
        inputs["predictions"] = _numbers(predictions, PREDICTIONS)
    if logits:
        inputs["logits"] = _numbers(logits, LOGITS)
    if teacher:
        if not labels:
            raise UsageError(
                "--teacher needs LABELS beside it", hint="the teacher alone: nndiag entropy-floor teacher.npy"
            )
        inputs["teacher"] = _numbers(teacher, ("teacher", *PREDICTIONS, *LOGITS))
    if curve:
        from nndiag.load.curves import load_curve

        inputs["curve"] = load_curve(curve)
    if class_weights:
        inputs["class_weights"] = _weights(class_weights)
    return inputs


def _labels(spec: str) -> Mapping[str, Any]:
    """The labels, and the inputs that the same archive holds beside them."""
    path, key = split_column(spec)
    opened = inspect(path)
    if opened.kind not in ARRAYS:
        from nndiag.load.classnames import class_names

        return {"labels": class_names(opened, key, TARGETS) or _table(opened, key, TARGETS)}
    arrays = open_arrays(path, opened)
    named = next((name for name in TARGETS if name in arrays), None)
    if key is None and named is None and len(arrays) > 1:
        key = list(arrays)[1]  # (x, y) in order, as np.savez writes them
    labels = pick(arrays, key, opened.shown, prefer=TARGETS)
    found: dict[str, Any] = {"labels": labels}
    rest = {name: array for name, array in arrays.items() if array is not labels}
    x = next((rest[name] for name in INPUTS if name in rest), None)
    x = x or next((array for array in rest.values() if array.shape[:1] == labels.shape[:1]), None)
    if x is not None and x.shape[:1] == labels.shape[:1]:
        found["x"] = x
    return found


def _numbers(spec: str, prefer: tuple[str, ...]) -> Chunked:
    """Predictions in any format."""
    path, key = split_column(spec)
    opened = inspect(path)
    if opened.kind in ARRAYS:
        return pick(open_arrays(path, opened), key, opened.shown, prefer=prefer)
    return _table(opened, key, prefer)


def _table(opened: Opened, key: str | None, prefer: tuple[str, ...]) -> Chunked:
    """Columns of a table: those named (`FILE:A,B`), one that is called like what is wanted, or all of numbers."""
    if opened.kind in ("torch", "pickle", "zip", "hdf5", "gzip", "keras"):
        raise NndiagError(
            f"'{opened.path}' is {opened.kind}, which is not read for labels",
            hint="save it as numbers: np.save('labels.npy', labels.numpy())",
        )
    table = open_table(opened.path, opened)
    if key is not None:
        return table.select([key] if key in table.columns else [part.strip() for part in key.split(",")])
    return table.select(_called(table, prefer))


def _called(table: Table, prefer: tuple[str, ...]) -> list[str] | None:
    """The one column with a telling name, if the others are not that thing's parts."""
    if not table.named or len(table.columns) < 2:
        return None
    folded = {name.strip().lower(): name for name in reversed(table.columns)}
    name = next((folded[word] for word in prefer if word in folded), None)
    others = [c for c, numeric in zip(table.columns, table.numeric, strict=True) if numeric and c != name]
    if name is None or not table.numeric[table.position(name)]:
        return None
    # "label, p0, p1, …": several columns beside it are rows of probabilities, not inputs, when they say so
    return None if len(others) > 1 and all(c.lower().startswith(("p", "q", "prob")) for c in others) else [name]


def _weights(spec: str) -> list[float]:
    """Class weights: `1,2,5`, or a file of numbers."""
    parts = spec.split(",")
    try:
        weights = [float(part) for part in parts]
    except ValueError:
        if len(parts) > 1 and not split_column(spec)[1]:
            raise UsageError(
                f"--class-weights '{shown(spec)}' is no list of numbers", hint="for example 1,2,5"
            ) from None
        weights = [
            float(value) for value in _numbers(spec, ("weights", "weight", "w", "class_weights")).whole().ravel()
        ]
    broken = next((value for value in weights if not math.isfinite(value) or value < 0), None)
    if broken is not None:
        raise UsageError(f"class weight {broken} is no weight", hint="give one number >= 0 per class")
    if not any(weights):
        raise UsageError("every class weight is zero", hint="give one number > 0 per class")
    return weights
