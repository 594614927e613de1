"""Means behind an activation, against all masks of small sums and against many masks of large ones."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.lab.dropout.closed import activation_of, in_rows, scattered, sums_at
from nndiag.lab.dropout.expect import expected
from nndiag.lab.dropout.graph import Step


def sums_of(op, x, weight, bias=None, *, unit="element", channels=0, **options):
    """The sums of one affine step."""
    step = Step(0, ("", op, 0), "affine", (), (), ())
    found = sums_at(step, x, (x, weight, bias), options, unit=unit, channels=channels)
    assert not isinstance(found, str), found
    return found


def by_all_masks(x, weight, bias, p, f):
    """Mean of f over every mask of one row, first and second moment, averaged over units."""
    first = second = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=x.shape[-1]):
        kept = torch.tensor(mask, dtype=torch.float64)
        chance = float(((1 - p) ** kept.sum()) * (p ** (len(kept) - kept.sum())))
        y = f((x.double() * kept / (1 - p)) @ weight.double().T + bias.double())
        first, second = first + chance * float(y.mean()), second + chance * float((y * y).mean())
    return first, second


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_units_that_hang_on_one_input_are_enumerated(p, name):
    torch.manual_seed(0)
    weight = torch.randn(5, 10) * 0.05
    weight[:, 0] = torch.tensor([3.0, -3.0, 2.0, 1.0, 4.0])
    x, bias = torch.ones(8, 10), torch.zeros(5)
    f = activation_of(name)
    got = expected(sums_of("linear", x, weight, bias), f, p)
    mean, second = by_all_masks(x[:1], weight, bias, p, f.f)
    assert got.enumerated == 40
    assert got.on == pytest.approx(mean, rel=2e-3)
    assert got.second_ratio * float((f.f(x.double() @ weight.double().T) ** 2).mean()) == pytest.approx(
        second, rel=5e-3
    )
    assert abs(got.gaussian - mean) > 10 * abs(got.on - mean)


def test_the_published_dominated_unit_comes_out_of_the_report():
    weight = torch.tensor([[10.0] + [0.05] * 9 + [-0.05] * 9 + [0.0458]])
    bias = 4.4458 - weight.sum(1)
    got = expected(sums_of("linear", torch.ones(8, 20), weight, bias), activation_of("relu"), 0.5)
    assert got.on == pytest.approx(7.2229, abs=1e-4)
    assert got.gaussian == pytest.approx(6.6035, abs=5e-3)


def test_twenty_equal_contributions_come_out_exactly_and_not_as_a_gaussian():
    """(a - b)·2/√20 with a, b ~ Binomial(10, ½): .39399, where the Gaussian says .39894."""
    weight = torch.tensor([[1.0, -1.0] * 10]) / 20**0.5
    got = expected(sums_of("linear", torch.ones(4, 20), weight, torch.zeros(1)), activation_of("relu"), 0.5)
    assert got.on == pytest.approx(0.39399, abs=5e-6)
    assert got.gaussian == pytest.approx(0.39894, abs=5e-6)
    assert got.counted == 1


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_binary_weights_on_binary_inputs_are_counted_and_agree_with_masks(name):
    generator = torch.Generator().manual_seed(0)
    weight = (torch.rand(30, 24, generator=generator) > 0.5).float() * 2 - 1
    x, bias, f = (torch.rand(20, 24, generator=generator) > 0.4).float(), torch.zeros(30), activation_of(name)
    got = expected(sums_of("linear", x, weight, bias), f, 0.3)
    torch.manual_seed(0)
    drawn = torch.stack([f.f(functional.dropout(x, 0.3) @ weight.T).mean() for _ in range(4000)])
    assert got.counted > 0.9
    assert abs(got.on - float(drawn.mean())) < 4 * float(drawn.std()) / 4000**0.5


def test_a_sum_of_many_inputs_is_not_enumerated_and_agrees_with_masks():
    torch.manual_seed(0)
    x, layer = torch.relu(torch.randn(64, 256)), nn.Linear(256, 32)
    got = expected(sums_of("linear", x, layer.weight, layer.bias), activation_of("relu"), 0.3)
    with torch.no_grad():
        drawn = [float(torch.relu(layer(functional.dropout(x, 0.3))).mean()) for _ in range(400)]
    assert got.enumerated == 0
    assert got.on == pytest.approx(sum(drawn) / 400, rel=5e-3)


@pytest.mark.parametrize(
    ("op", "x", "weight", "options"),
    [
        ("conv1d", (3, 4, 9), (6, 4, 3), {"padding": 1, "stride": (2,)}),
        ("conv2d", (3, 4, 9, 8), (6, 2, 3, 2), {"stride": 2, "padding": (1, 0), "dilation": (1, 2), "groups": 2}),
        ("conv3d", (2, 3, 5, 5, 5), (4, 3, 2, 2, 2), {}),
    ],
)
def test_contributions_to_an_output_of_a_convolution_add_up_to_it(op, x, weight, options):
    torch.manual_seed(0)
    found = sums_of(op, torch.randn(x), torch.randn(weight), **options)
    parts = found.contributions(torch.ones_like(found.mean).nonzero())
    assert torch.allclose(parts.sum(-1), found.mean.reshape(-1), atol=1e-5)
    assert torch.allclose((parts**4).sum(-1), found.power.fourth.reshape(-1), rtol=1e-4)


def test_a_channel_is_one_contribution_where_channels_are_dropped():
    torch.manual_seed(0)
    x, weight = torch.randn(4, 16, 5, 5), torch.randn(3, 16, 3, 3)
    found = sums_of("conv2d", x, weight, unit="channel", channels=16)
    drawn = torch.stack([functional.conv2d(functional.dropout2d(x, 0.3), weight) for _ in range(4000)])
    assert found.inputs == 16
    assert torch.allclose(0.3 / 0.7 * found.power.second.float(), drawn.var(0), rtol=0.2)


@pytest.mark.parametrize("units", [2, 16, 64, 1000])
def test_a_sample_of_sums_meets_every_unit_alike_whatever_their_number(units):
    """A fixed step through 512 rows of 64 units, 2000 of them, would meet four units only."""
    some = scattered(512 * units, 2000)
    per_unit = torch.bincount(some % units, minlength=units)
    assert int(some.max()) < 512 * units
    assert float(per_unit.max()) <= max(4.0, 1.5 * 2000 / units)
    assert scattered(units, 2000).tolist() == list(range(units))


def test_channel_dropout_on_channels_last_takes_whole_rows_of_what_a_linear_map_reads():
    x = torch.arange(2 * 5 * 5.0).reshape(2, 5, 5)
    assert in_rows(x, x)
    assert not in_rows(x, x.transpose(1, 2).contiguous())
    assert not in_rows(x[0], x[0])
