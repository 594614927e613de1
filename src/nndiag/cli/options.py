"""The options that several commands share, named once.

A command asks for a group by annotating one parameter with it (`shared: Shared`); `expanded` puts the group's fields
into the command's own signature, where Typer finds them, each with its environment twin `NNDIAG_<NAME>`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from nndiag.cli.configured import Config, read_config

REPORTING, RUNNING, TRAINING = "Reporting", "Running", "Training"


def _opt(*names: str, panel: str, help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every command takes."""

    format: Annotated[
        str,
        _opt(
            "-f",
            "--format",
            panel=REPORTING,
            help="On stdout: text, concise, json, jsonl, sarif, junit, github, gitlab, md or html.",
        ),
    ] = "text"
    output: Annotated[
        list[str],
        _opt("-o", "--output", panel=REPORTING, metavar="FMT:PATH", help="Also write this file; repeatable."),
    ] = field(default_factory=list)
    select: Annotated[
        list[str], _opt(panel=REPORTING, metavar="CODES", help="Only these rules, by prefix: DRP, NRM1, ALL.")
    ] = field(default_factory=list)
    ignore: Annotated[list[str], _opt(panel=REPORTING, metavar="CODES", help="Not these rules, by prefix.")] = field(
        default_factory=list
    )
    severity: Annotated[
        list[str], _opt(panel=REPORTING, metavar="CODE=LEVEL", help="Change a rule's level; repeatable.")
    ] = field(default_factory=list)
    fail_on: Annotated[str, _opt(panel=REPORTING, help="Exit 1 from this level on: error, warning, note or never.")] = (
        "error"
    )
    baseline: Annotated[
        Path | None, _opt(panel=REPORTING, help="Stay quiet about what this file holds, if equal or better.")
    ] = None
    write_baseline: Annotated[
        Path | None, _opt(panel=REPORTING, help="Write today's findings as a baseline and exit 0.")
    ] = None
    show_suppressed: Annotated[
        bool, _opt("--show-suppressed", panel=REPORTING, help="Print accepted findings as well.")
    ] = False
    allow_empty: Annotated[
        bool, _opt("--allow-empty", panel=REPORTING, help="Exit 0, not 4, when nothing applies.")
    ] = False
    isolated: Annotated[bool, _opt("--isolated", panel=RUNNING, is_eager=True, help="Read no configuration file.")] = (
        False
    )
    config: Annotated[
        Any,
        _opt(
            panel=RUNNING,
            metavar="PATH",
            is_eager=True,
            callback=read_config,
            parser=str,
            help="Instead of the nearest nndiag.toml or pyproject.toml.",
        ),
    ] = None
    seed: Annotated[int, _opt(panel=RUNNING, help="Every experiment derives from it.")] = 0
    device: Annotated[str, _opt(panel=RUNNING, help="Any torch device; auto takes a GPU where there is one.")] = "auto"
    max_seconds: Annotated[float, _opt(panel=RUNNING, min=0.0, help="Budget for experiments.")] = 60.0
    train: Annotated[
        bool | None,
        _opt("--train/--no-train", panel=RUNNING, help="Run or leave out micro-training (2xx rules)."),
    ] = None
    trust: Annotated[
        bool,
        _opt("--trust", panel=RUNNING, help="Unlock pickled modules, Keras Lambda layers and remote code."),
    ] = False
    quiet: Annotated[bool, _opt("-q", "--quiet", panel=RUNNING, help="Findings and verdict only.")] = False
    verbose: Annotated[int, _opt("-v", "--verbose", panel=RUNNING, count=True, help="All tables and numbers.")] = 0
    color: Annotated[str, _opt(panel=RUNNING, help="auto, always or never.")] = "auto"
    width: Annotated[int | None, _opt(panel=RUNNING, min=40, help="Columns of the text report.")] = None
    no_progress: Annotated[bool, _opt("--no-progress", panel=RUNNING, help="No progress on stderr.")] = False
    debug: Annotated[bool, _opt("--debug", panel=RUNNING, help="Full traceback on errors.")] = False

    @property
    def settings(self) -> Config:
        """The configuration that was found; an empty one with --isolated."""
        return self.config if isinstance(self.config, Config) else Config()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How the user trains, for the commands that load his model."""

    model_arg: Annotated[
        list[str], _opt(panel=TRAINING, metavar="K=V", help="Argument for the model's factory; repeatable.")
    ] = field(default_factory=list)
    weights: Annotated[
        Path | None, _opt(panel=TRAINING, metavar="CHECKPOINT", help="Weights to load into the model.")
    ] = None
    target: Annotated[
        str | None, _opt(panel=TRAINING, metavar="COLUMN", help="In tables: the column that holds the targets.")
    ] = None
    loss: Annotated[
        str, _opt(panel=TRAINING, help="auto, cross_entropy, bce, mse or file.py:fn(outputs, targets).")
    ] = "auto"
    optimizer: Annotated[str | None, _opt(panel=TRAINING, help="sgd, adam, adamw, … or file.py:fn(parameters).")] = None
    optimizer_arg: Annotated[
        list[str], _opt(panel=TRAINING, metavar="K=V", help="Such as weight_decay=0.1; repeatable.")
    ] = field(default_factory=list)
    lr: Annotated[float | None, _opt(panel=TRAINING, help="Learning rate.")] = None
    batch_size: Annotated[int | None, _opt(panel=TRAINING, min=1, help="Rows in a batch.")] = None
    steps: Annotated[int | None, _opt(panel=TRAINING, min=0, help="Steps of micro-training.")] = None


GROUPS = (Shared, Trained)


def expanded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace parameters annotated with an option group by that group's fields."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.annotation not in GROUPS]
    asked = {p.name: p.annotation for p in signature.parameters.values() if p.annotation in GROUPS}
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    for group in asked.values():
        hints = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=_default(item), annotation=hints[item.name]
            )
            for item in fields(group)
        ]
    for parameter in parameters:
        _give_environment_twin(parameter)

    def run(**given: Any) -> Any:
        groups = {
            name: group(**{item.name: given.pop(item.name) for item in fields(group)}) for name, group in asked.items()
        }
        return command(**given, **groups)

    functools.update_wrapper(run, command)
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del vars(run)["__wrapped__"]  # inspect would look behind us
    return run


def _default(item: Any) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _give_environment_twin(parameter: inspect.Parameter) -> None:
    for extra in get_args(parameter.annotation)[1:]:
        if isinstance(extra, typer.models.OptionInfo) and extra.envvar is None:
            extra.envvar = f"NNDIAG_{parameter.name.upper()}"
            extra.show_envvar = False
