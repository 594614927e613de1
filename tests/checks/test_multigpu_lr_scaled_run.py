"""Training loss and held-out accuracy are on different data: MGL010 speaks where one moves without the other."""

from __future__ import annotations

import pytest

from nndiag.checks.multigpu_lr.scaled_run import two_scales
from nndiag.checks.multigpu_lr.trials import Outcome
from nndiag.core.findings import Finding, Judged, Skip

START = 2.0  # loss of fresh weights; one device ends at 1.0, a gain of 1


def outcome(loss, accuracy, spread=0.01):
    return Outcome(
        tuple(loss + spread * i for i in (-1, 0, 1)),
        (1.0, 1.0, 1.0),
        tuple(accuracy + spread / 10 * i for i in (-1, 0, 1)) if accuracy is not None else (),
        (),
    )


@pytest.mark.parametrize(
    ("loss", "accuracy", "noted"),
    [
        (1.0, 0.80, False),  # neither moves
        (1.5, 0.70, False),  # worse in both
        (0.7, 0.85, False),  # better in both
        (1.5, 0.80, True),  # the loss alone: half of what was learned
        (1.0, 0.75, True),  # five points, and the loss says nothing
        (0.7, 0.75, True),  # a better loss beside a worse accuracy
        (1.1, 0.75, False),  # both worse, the loss by less than is asked
    ],
)
def test_a_loss_that_moves_without_the_accuracy_is_noted(loss, accuracy, noted):
    seen = list(two_scales(outcome(1.0, 0.80), outcome(loss, accuracy), START))
    assert [item.rule.code for item in seen if isinstance(item, Finding)] == ["MGL010"] * noted
    assert any(isinstance(item, Judged) for item in seen)


def test_differences_inside_the_spread_of_seeds_are_none():
    wide = outcome(1.5, 0.80, spread=0.5)
    assert not [item for item in two_scales(outcome(1.0, 0.80), wide, START) if isinstance(item, Finding)]


def test_without_class_ids_there_is_no_accuracy_to_compare():
    seen = list(two_scales(outcome(1.0, None), outcome(1.5, None), START))
    assert [type(item) for item in seen] == [Skip]
