"""The nndiag command: six questions, and what surrounds them."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
import typer.main

from nndiag import __version__
from nndiag.cli.commands import (
    demo,
    dropout,
    embedding_cost,
    entropy_floor,
    env,
    everything,
    init,
    init_symmetry,
    multigpu_lr,
    normalization,
    rules,
    stored,
)
from nndiag.cli.examples import epilog
from nndiag.cli.failures import explain
from nndiag.cli.options import expanded
from nndiag.cli.streams import ReaderLeftError, ended_by_torchrun, put, say_error
from nndiag.core.errors import UsageError

MORE = "More"
INTERRUPTED, READER_LEFT, TERMINATED = 130, 141, 143
RUNS_OTHERS = ("all", "demo")

app = typer.Typer(
    name="nndiag",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Finds training pathologies in neural networks before they cost a week of GPU time.\n\n"
        "MODEL is file.py:attr, pkg.mod:attr (your code is run), a Hugging Face folder or a checkpoint. "
        "Each command prints a report on stdout and talks on stderr. 'nndiag COMMAND --help' shows an example."
    ),
    epilog=(
        "Examples:\n\n"
        "  nndiag check-dropout models.py:build data.py:loader\n\n"
        "  nndiag check-normalization models.py:build train.npz --serve serve.npz\n\n"
        "  nndiag entropy-floor labels.npy --curve run.csv:train_loss\n\n"
        "  nndiag embedding-cost --vocab 2000000 --dim 64 --optimizer adam\n\n"
        "  nndiag init-symmetry model.keras\n\n"
        "  nndiag multigpu-lr accelerate.yaml --base-lr 3e-4 --base-batch 32\n\n"
        "  nndiag init; nndiag all -o html:report.html\n\n"
        "Exit codes: 0 clean, 1 findings, 2 usage, 3 could not load or run, 4 nothing applicable."
    ),
)


def _print_version(value: bool) -> None:
    if value:
        put(f"nndiag {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Six questions about a training run."""


CHECKS = (
    ("check-dropout", dropout.check_dropout),
    ("check-normalization", normalization.check_normalization),
    ("entropy-floor", entropy_floor.entropy_floor),
    ("embedding-cost", embedding_cost.embedding_cost),
    ("init-symmetry", init_symmetry.init_symmetry),
    ("multigpu-lr", multigpu_lr.multigpu_lr),
)
for _name, _command in CHECKS:
    app.command(_name, rich_help_panel="Checks", epilog=epilog(_name))(expanded(_command))
app.command("all", rich_help_panel="Checks", epilog=epilog("all"))(expanded(everything.everything))
app.command("demo", rich_help_panel=MORE)(expanded(demo.demo))
app.command("init", rich_help_panel=MORE)(init.init)
app.command("report", rich_help_panel=MORE)(expanded(stored.report))
app.command("rules", rich_help_panel=MORE)(rules.rules)
app.command("rule", rich_help_panel=MORE)(rules.rule)
app.command("env", rich_help_panel=MORE)(env.env)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises, never prints a traceback without --debug."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    _end_cleanly_on_sigterm()
    try:
        command: Any = typer.main.get_command(_only(arguments))
        code = command.main(args=arguments, prog_name="nndiag", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderLeftError):
        _stop_writing()
        return READER_LEFT
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    except Exception as error:  # noqa: BLE001 - the one broad except
        if hasattr(error, "format_message"):  # Click's own usage errors
            return _usage(error)
        return explain(error, debug=debug)
    return code if isinstance(code, int) else 0


def _only(arguments: Sequence[str]) -> typer.Typer:
    """The app with the one command that is called: Typer builds what every option accepts, for each command it has."""
    called = [command for command in app.registered_commands if arguments and command.name == arguments[0]]
    if not called or arguments[0] in RUNS_OTHERS:
        return app
    small = copy.copy(app)
    small.registered_commands = called
    return small


def _usage(error: Any) -> int:
    possibilities = list(getattr(error, "possibilities", None) or [])
    message = error.message if possibilities else error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "nndiag"
    message, _, guess = str(message).partition(" Did you mean ")  # Click says it for commands, we say it as the hint
    if guess:
        possibilities = [guess.strip(" '?")]
    hint = f"did you mean '{possibilities[0]}'?" if possibilities else f"see '{command} --help'"
    if not str(message).strip():  # no arguments at all: Click has printed the help
        typer.echo(context.get_help() if context else "", err=True)
        return UsageError.exit_code
    say_error(str(message), hint)
    return UsageError.exit_code


def _end_cleanly_on_sigterm() -> None:
    def stop(_number: int, _frame: Any) -> None:
        told = ended_by_torchrun()
        if told:
            os.write(2, told.encode())  # not through sys.stderr: the signal may have come while that was written to
        raise SystemExit(TERMINATED)

    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, stop)


def _stop_writing() -> None:
    """Keep the interpreter from complaining about the closed pipe at its own end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
