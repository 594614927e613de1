"""Healthy models of other people's making: no alarm, measured or not."""

import pytest

from nndiag.checks.embedding_cost import EmbeddingCost
from nndiag.core.check import diagnose
from nndiag.core.findings import Severity, Where
from nndiag.core.subject import Run, Subject, Training
from nndiag.load.sources import BuiltModel
from zoo import healthy

SPECIMENS = {specimen.name: specimen for specimen in healthy()}


class Given:
    """One batch, as a loader would give it."""

    name, synthetic = "one batch", False

    def __init__(self, batch):
        self.batch = batch

    def batches(self, size=None):
        yield self.batch


@pytest.mark.parametrize("name", SPECIMENS)
def test_healthy_models_raise_no_alarm(name):
    found = SPECIMENS[name]
    subject = Subject(
        name=name,
        model=BuiltModel(name, Where(), found.build),
        data=Given(found.batch),
        training=Training(optimizer="adamw", lr=1e-3),
        run=Run(),
    )
    report = diagnose(EmbeddingCost(measure=False), subject)
    assert not [item for item in report.findings if item.severity > Severity.NOTE]
    assert report.empty or report.checked
