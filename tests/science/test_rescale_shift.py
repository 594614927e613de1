"""Downstream of dropout, against simulation and published numbers."""

import math

import pytest
import torch
from torch import nn

from nndiag.science import rescale_shift as rs


@pytest.mark.parametrize(("p", "published"), [(0.1, 0.8598), (0.3, 0.6139), (0.5, 0.4053)])
def test_rectified_input_into_batch_norm_has_the_published_ratios(p, published):
    assert rs.eval_over_train_variance(p, 1 / (math.pi - 1)) == pytest.approx(published, abs=1e-4)
    torch.manual_seed(0)
    x = torch.relu(torch.randn(400_000))
    dropped = nn.functional.dropout(x, p)
    assert (x.var() / dropped.var()).item() == pytest.approx(published, rel=0.02)


def test_centred_input_shrinks_by_the_keep_probability():
    assert rs.eval_over_train_variance(0.2, 0.0) == pytest.approx(0.8)


def test_the_ratio_through_a_linear_map_agrees_with_masks():
    torch.manual_seed(0)
    x = torch.relu(torch.randn(4000, 30) @ torch.randn(30, 30) / 5)
    w = torch.randn(8, 30) / 5
    noise = (w**2) @ (x**2).mean(0)
    predicted = rs.variance_ratio((x @ w.T).var(0), noise, 0.5)
    measured = torch.stack([(nn.functional.dropout(x, 0.5) @ w.T).var(0) for _ in range(100)]).mean(0) / (x @ w.T).var(
        0
    )
    assert torch.allclose(predicted, measured.double(), rtol=0.05)


def test_the_rate_that_would_do_is_consistent_with_the_ratio():
    p = rs.rate_for_ratio(6.9, 0.8, 1.4)
    assert 1 + (6.9 - 1) * (p / (1 - p)) / 4 == pytest.approx(1.4)


def test_alpha_dropout_constants_agree_with_torch():
    assert pytest.approx(-1.7580993408473766, abs=1e-15) == rs.ALPHA_PRIME
    for p in (0.05, 0.1, 0.5):
        affine = rs.alpha_affine(p)
        torch.manual_seed(0)
        out = nn.functional.alpha_dropout(torch.zeros(1000), p, training=True).double()
        assert sorted({round(v, 5) for v in out.tolist()}) == sorted(
            {round(affine.b, 5), round(affine.a * rs.ALPHA_PRIME + affine.b, 5)}
        )


def test_alpha_dropout_keeps_a_standard_input_and_moves_a_rectified_one():
    assert rs.alpha_output(0.3, 0.0, 1.0) == pytest.approx((0.0, 1.0), abs=1e-12)
    mean, variance = rs.alpha_output(0.1, 1 / math.sqrt(2 * math.pi), 0.5 - 1 / (2 * math.pi))
    assert mean == pytest.approx(0.3309, abs=5e-4)
    assert variance == pytest.approx(0.615, abs=2e-3)


def test_a_peaked_attention_row_loses_its_mass_as_often_as_its_key_is_dropped():
    row = torch.tensor([0.9] + [0.1 / 9] * 9)
    assert rs.row_sum_variance(row, 0.1).item() == pytest.approx(0.0900 + 0.1 / 0.9 * 9 * (0.1 / 9) ** 2, abs=2e-4)
    assert rs.collapse_probability(row, 0.1).item() == pytest.approx(0.1, abs=1e-3)
    flat = torch.full((64,), 1 / 64)
    assert rs.collapse_probability(flat, 0.1).item() < 1e-9


def test_collapse_agrees_with_masks():
    torch.manual_seed(0)
    row = torch.softmax(2 * torch.randn(12), 0)
    mass = (torch.rand(100_000, 12) > 0.3).double() / 0.7 @ row.double()
    assert rs.collapse_probability(row, 0.3).item() == pytest.approx((mass < 0.5).double().mean().item(), abs=0.01)


def test_the_squared_error_gap_agrees_with_masks():
    torch.manual_seed(0)
    x, w, y = torch.relu(torch.randn(500, 20)), torch.randn(2, 20) / 4, torch.randn(500, 2)
    off = ((x @ w.T - y) ** 2).mean()
    on = torch.stack([((nn.functional.dropout(x, 0.3) @ w.T - y) ** 2).mean() for _ in range(400)]).mean()
    assert rs.squared_error_gap(w, (x**2).mean(0), 0.3) == pytest.approx((on - off).item(), rel=0.05)


@pytest.mark.parametrize("kind", ["softmax", "logistic"])
def test_the_classification_gap_agrees_with_masks_when_the_noise_is_small(kind):
    torch.manual_seed(0)
    x, w = torch.relu(torch.randn(300, 40)), torch.randn(5, 40) / 15
    y = torch.randint(5, (300,))
    if kind == "softmax":
        loss, gap, target = nn.functional.cross_entropy, rs.cross_entropy_gap, y
    else:
        loss, gap = nn.functional.binary_cross_entropy_with_logits, rs.logistic_gap
        target = nn.functional.one_hot(y, 5).float()
    off = loss(x @ w.T, target)
    on = torch.stack([loss(nn.functional.dropout(x, 0.2) @ w.T, target) for _ in range(600)]).mean()
    assert gap(w, x, x @ w.T, 0.2) == pytest.approx((on - off).item(), rel=0.12)


def test_least_squares_with_dropout_on_its_output_ends_where_predicted():
    torch.manual_seed(0)
    y = torch.randn(200_000, dtype=torch.float64)
    p = 0.4
    mask = (torch.rand_like(y) > p).double() / (1 - p)
    slope = (mask * y * y).sum() / (mask * mask * y * y).sum()  # least squares of y on mask·y
    end = rs.output_dropout(p)
    assert slope.item() == pytest.approx(end.slope, rel=0.01)
    assert (((mask * slope * y - y) ** 2).mean() / (y * y).mean()).item() == pytest.approx(end.floor, rel=0.02)
    assert (((slope * y - y) ** 2).mean() / (y * y).mean()).item() == pytest.approx(end.eval_loss, rel=0.02)
    assert rs.output_dropout(p, rescaled=False).slope == 1


def test_the_slopes_of_four_ways_to_scale_are_told_apart_with_the_promised_masks():
    torch.manual_seed(0)
    y, p = torch.randn(4000), 0.5
    masks = rs.masks_needed(y, p)
    error = rs.slope_error(y, p, masks)
    assert p >= 5 * error
    ways = {"inverted": (1 / 0.5, 1.0), "unscaled": (1.0, 0.5), "compensated": (1.0, 1.0), "double": (4.0, 2.0)}
    for factor, expected in ways.values():
        mean = torch.stack([(torch.rand_like(y) > p) * y * factor for _ in range(masks)]).mean(0)
        eval_y = 0.5 * y if factor == 1.0 and expected == 1.0 else y
        slope = ((mean * eval_y).sum() / (eval_y**2).sum()).item()
        assert abs(slope - expected) < 4 * error * expected


def test_no_dropout_and_no_signal_are_defined():
    assert rs.masks_needed(torch.randn(5), 0.0) == 1
    assert rs.masks_needed(torch.zeros(5), 0.5) == 10**9
    assert math.isnan(rs.variance_ratio(torch.tensor(0.0), torch.tensor(1.0), 0.5).item())
