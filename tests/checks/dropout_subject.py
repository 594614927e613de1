"""A subject for check-dropout from a factory and a batch."""

from dataclasses import dataclass, field
from typing import Any

import torch

from nndiag.checks.dropout import CheckDropout
from nndiag.core.check import diagnose
from nndiag.core.findings import Where
from nndiag.core.subject import Batch, Run, Subject, Training


@dataclass
class Factory:
    build: Any
    name: str = "model"
    where: Where = field(default_factory=Where)

    def make(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build()


@dataclass
class OneBatch:
    batch: Batch
    name: str = "batch"
    synthetic: bool = False

    def batches(self, size=None):
        yield self.batch


def examine(build, x, y=None, *, empty=False, train=None, masks=16, seconds=60.0, **training):
    """Run the check."""
    subject = Subject(
        "model",
        Factory(build),
        OneBatch(Batch(x, y)),
        training=Training(**training),
        run=Run(train=train, max_seconds=seconds),
    )
    return diagnose(CheckDropout(masks=masks), subject)


def codes(report):
    """The codes that were found."""
    return {finding.rule.code for finding in report.findings}
