"""The sum behind dropout: its moments, against all masks, simulation and published numbers."""

import itertools
import math

import pytest
import torch

from nndiag.science.activation_moments import Activation, gelu_mean, identity_mean, relu_bias, relu_mean
from nndiag.science.rescale import (
    PowerSums,
    berry_esseen,
    counted,
    direct_mean,
    enumerated_mean,
    excess_kurtosis,
    grouped,
    participation,
    relu_mean_edgeworth,
    skewness,
    spread,
)

RELU = Activation("relu", torch.relu, relu_mean)
GELU = Activation("gelu", torch.nn.functional.gelu, gelu_mean)


def every_mask(c, p):
    """Values of S and their probabilities, mask by mask."""
    values, chances = [], []
    for mask in itertools.product((0, 1), repeat=len(c)):
        values.append(sum(ci * mi for ci, mi in zip(c, mask, strict=True)) / (1 - p))
        chances.append(math.prod((1 - p) if mi else p for mi in mask))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(chances, dtype=torch.float64)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.8])
def test_four_moments_agree_with_the_enumeration_of_all_masks(p):
    c = [0.7, -1.2, 0.1, 2.0, -0.4, 0.9]
    values, chances = every_mask(c, p)
    mean = (values * chances).sum()
    central = [((values - mean) ** k * chances).sum() for k in (2, 3, 4)]
    sums = PowerSums.of(torch.tensor(c))
    assert mean.item() == pytest.approx(sum(c), rel=1e-6)
    assert spread(sums.second, p).item() == pytest.approx(math.sqrt(central[0]), rel=1e-6)
    assert skewness(sums, p).item() == pytest.approx((central[1] / central[0] ** 1.5).item(), rel=1e-5)
    assert excess_kurtosis(sums, p).item() == pytest.approx((central[2] / central[0] ** 2 - 3).item(), rel=1e-5)


def test_twenty_equal_contributions_have_participation_twenty_and_the_published_means():
    c = torch.tensor([1.0, -1.0] * 10, dtype=torch.float64) / math.sqrt(20)
    sums = PowerSums.of(c)
    assert participation(sums).item() == pytest.approx(20)
    assert spread(sums.second, 0.5).item() == pytest.approx(1)
    # exact: the sum is (a - b)/√5 with a, b ~ Binomial(10, ½)
    exact = sum(
        math.comb(10, a) * math.comb(10, b) / 2**20 * max(0.0, (a - b) * 2 / math.sqrt(20))
        for a in range(11)
        for b in range(11)
    )
    assert exact == pytest.approx(0.39399, abs=5e-6)
    assert enumerated_mean(c, 0.0, 0.5, RELU, top=20).item() == pytest.approx(exact, rel=1e-9)
    assert relu_mean(0.0, 1.0).item() == pytest.approx(0.39894, abs=5e-6)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.8])
def test_counting_what_repeats_agrees_with_every_mask(p):
    c = [0.5, -0.5, 0.5, 1.3, 0.0, -0.5, 1.3, 0.2]
    table = counted(torch.tensor(c), 0.3, p)
    values, chances = every_mask(torch.tensor(c).double().tolist(), p)
    assert len(table.values) == 5 * 3 * 2  # 0 … 4, 0 … 2 and 0 … 1 kept; nothing stays nothing
    assert table.chances.sum().item() == pytest.approx(1)
    for f in (torch.relu, torch.tanh, torch.square):
        assert table.mean(f) == pytest.approx((f(values + 0.3) * chances).sum().item(), rel=1e-9)


def test_a_sum_of_many_different_contributions_is_not_counted():
    assert counted(torch.randn(40, generator=torch.Generator().manual_seed(0)), 0.0, 0.5) is None


def test_a_sum_without_contributions_is_its_bias():
    assert counted(torch.zeros(5), 0.7, 0.5).values.tolist() == pytest.approx([0.7])


def test_one_dominant_input_needs_enumeration_because_the_gaussian_is_wrong():
    small = torch.tensor([0.05] * 9 + [-0.05] * 9 + [0.0458], dtype=torch.float64)
    c = torch.cat([torch.tensor([10.0], dtype=torch.float64), small])
    bias = 4.4458 - c.sum()
    width = spread(PowerSums.of(c).second, 0.5)
    exact = enumerated_mean(c, bias, 0.5, RELU, top=20)
    hybrid = enumerated_mean(c, bias, 0.5, RELU, top=8)
    assert hybrid.item() == pytest.approx(exact.item(), abs=1e-4)
    assert abs(relu_mean(4.4458, width).item() - exact.item()) > 0.3


def test_the_published_dominated_unit_is_reproduced():
    # one contribution of 10 above a unit whose other 19 are negligible: S is mu ± 10
    mu = 4.4458
    c = torch.cat([torch.tensor([10.0]), torch.zeros(19)]).double()
    exact = enumerated_mean(c, mu - 10.0, 0.5, RELU, top=8).item()
    assert exact == pytest.approx(0.5 * (mu + 10), abs=1e-6)
    assert exact == pytest.approx(7.2229, abs=1e-4)
    assert relu_mean(mu, spread(PowerSums.of(c).second, 0.5)).item() == pytest.approx(6.6035, abs=2e-2)


@pytest.mark.parametrize(("pr", "error"), [(1, 0.101), (2, 0.046), (4, 0.023), (8, 0.0126), (16, 0.0062)])
def test_the_gaussian_error_falls_with_the_participation_ratio_as_published(pr, error):
    worst = 0.0
    c = torch.full((pr,), 1 / math.sqrt(pr), dtype=torch.float64)
    for t in torch.linspace(-3, 3, 601, dtype=torch.float64):
        exact = enumerated_mean(c, t - c.sum(), 0.5, RELU, top=pr)
        worst = max(worst, (exact - relu_mean(t, 1.0)).abs().item())
    assert worst == pytest.approx(error, rel=0.06)


def test_edgeworth_is_several_times_closer_than_the_gaussian():
    torch.manual_seed(0)
    c = torch.rand(14, dtype=torch.float64)
    sums = PowerSums.of(c)
    s = spread(sums.second, 0.1)
    gauss, edge = 0.0, 0.0
    for t in torch.linspace(-2, 2, 41, dtype=torch.float64):
        mu = t * s
        exact = enumerated_mean(c, mu - c.sum(), 0.1, RELU, top=14)
        gauss = max(gauss, (relu_mean(mu, s) - exact).abs().item())
        corrected = relu_mean_edgeworth(mu, s, skewness(sums, 0.1), excess_kurtosis(sums, 0.1))
        edge = max(edge, (corrected - exact).abs().item())
    assert edge < gauss / 3


def test_berry_esseen_for_twenty_equal_terms_is_an_eighth():
    assert berry_esseen(torch.full((20,), 0.3), 0.5).item() == pytest.approx(0.125, abs=5e-4)
    assert berry_esseen(torch.full((20,), 0.3), 0.0).item() == 0


def test_channel_masks_add_before_they_are_squared():
    torch.manual_seed(1)
    c = torch.randn(16 * 25, dtype=torch.float64).abs() * 0.8
    channels = grouped(c, 16)
    masks = (torch.rand(40_000, 16) < 0.7).double() / 0.7
    simulated = (masks @ channels).var().item()
    assert spread(PowerSums.of(channels).second, 0.3).item() ** 2 == pytest.approx(simulated, rel=0.03)
    assert spread(PowerSums.of(c).second, 0.3).item() ** 2 < simulated / 5


def test_sixteen_channels_of_25_pixels_have_the_published_variance_and_not_the_elementwise_one():
    # Contributions whose channel sums and whose squares are the published ones: 37.4 by channel, 50.1 by element.
    torch.manual_seed(2)
    odds = 0.3 / 0.7
    means = torch.randn(16, 1, dtype=torch.float64)
    rest = torch.randn(16, 25, dtype=torch.float64)
    rest -= rest.mean(1, keepdim=True)
    means *= math.sqrt(37.4 / odds / (25 * means).square().sum())
    rest *= math.sqrt((50.1 / odds - 25 * means.square().sum()) / rest.square().sum())
    c = means + rest
    masks = (torch.rand(60_000, 16, 1, dtype=torch.float64) < 0.7) / 0.7
    simulated = (masks * c.sum(1, keepdim=True)).sum((1, 2)).var().item()
    by_channel = spread(PowerSums.of(grouped(c.reshape(-1), 16)).second, 0.3).item() ** 2
    assert by_channel == pytest.approx(37.4, abs=1e-6)
    assert simulated == pytest.approx(37.4, rel=0.02)
    assert spread(PowerSums.of(c.reshape(-1)).second, 0.3).item() ** 2 == pytest.approx(50.1, abs=1e-6)


def default_layer(seed):
    """A default Linear(128, 10) behind rectified units: closed-form bias, its ratio to the mean, and what masks give."""
    torch.manual_seed(seed)
    first, head = torch.nn.Linear(64, 128), torch.nn.Linear(128, 10)
    with torch.no_grad():
        x = torch.relu(first(torch.randn(512, 64)))
        mu = head(x)
        sums = PowerSums.of((x[:, None, :] * head.weight).double())
        masked = sum(torch.relu(head(x * (torch.rand_like(x) < 0.5) * 2)).double() for _ in range(200)) / 200
    s = spread(sums.second, 0.5)
    bias = relu_bias(mu.double(), s).mean().item()
    by_masks = (masked - torch.relu(mu)).mean().item()
    return bias, by_masks, bias / torch.relu(mu).mean().item(), participation(sums).mean().item()


def test_the_published_bias_of_a_default_layer_lies_among_fresh_draws_and_masks_agree_on_each():
    draws = [default_layer(seed) for seed in range(6)]
    assert all(bias == pytest.approx(by_masks, rel=0.03) for bias, by_masks, _share, _contributions in draws)
    for index, published in ((0, 0.0349), (2, 0.34), (3, 13.9)):
        values = [draw[index] for draw in draws]
        assert min(values) <= published <= max(values), (published, values)


def test_dropout_in_front_of_relu_changes_no_mean_and_in_front_of_sigmoid_it_does():
    x = torch.tensor([3.0, -2.0])
    assert torch.allclose(direct_mean(x, 0.5, RELU), torch.relu(x).double())
    sigmoid = Activation("sigmoid", torch.sigmoid)
    assert direct_mean(torch.tensor(3.0), 0.5, sigmoid).item() == pytest.approx(0.7487, abs=1e-4)


def test_degenerate_sums_are_defined():
    nothing = PowerSums.of(torch.zeros(3, 5))
    assert participation(nothing).tolist() == [0, 0, 0]
    assert skewness(nothing, 0.5).tolist() == [0, 0, 0]
    assert excess_kurtosis(nothing, 0.0).tolist() == [0, 0, 0]
    assert spread(nothing.second, 0.0).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        spread(nothing.second, 1.0)


def test_enumeration_works_for_activations_with_and_without_closed_form():
    torch.manual_seed(2)
    c = torch.randn(3, 12, dtype=torch.float64)
    for activation in (GELU, Activation("tanh", torch.tanh), Activation("identity", lambda x: x, identity_mean)):
        hybrid = enumerated_mean(c, 0.3, 0.5, activation, top=6)
        exact = enumerated_mean(c, 0.3, 0.5, activation, top=12)
        assert torch.allclose(hybrid, exact, atol=0.02)
