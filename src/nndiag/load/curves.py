"""Loss curves from the logs that trainers write: CSV, JSON lines, trainer_state.json, TensorBoard events, prints."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError
from nndiag.load.arrays import open_arrays, pick
from nndiag.load.csvfile import digits, is_missing, sniff_csv, split
from nndiag.load.door import STDIN, Opened, inspect, missing_column, require, shown, split_column, text_lines
from nndiag.load.jsonfile import read_document, records
from nndiag.load.printed import printed_losses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# in this order, where no column is named: training losses before validation losses
LOSSES = (
    "train_loss", "loss", "training_loss", "train/loss", "loss/train", "train_loss_step", "train_loss_epoch",
    "train-loss",
    "cross_entropy", "ce", "nll", "nll_loss", "perplexity", "ppl", "val_loss", "eval_loss", "test_loss",
)  # fmt: skip
STEPS = ("step", "global_step", "iteration", "iter", "steps", "update", "epoch", "batch")
_PUNCTUATION = re.compile(r"[^a-z0-9]+")
_EXTREMES = ("__MIN", "__MAX")  # beside every column of a Weights & Biases export
_UNITS = (
    ("perplexity", re.compile(r"ppl|perplexity", re.IGNORECASE)),
    ("bits", re.compile(r"(^|[^a-z])(bits?|bpc|bpb|bpd|bpt)([^a-z]|$)", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Curve:
    """One logged loss, without gaps and finite."""

    name: str  # "run.csv:train_loss"
    steps: NDArray[Any]
    values: NDArray[Any]
    rounding: float  # half a unit of the last digit that was written
    unit: str = ""  # "bits" or "perplexity", where the name says so
    step_name: str = "step"


@dataclass(frozen=True)
class _Cell:
    """One logged value as it was written."""

    line: int
    step: float
    value: float
    text: str


def load_curve(spec: str) -> Curve:
    """Read `FILE[:COLUMN]`.

    Raises:
        UsageError: No such file or column; the columns that exist are listed.
        NndiagError: Fewer than two values, or a value that is not finite.
    """
    path, column = split_column(spec)
    if path != STDIN and Path(path).is_dir():
        return _from_events(path, column)
    opened = inspect(path)
    if opened.kind == "events":
        return _from_events(path, column)
    if opened.kind in ("npy", "npz", "safetensors"):
        return _from_array(opened, column)
    if printed := printed_losses(opened):
        names, cells = _from_print(printed, column, opened.shown)
    elif opened.kind == "json":
        names, cells = _from_json(opened, column)
    elif opened.kind == "text":
        names, cells = _from_csv(opened, column)
    else:
        raise NndiagError(
            f"{opened.shown} is {opened.kind}, not a log", hint="give CSV, JSON lines or TensorBoard events"
        )
    return _curve(opened.shown, names, list(cells))


def _curve(place: str, names: tuple[str, str], cells: Sequence[_Cell]) -> Curve:
    """Check the values and make the record."""
    import numpy as np

    column, step_name = names
    name = f"{place}:{shown(column)}" if column else place
    if len(cells) < 2:
        raise NndiagError(
            f"{name} holds {len(cells)} value{'' if len(cells) == 1 else 's'}", hint="a curve needs at least two points"
        )
    broken = next((cell for cell in cells if not math.isfinite(cell.value)), None)
    if broken is not None:
        raise NndiagError(
            f"{name} is {broken.value} at line {broken.line}",
            hint="the run diverged or a step overflowed there; cut the log before that line to judge the rest",
        )
    places = digits([cell.text for cell in islice(cells, 0, None, max(len(cells) // 200, 1))])
    whole = all(cell.text.strip().lstrip("+-").isdigit() for cell in cells if cell.text)
    rounding = 0.5 * 10.0**-places if places is not None else (0.5 if whole and cells[0].text else 0.0)
    unit = next((unit for unit, pattern in _UNITS if pattern.search(column)), "")
    steps = np.array([cell.step for cell in cells])
    return Curve(name, steps, np.array([cell.value for cell in cells]), rounding, unit, step_name)


def _plainly(name: str) -> str:
    """A column's name without case, spaces, the run that Weights & Biases put in front, and punctuation."""
    return _PUNCTUATION.sub("_", name.rpartition(" - ")[2].strip().lower()).strip("_")


def _choose(column: str | None, known: Sequence[str], place: str) -> str:
    """The column that is meant."""
    folded = {name.strip().lower(): name for name in reversed(known)}
    if column is not None:
        if column in known or column.lower() in folded:
            return column if column in known else folded[column.lower()]
        raise missing_column(column, known, place)
    named = [name for name in known if not name.endswith(_EXTREMES)]
    plain = {_plainly(name): name for name in reversed(named)}
    for name in map(_plainly, LOSSES):
        if name in plain and sum(_plainly(other) == name for other in named) == 1:
            return plain[name]
    aside = {*STEPS, "", "time", "wall_time", "relative_time_process", "lr", "learning_rate"}
    rest = [name for name in named if _plainly(name) not in aside]
    if len(rest) == 1:
        return rest[0]
    losses = [name for name in rest if "loss" in name.lower()]
    if len(losses) == 1:
        return losses[0]
    listed = ", ".join(map(shown, known[:12]))
    raise UsageError(f"which column of {place} is the loss?", hint=f"name it as FILE:COLUMN; it has {listed}")


def _step_of(known: Sequence[str], column: str) -> str:
    folded = {_plainly(name): name for name in reversed(known)}
    return next((folded[name] for name in STEPS if name in folded and folded[name] != column), "")


def _from_csv(opened: Opened, column: str | None) -> tuple[tuple[str, str], Iterator[_Cell]]:
    layout, _ = sniff_csv(opened)
    if layout.named:
        name = _choose(column, layout.columns, opened.shown)
        step = _step_of(layout.columns, name)
    else:
        numeric = [layout.columns[i] for i, is_numeric in enumerate(layout.numeric) if is_numeric]
        name, step = column or numeric[-1], ""
        if name not in layout.columns:
            raise missing_column(name, layout.columns, opened.shown)
    at = layout.columns.index(name)
    step_at = layout.columns.index(step) if step else -1

    def cells() -> Iterator[_Cell]:
        for number, line in enumerate(text_lines(opened, layout.lines), start=1):
            if number <= layout.skip or not line.strip() or line.startswith("#"):
                continue
            row = split(line.rstrip("\r\n"), layout.delimiter)
            if at >= len(row) or is_missing(row[at]):
                continue  # loggers leave the cells of other metrics empty
            x = row[step_at] if 0 <= step_at < len(row) else ""
            yield _cell(number, x, row[at], f"line {number} of {opened.shown}, column '{shown(name)}'")

    return (name if layout.named else "", step or "row"), cells()


def _from_print(
    printed: dict[str, list[tuple[int, str, str]]], column: str | None, place: str
) -> tuple[tuple[str, str], Iterator[_Cell]]:
    """What a script printed; its steps where they rise from line to line."""
    name = _choose(column, list(printed), place)
    rows = printed[name]
    steps = [int(step) for _, step, _ in rows if step]
    rising = len(steps) == len(rows) and all(a < b for a, b in itertools.pairwise(steps))
    cells = (
        _cell(line, step if rising else "", value, f"line {line} of {place}, '{shown(name)}'")
        for line, step, value in rows
    )
    return (name, "step" if rising else "line"), cells


def _cell(number: int, step: Any, value: Any, place: str) -> _Cell:
    """One value, or what is wrong with it."""
    try:
        x = float(step) if step not in ("", None) else float(number)
    except (TypeError, ValueError):
        x = float(number)
    try:
        return _Cell(number, x, float(value), value if isinstance(value, str) else repr(value))
    except (TypeError, ValueError, OverflowError) as text:
        raise NndiagError(f"{place}: '{shown(str(value), 30)}' is no number", hint="name a column of numbers") from text


def _from_json(opened: Opened, column: str | None) -> tuple[tuple[str, str], Iterator[_Cell]]:
    """JSON lines, a list of records, `{"log_history": [...]}` of Hugging Face, or `{"loss": [...]}` of Keras."""
    document = read_document(opened.path)
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        rows = [entry for entry in document["log_history"] if isinstance(entry, dict)]
    elif isinstance(document, dict) and any(isinstance(value, list) for value in document.values()):
        lists = {key: value for key, value in document.items() if isinstance(value, list)}
        name = _choose(column, list(lists), opened.shown)
        return (name, "epoch"), _plain(lists[name], f"'{shown(name)}' of {opened.shown}")
    elif isinstance(document, dict):
        rows = [document]
    elif isinstance(document, list):
        if all(not isinstance(entry, dict) for entry in document):
            return ("", "row"), _plain(document, opened.shown)
        rows = [entry for entry in document if isinstance(entry, dict)]
    else:
        values = [value for _, value in records(opened)]
        if not any(isinstance(value, dict) for value in values):
            return ("", "row"), _plain(values, opened.shown)
        rows = [value for value in values if isinstance(value, dict)]
    written = Counter(str(key) for row in rows for key, value in row.items() if value is not None)
    # what was written once is a summary: the Trainer ends its log with the mean of the run as "train_loss"
    curves = [key for key, count in written.items() if count > 1 or column is not None]
    name = _choose(column, curves or list(written), opened.shown)
    known = list(written)
    step = _step_of(known, name)
    named = (
        _cell(number, row.get(step), row[name], f"entry {number} of {opened.shown}, '{shown(name)}'")
        for number, row in enumerate(rows, start=1)
        if row.get(name) is not None
    )
    return (name, step or "row"), named


def _plain(values: Sequence[Any], place: str) -> Iterator[_Cell]:
    """A bare list of numbers."""
    return (_cell(i, None, value, f"entry {i} of {place}") for i, value in enumerate(values, start=1))


def _from_array(opened: Opened, column: str | None) -> Curve:
    """A saved array of losses."""
    import numpy as np

    source = pick(open_arrays(opened.path, opened), column, opened.shown, prefer=LOSSES)
    values = np.asarray(source.whole(), dtype=np.float64).ravel()
    cells = [_Cell(i, float(i), float(value), "") for i, value in enumerate(values, start=1)]
    return _curve(source.name, ("", "row"), cells)


def _from_events(path: str, column: str | None) -> Curve:
    """TensorBoard events, written as scalars or, by TF2, as tensors."""
    if Path(path).is_dir() and not any(Path(path).glob("*tfevents*")):
        raise NndiagError(f"'{path}' is a directory without TensorBoard events", hint="name a log file")
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = require(module, "tb", "reading TensorBoard events").EventAccumulator(
        path, size_guidance={"scalars": 0, "tensors": 0}
    )
    try:
        accumulator.Reload()
        tags = accumulator.Tags()
        known = [*tags["scalars"], *tags["tensors"]]
        if not known:
            raise NndiagError(f"'{path}' holds no scalars", hint="was the run logged with add_scalar?")
        name = _choose(column, known, path)
        if name in tags["scalars"]:
            points = [(event.step, event.value) for event in accumulator.Scalars(name)]
        else:
            make = require("tensorboard.util.tensor_util", "tb", "reading TensorBoard events").make_ndarray
            points = [(event.step, float(make(event.tensor_proto))) for event in accumulator.Tensors(name)]
    except (TypeError, ValueError, OSError) as broken:
        said = shown(str(broken).splitlines()[0])
        raise NndiagError(f"'{path}' cannot be read: {said}", hint="name a scalar as FILE:TAG") from broken
    cells = [_Cell(i, float(step), float(value), "") for i, (step, value) in enumerate(points, start=1)]
    return _curve(path, (name, "step"), cells)
