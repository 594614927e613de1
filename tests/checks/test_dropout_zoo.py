"""check-dropout over the zoo: no error on the healthy, and faults planted in them found at the right place."""

import pytest

from checks.dropout_mutants import MUTANTS, place_for, plant
from checks.dropout_subject import codes, examine
from zoo import healthy, specimen

SOME = ["bert", "opt", "mlp-gelu", "vgg-by-hand", "nano-gpt", "encoder-pre-norm", "text-convolution"]
HEALTHY = [found.name for found in healthy()]
# p = 0.8 is the default of Hugging Face's MobileNetV2: TensorFlow's keep probability. XLNet's layers build a dropout
# that they never call.
ARGUED = {"mobilenet-v2": {"DRP001"}, "xlnet": {"DRP002"}}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_is_left_alone(name):
    kind = specimen(name)
    report = examine(kind.make, kind.batch.inputs, kind.batch.targets, masks=4)
    loud = {finding.rule.code for finding in report.findings if finding.severity.word != "note"}
    assert loud == ARGUED.get(name, set())


# Every fault in two models and every model with two faults or so: the whole product takes a minute more.
PLANTED = [(name, code) for i, name in enumerate(SOME) for j, code in enumerate(MUTANTS) if (i + j) % 3 == 0]


@pytest.mark.parametrize(("name", "code"), PLANTED)
def test_a_planted_fault_is_found_where_it_was_planted(name, code):
    kind = specimen(name)
    place = place_for(kind.make())
    if place is None:
        pytest.fail(f"{name} has no place for a mutant")
    report = examine(lambda: plant(kind.make(), place, MUTANTS[code]), kind.batch.inputs, kind.batch.targets, masks=6)
    assert code in codes(report)
    assert any(f.rule.code == code and f.where.module.startswith(place) for f in report.findings)
