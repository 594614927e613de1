"""The first layer with weights, and the curvature along it, against closed forms and autograd."""

import math

import pytest
import torch
from torch import nn

from nndiag.core.subject import Batch, Training
from nndiag.lab import firstlayer as fl
from nndiag.lab.firstlayer_units import first_overflow, saturated
from nndiag.lab.objective import resolve_objective

X, Y = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        return self.fc((x / 255.0).flatten(1))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 4) / 8)

    def forward(self, x):
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize(
    ("model", "name", "raw", "normalised"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "1", True, False),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4)), "0", True, False),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4)), "2", False, True),
        (Scaled(), "fc", False, False),
        (Functional(), "", True, False),
    ],
)
def test_the_first_layer_is_found_with_what_lies_before_it(model, name, raw, normalised):
    got = fl.first_layer(model, Batch(X, Y))
    assert (got.name, got.raw, bool(got.normaliser)) == (name, raw, normalised)
    assert got.parameters


def test_ids_meet_their_embedding():
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 4))
    assert fl.first_layer(model, Batch(torch.zeros(4, 2, dtype=torch.long), Y[:4])).kind == "embedding"


def test_sharpness_agrees_with_the_full_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 4)).double()
    batch = Batch(X.double(), Y)
    objective = resolve_objective(Training(), model, batch)
    names = ("1.weight", "1.bias")

    def loss(weight, bias):
        out = torch.func.functional_call(model, {"1.weight": weight, "1.bias": bias}, (batch.inputs,))
        return nn.functional.cross_entropy(out, Y)

    w, b = (dict(model.named_parameters())[name].detach() for name in names)
    (ww, wb), (bw, bb) = torch.autograd.functional.hessian(loss, (w, b))
    n, k = w.numel(), b.numel()
    full = torch.cat(
        [torch.cat([ww.reshape(n, n), wb.reshape(n, k)], 1), torch.cat([bw.reshape(k, n), bb.reshape(k, k)], 1)]
    )
    expected = torch.linalg.eigvalsh(full).abs().max()
    assert fl.sharpness(model, batch, objective, names, rounds=200) == pytest.approx(float(expected), rel=0.02)


def test_a_non_finite_loss_has_no_sharpness():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    batch = Batch(X * math.nan, Y)
    objective = resolve_objective(Training(loss="cross_entropy"), model, Batch(X, Y))
    assert math.isnan(fl.sharpness(model, batch, objective, ("1.weight",)))


def test_only_the_main_input_is_changed():
    batch = Batch({"x": X, "mask": torch.ones(32, dtype=torch.bool)}, Y)
    changed = fl.with_input(batch, lambda item: item * 2)
    assert torch.equal(changed.inputs["x"], 2 * X)
    assert changed.inputs["mask"].dtype == torch.bool


def test_standardised_inputs_have_mean_zero_and_sd_one():
    x = torch.rand(50, 3, 6, 6) * 9
    made = fl.Standardiser(x.double().mean((0, 2, 3)), x.double().std((0, 2, 3), unbiased=False), 1)(x)
    assert made.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert made.std((0, 2, 3), unbiased=False).tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_saturated_and_dead_units_are_counted():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
    nn.init.constant_(model[1].bias, -1e3)
    nn.init.constant_(model[3].bias, 1e3)
    assert saturated(model, Batch(X, Y)) == {"2": 1.0, "4": 1.0}


class Called(nn.Module):
    """Activations as functions: half of the first ones are dead, all of the second saturated."""

    def forward(self, x):
        sign = torch.tensor([1.0, -1.0]).repeat(32)
        return torch.tanh(torch.nn.functional.relu((x.flatten(1).abs() + 9) * sign).sum(1, keepdim=True))


def test_activations_that_are_called_as_functions_are_counted_too():
    assert saturated(Called(), Batch(X, Y)) == {"relu (1)": 0.5, "tanh (1)": 1.0}


def test_the_module_that_overflows_in_half_precision_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 4)).half()
    nn.init.constant_(model[1].weight, 1e4)
    assert first_overflow(model, Batch(X.half(), Y)).module == "1"
    assert first_overflow(model.float(), Batch(X, Y)) is None
