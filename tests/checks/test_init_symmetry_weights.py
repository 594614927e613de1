"""Weights without a model: what names and shapes allow to say, and nothing more."""

import pytest
import torch
from torch import nn

from checks.init_symmetry_cases import fill, first, mlp, pair, said
from nndiag.checks.init_symmetry import InitSymmetry
from nndiag.core.check import diagnose
from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.load.subject import load_subject
from zoo import healthy

ALL = {specimen.name: specimen for specimen in healthy()}


def ask(state, **settings):
    return diagnose(InitSymmetry(**settings), load_subject(state))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_constant_layers_are_named_in_every_precision(dtype):
    report = ask(fill(mlp(), 0.01).to(dtype).state_dict())
    assert said(report)[0] == ("SYM001", "0")
    assert "incoming and outgoing weights identical" in report.findings[0].message
    assert {"SYM201", "SYM202"} <= {skip.code for skip in report.skipped}


def test_a_cloned_pair_is_found_and_told_by_its_number():
    report = ask(pair(mlp()).state_dict())
    assert said(report) == [("SYM001", "0")]
    assert "{2, 5}" in report.findings[0].evidence.detail


def test_rows_that_the_next_layer_reads_differently_are_no_trap():
    assert said(ask(first(mlp(), 0.01).state_dict())) == []


def test_equal_rows_with_different_biases_are_different_units():
    net = mlp()
    nn.init.constant_(net[0].weight, 0.01)
    assert said(ask({"fc.weight": net[0].weight, "fc.bias": net[0].bias})) == []


def test_two_zero_factors_of_an_adapter_are_a_zero_path():
    zeros = {"q.lora_A.weight": torch.zeros(4, 16), "q.lora_B.weight": torch.zeros(16, 4)}
    assert said(ask(zeros)) == [("SYM002", "q.lora_A")]
    assert said(ask({**zeros, "q.lora_A.weight": torch.randn(4, 16)})) == []


def test_pruned_rows_and_padding_tokens_are_no_twins():
    weight = torch.randn(32, 16)
    weight[3:20] = 0
    tokens = torch.randn(50, 8)
    tokens[10:20] = tokens[10]
    assert said(ask({"fc.weight": weight, "embed_tokens.weight": tokens})) == []


@pytest.mark.parametrize("name", list(ALL)[::4])
def test_weights_of_healthy_models_are_quiet(name):
    state = ALL[name].make().state_dict()
    try:
        assert said(ask(state)) == []
    except NothingApplicableError:
        assert not [item for item in state.values() if item.dim() > 1 and min(item.shape) > 1 and item.dim() == 2]


def test_diverged_weights_are_refused():
    with pytest.raises(NndiagError, match="NaN"):
        ask({"fc.weight": torch.full((4, 4), torch.nan)})
