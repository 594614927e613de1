"""The six questions from Python: objects in, a `Report` out. Nothing the user passes is changed.

```python
import nndiag

report = nndiag.check_dropout(model, (x, y))
report.raise_for_findings("error")
```

Every function takes the check's own thresholds, and the settings that all share, by keyword: `seed`, `device`,
`max_seconds`, `train`, `select`, `ignore`, `severity`, `fail_on`, `loss`, `optimizer`, `optimizer_args`, `lr`,
`batch_size`, `steps`, `weights`, `on_step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from nndiag.core.errors import UsageError
from nndiag.core.report import Report
from nndiag.core.subject import Training
from nndiag.render.notebook import in_console, in_frame
from nndiag.settings import Codes, wishes_of

INVENTS = ("check-dropout", "init-symmetry")  # inputs, where no data is given


def check_dropout(model: Any, data: Any = None, **settings: Any) -> Report:
    """Does dropout's 1/(1-p) survive the layers that follow it?

    Args:
        model: A torch module, a function that builds one, or what the command line takes as MODEL.
        data: A tensor, `(inputs, targets)`, Dataset, DataLoader, iterable of batches, or DATA of the command line.
            Without it inputs are invented.
        **settings: `masks`, `max_variance_ratio`, and what all commands share.

    Returns:
        The report.

    Raises:
        UsageError: A setting is unknown or impossible.
        NndiagError: The model could not be built or run; it says nothing about its health.
    """
    return _run("check-dropout", settings, model=model, data=data)


def check_normalization(model: Any = None, data: Any = None, *, serve: Any = None, **settings: Any) -> Report:
    """Are the inputs fit to be trained on, the same in serving, and does normalising them change the training?

    Args:
        model: As in `check_dropout`; None looks at the data alone.
        data: What the model is trained on.
        serve: What it is fed in production.
        **settings: `feature_axis`, and what all commands share.

    Returns:
        The report.
    """
    if data is None and model is not None and not _looks_like_model(model):
        model, data = None, model  # as the command line: DATA alone
    if data is None:
        raise UsageError("no data to look at", hint="check_normalization(model, data), or data alone")
    return _run("check-normalization", settings, model=model, data=data, serve=serve)


def entropy_floor(  # noqa: PLR0913 - the materials, all by name
    labels: Any = None,
    *,
    predictions: Any = None,
    logits: Any = None,
    curve: Any = None,
    class_weights: Any = None,
    teacher: Any = None,
    model: Any = None,
    data: Any = None,
    **settings: Any,
) -> Report:
    """With these labels, how low can the loss go, and can float32 still see the rest of the way?

    Args:
        labels: Class ids, rows of probabilities, token ids, or a file.
        predictions: Probabilities for the same rows.
        logits: Logits for the same rows.
        curve: The loss as it was logged: numbers, or FILE:COLUMN.
        class_weights: One weight per class.
        teacher: Its probabilities or logits for the same rows, where the loss distils and keeps the labels.
        model: For the measured rules.
        data: For the measured rules.
        **settings: `classes`, `label_smoothing`, `temperature`, `ignore_index`, … and what all commands share.

    Returns:
        The report.
    """
    from nndiag.load.memory import array_of, curve_of, numbers_of

    materials = {"labels": labels, "predictions": predictions, "logits": logits, "teacher": teacher}
    inputs: dict[str, Any] = {key: array_of(value, key) for key, value in materials.items() if value is not None}
    if curve is not None:
        inputs["curve"] = curve_of(curve)
    if class_weights is not None:
        inputs["class_weights"] = numbers_of(class_weights)
    name = labels if isinstance(labels, str) else "labels" if labels is not None else "loss"
    return _run("entropy-floor", settings, model=model, data=data, inputs=inputs, name=name)


def embedding_cost(model: Any = None, data: Any = None, *, tokens: Any = None, **settings: Any) -> Report:
    """Why does a large trainable embedding slow training, and what would each cure give?

    Args:
        model: As in `check_dropout`; None computes from `vocab` and `dim`.
        data: Batches of ids.
        tokens: Ids of the corpus: an array, or a file.
        **settings: `vocab`, `dim`, `seq_len`, `dtype`, `memory`, … and what all commands share.

    Returns:
        The report.
    """
    from nndiag.load.memory import tokens_of

    inputs = {} if tokens is None else {"tokens": tokens_of(tokens)}
    return _run("embedding-cost", settings, model=model, data=data, inputs=inputs, name="table")


def init_symmetry(model: Any, data: Any = None, **settings: Any) -> Report:
    """Do the units of each layer start different, and does training tell them apart?

    Args:
        model: As in `check_dropout`, or a state dict.
        data: As in `check_dropout`.
        **settings: `tolerance`, `layers`, and what all commands share.

    Returns:
        The report.
    """
    return _run("init-symmetry", settings, model=model, data=data)


def multigpu_lr(model: Any = None, data: Any = None, *, config: Codes = (), **recipe: Any) -> Report:
    """After going from one device to N: is it still the recipe that was tuned?

    Args:
        model: For the measured rules; None judges the recipe by arithmetic.
        data: For the measured rules.
        config: Files of Accelerate, DeepSpeed, Lightning or Hugging Face.
        **recipe: Keys of [multigpu-lr] with underscores: `gpus`, `per_device_batch`, `base_lr`, `base_batch`,
            `schedule={"name": "cosine", "total_steps": 10000}` …, thresholds, and what all commands share.

    Returns:
        The report.
    """
    from nndiag.load.recipe import OPTIONS, TABLE_KEYS, load_recipe

    known = {key.replace("-", "_") for key in (*OPTIONS, *TABLE_KEYS)} - {"model", "data", "ranks", "lr", "optimizer"}
    table = {key.replace("_", "-"): recipe.pop(key) for key in sorted(known & set(recipe))}
    training = {key: recipe[key] for key in ("lr", "optimizer", "optimizer_args") if recipe.get(key) is not None}
    files = [config] if isinstance(config, str) else [str(item) for item in config]
    inputs = {"recipe": load_recipe(files, {}, table, Training(**training))}
    name = " ".join(files) or "recipe"
    return _run("multigpu-lr", recipe, model=model, data=data, inputs=inputs, name=name, also=known)


def _run(  # noqa: PLR0913 - the parts of a subject, all by name
    command: str,
    settings: Mapping[str, Any],
    *,
    model: Any = None,
    data: Any = None,
    serve: Any = None,
    inputs: Mapping[str, Any] | None = None,
    name: str = "",
    also: Iterable[str] = (),
) -> Report:
    """Assemble the subject, run the check, and let the source's own comments speak."""
    from nndiag.checks import make
    from nndiag.core.check import diagnose
    from nndiag.load.subject import load_subject
    from nndiag.load.suppress import with_comments

    wishes = wishes_of(command, settings, also, uses_torch=model is not None)
    check = make(command, **wishes.own)
    with _untouched(model is not None or data is not None):
        subject = load_subject(
            model,
            data,
            serve=serve,
            weights=wishes.weights,
            run=wishes.run,
            inputs=inputs,
            need_data=command in INVENTS,
            **wishes.training,
        )
        if name and model is None:
            subject = replace(subject, name=name)
        report = diagnose(check, subject, wishes.policy, on_step=wishes.on_step)
    return with_comments(_with_versions(report), wishes.policy)


def _untouched(live: bool) -> AbstractContextManager[None]:
    """Give back the random state: the user's code runs while his objects are looked at."""
    if not live:
        return nullcontext()
    from nndiag.lab.borrow import seeded

    return seeded(0)


def _looks_like_model(thing: Any) -> bool:
    """Whether the first argument is a model rather than data: only `check_normalization` takes data alone."""
    if isinstance(thing, str):
        return thing.endswith((".pt", ".pth", ".ckpt", ".keras", ".pt2")) or ".py:" in thing
    if hasattr(thing, "named_parameters"):
        return True
    kinds = (Mapping, list, tuple)
    return not (isinstance(thing, kinds) or hasattr(thing, "shape") or hasattr(thing, "__iter__"))


def _with_versions(report: Report) -> Report:
    import platform
    import sys

    torch = sys.modules.get("torch")
    found = {"python": platform.python_version()} | ({"torch": str(torch.__version__)} if torch else {})
    return replace(report, run=replace(report.run, versions={**found, **report.run.versions}))


# Reports show themselves in notebooks and rich consoles; core itself knows no renderer.
for _name, _shown in (("_repr_html_", in_frame), ("__rich__", in_console)):
    setattr(Report, _name, _shown)
