"""The bench of check-dropout: what a played forward leaves alone, what it feeds, and when it stops."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.subject import Batch
from nndiag.lab.dropout.bench import Bench
from nndiag.lab.dropout.gates import gates_at
from nndiag.lab.dropout.graph import Step
from nndiag.lab.dropout.measure import FEWEST, SiteLab
from nndiag.lab.dropout.meeting import in_place
from nndiag.lab.dropout.ops import mask_facts
from nndiag.lab.dropout.script import Script
from nndiag.lab.dropout.sites import Map

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2))


def measured(model, x, *, late=bool, masks=16):
    bench = Bench(model, Batch(x, None), seed=0)
    sites = Map(bench.play(Script(), training=True, seed=0).film).sites()
    lab = SiteLab(bench, sites, seed=0, late=late)
    lab.reference(training=False)
    lab.silent()
    lab.draw(masks)
    return lab


def test_masks_stop_when_time_is_up_but_some_are_always_drawn():
    lab = measured(net(), X, late=lambda: True)
    assert lab.drawn == FEWEST
    assert all(len(gauge.slopes) == FEWEST for gauge in lab.gauges)


def test_every_site_is_fed_what_eval_feeds_it():
    model = net()
    lab = measured(model, X, masks=2)
    model.eval()
    with torch.no_grad():
        assert torch.equal(lab.gauges[0].fed, model[:2](X))
        assert torch.equal(lab.gauges[1].fed, model[:5](X))


def test_a_forward_with_everything_off_is_the_forward_of_eval():
    model = net()
    off = Bench(model, Batch(X, None), seed=0).play(Script(off=True), training=True, seed=3).output
    model.eval()
    with torch.no_grad():
        assert torch.equal(off, model(X))


def test_playing_changes_no_weight_and_leaves_no_hook():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured(model, X, masks=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_joins_a_dropped_tensor_ends_the_walk_to_its_scale():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(32, 2)

        def forward(self, x):
            return self.out(torch.cat([functional.dropout(x, 0.3, self.training), 5 * x], 1))

    (site,) = Map(Bench(Joined(), Batch(X, None), seed=0).play(Script(), training=True, seed=0).film).sites()
    assert site.anchor.step.op == "cat"


@pytest.mark.parametrize(
    ("name", "writes"),
    [("mul_", True), ("__imul__", True), ("__setitem__", True), ("mul", False), ("__mul__", False), ("__rmul__", False),
     ("__invert__", False)],
)  # fmt: skip
def test_functions_that_write_into_their_argument_are_known_by_name(name, writes):
    assert in_place(name) is writes


@pytest.mark.parametrize(
    ("mask", "data", "unit"),
    [
        ((8, 5), (8, 5), "element"), ((1, 5), (8, 5), "locked"), ((8, 1), (8, 5), "sample"), ((1, 1), (8, 5), "whole"),
        ((8, 6, 1), (8, 6, 5), "row"), ((8, 1, 5), (8, 6, 5), "locked"), ((8, 5, 1, 1), (8, 5, 3, 3), "channel"),
        ((8, 1, 3, 3), (8, 5, 3, 3), "row"), ((1, 5, 3, 3), (8, 5, 3, 3), "locked"),
    ],
)  # fmt: skip
def test_what_one_mask_element_drops_together_is_read_off_its_shape(mask, data, unit):
    drawn = (torch.arange(torch.Size(mask).numel()) % 2).float().reshape(mask)
    assert mask_facts(drawn, torch.ones(data), weight=False).unit == unit


@pytest.mark.parametrize(("kind", "names"), [(nn.LSTM, "i f g o"), (nn.GRU, "r z n"), (nn.RNN, "h")])
def test_the_mean_of_recurrent_gates_under_a_dropped_input_is_the_average_over_masks(kind, names):
    """From a zero state the gates are f(W_ih x + b_ih + b_hh), but for r * b_hn in a GRU's candidate."""
    torch.manual_seed(0)
    cells, x = kind(12, 3, batch_first=True), torch.randn(9, 1, 12)
    for item in cells.parameters():
        item.data.mul_(2)  # a reset gate that moves with the mask
    zeros = torch.zeros(1, 9, 3)
    args = (x, [zeros, zeros] if kind is nn.LSTM else zeros)
    op = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}[kind]
    step = Step(0, ("", op, 0), "recurrent", (), (), ())
    found = gates_at(step, x, (*args, list(cells.parameters()), True, 1, 0.0, True, False, True), p=0.5, unit="element")
    w, _, b, own = (item.detach().double() for item in cells.parameters())
    dropped = x[:, 0].double() * (torch.rand(20_000, 9, 12) < 0.5) / 0.5
    pre, rest = (dropped @ w.T + b).chunk(len(found), -1), own.chunk(len(found))
    assert " ".join(gate.name for gate in found) == names
    for gate, a, c in zip(found, pre, rest, strict=True):
        reset = torch.sigmoid(pre[0] + rest[0]) if gate.name == "n" else 1.0
        f = torch.tanh if gate.name in "ghn" else torch.sigmoid
        true = f(a + reset * c)
        assert gate.predicted == pytest.approx(float(true.mean()), abs=0.01)
        assert gate.drawn == pytest.approx(float(true.mean()), abs=4 * gate.error)
        assert gate.spread_predicted == pytest.approx(float(true.var(0).mean().sqrt()), rel=0.1)
