"""What a moving average still holds of its start."""

import numpy as np
import pytest

from nndiag.science.moving_average import start_left

RNG = np.random.default_rng(0)
MEAN, SD = RNG.normal(size=16), np.exp(0.5 * RNG.normal(size=16))


def walked(updates, weight, mean, sd, rows=64):
    """Batch after batch, as the layers do it."""
    held, spread = np.zeros(len(mean)), np.ones(len(mean))
    for _ in range(updates):
        x = mean + sd * RNG.normal(size=(rows, len(mean)))
        held, spread = held + weight * (x.mean(0) - held), spread + weight * (x.var(0, ddof=1) - spread)
    return held, spread


@pytest.mark.parametrize(("updates", "weight"), [(1, 0.01), (8, 0.01), (50, 0.01), (5, 0.1), (20, 0.1)])
@pytest.mark.parametrize(("mean", "sd"), [(MEAN, SD), (3 + 0 * MEAN, 2 + 0 * SD)], ids=["mixed", "alike"])
def test_the_start_that_is_left_after_some_updates(updates, weight, mean, sd):
    left = start_left(*walked(updates, weight, mean, sd), mean, sd**2)
    assert left == pytest.approx((1 - weight) ** updates, abs=0.02)


@pytest.mark.parametrize("factor", [1 / 255, 0.1, 0.5, 0.9, 2.0])
def test_another_scale_of_the_data_is_no_start(factor):
    assert start_left(factor * MEAN, (factor * SD) ** 2, MEAN, SD**2) is None


def test_another_domain_and_numbers_that_do_not_tell_are_no_start():
    assert start_left(MEAN + 0.5 * SD, SD**2, MEAN, SD**2) is None
    assert start_left(0 * MEAN, 0.9 + 0 * SD, 0 * MEAN, 0.5 + 0 * SD) is None  # a scale explains it as well
    assert start_left(0 * MEAN, 1 + 0 * SD, MEAN, SD**2) is None  # as built
    assert start_left(MEAN[:2], SD[:2], MEAN[:2], SD[:2]) is None  # two channels
    assert start_left(MEAN, SD, MEAN, 0 * SD) is None  # dead channels
