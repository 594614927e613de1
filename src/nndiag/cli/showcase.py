"""nndiag demo: all six questions on bundled data and small models with planted faults."""

from __future__ import annotations

from contextlib import chdir
from importlib.resources import files
from typing import Any

from nndiag.cli.execute import Request
from nndiag.cli.several import reports_of
from nndiag.core.report import Report

MODELS, DATA = "nndiag.showcase.models", "nndiag.showcase.data"
WORDS = ["--vocab", "2000000", "--dim", "64", "--batch-size", "64", "--seq-len", "32", "--optimizer", "adam"]


def run_showcase(group: Any, request: Request, fail_on: str) -> list[Report]:
    """Run the six commands, each on one planted fault."""
    shared = ["--seed", str(request.shared.seed), "--device", request.shared.device, "--fail-on", fail_on]
    with chdir(str(files("nndiag"))):  # so that the reports name the package's files the same way everywhere
        return [report for arguments in _calls() for report in reports_of(group, [*arguments, *shared], request)]


def _calls() -> list[list[str]]:
    alone = "--isolated"
    return [
        ["check-dropout", f"{MODELS}:dropout_before_batchnorm", f"{DATA}:digits", alone],
        ["check-normalization", f"{MODELS}:plain_mlp", f"{DATA}:raw_digits", "--serve", f"{DATA}:digits",
         "--lr", "0.1", "--optimizer", "sgd", alone],
        ["entropy-floor", "data/digits.npz", "--curve", "showcase/double_softmax.csv:train_loss", alone],
        ["embedding-cost", *WORDS, "--no-measure", alone],
        ["init-symmetry", f"{MODELS}:constant_start", f"{DATA}:digits", alone],
        ["multigpu-lr", "--config", "showcase/recipe.toml"],
    ]  # fmt: skip
