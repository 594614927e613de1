"""Which pipeline made these numbers: lattices, and named maps between two sets, paired and not."""

import numpy as np
import pytest

from nndiag.science import preprocessing as p
from nndiag.science import preprocessing_match as match
from nndiag.science import preprocessing_rows as rows
from nndiag.science.preprocessing_names import summarise

MEAN, SD = (np.array(v).reshape(3, 1) for v in p.IMAGENET)
CIFAR = np.array([0.4914, 0.4822, 0.4465]).reshape(3, 1), np.array([0.247, 0.2435, 0.2616]).reshape(3, 1)


def photos(seed, n=300, inner=256):
    """8-bit images with the natural red > green > blue means, images of different brightness."""
    rng = np.random.default_rng(seed)
    light = rng.normal(0, 0.12, (n, 1, 1))
    x = np.array([0.50, 0.45, 0.38]).reshape(1, 3, 1) + light + rng.normal(0, 0.22, (n, 3, inner))
    return np.round(np.clip(x, 0, 1) * 255)


def imagenet(raw):
    return (raw / 255 - MEAN) / SD


def test_lattice_scores_are_one_a_third_and_nearly_nothing():
    flat = np.moveaxis(imagenet(photos(0)), 1, 2).reshape(-1, 3)
    right, swapped, cifar = (
        next(c for c in p.normalisers(3) if c.name == name)
        for name in (
            "the ImageNet constants",
            "the ImageNet constants in reversed channel order",
            "the CIFAR-10 constants",
        )
    )
    assert p.lattice_score(flat, right) == 1.0
    assert p.lattice_score(flat, swapped) == pytest.approx(0.333, abs=0.02)
    assert p.lattice_score(flat, cifar) < 0.03


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pipelines_are_recognised(dtype):
    raw = np.moveaxis(photos(1), 1, 2).reshape(-1, 3)
    for made, name in [
        (raw, "raw 0-255 values"),
        (raw / 255, "values in [0, 1]"),
        (raw / 127.5 - 1, "values in [-1, 1]"),
        ((raw / 255 - MEAN.T) / SD.T, "the ImageNet constants"),
        ((raw / 255 - MEAN.T[:, ::-1]) / SD.T[:, ::-1], "the ImageNet constants in reversed channel order"),
        ((raw - MEAN.T) / SD.T, "the ImageNet constants on 0-255 values"),
        (((raw / 255 - MEAN.T) / SD.T - MEAN.T) / SD.T, "the ImageNet constants applied twice"),
        (raw / 255 / 255, "values in [0, 1] divided by 255 again"),
    ]:
        assert p.recognise(made.astype(dtype)).name == name


def test_noise_and_binary_masks_are_no_lattice():
    assert p.recognise(np.random.default_rng(0).normal(size=(5000, 3))) is None
    assert p.recognise(np.random.default_rng(0).integers(0, 2, (5000, 1)).astype(float)) is None


def test_double_normalised_imagenet_numbers_of_science():
    twice = next(c for c in p.normalisers(3) if c.twice == "the ImageNet constants")
    assert (twice.offset(3) + twice.slope(3) * np.array(p.IMAGENET[0])).tolist() == pytest.approx(
        [-2.118, -2.036, -1.804], abs=1e-3
    )
    assert (1 / np.array(p.IMAGENET[1])).tolist() == pytest.approx([4.37, 4.46, 4.44], abs=5e-3)


CHANGES = [
    ("unit", lambda r: r / 255, lambda r: r, "division by 255 is missing", "map"),
    ("twice255", lambda r: r / 255, lambda r: r / 255 / 255, "255 twice", "map"),
    ("symmetric", lambda r: r / 255, lambda r: r / 127.5 - 1, "2x - 1", "map"),
    ("raw-unit", lambda r: r, lambda r: r / 255, "training did not", "map"),
    ("imagenet-raw", imagenet, lambda r: (r - MEAN) / SD, "before the ImageNet constants is missing", "map"),
    ("imagenet-cifar", imagenet, lambda r: (r / 255 - CIFAR[0]) / CIFAR[1], "CIFAR-10", "map"),
    ("swapped", imagenet, lambda r: (r / 255 - MEAN[::-1]) / SD[::-1], "swapped channel constants", "map"),
    ("bgr", lambda r: r / 255, lambda r: r[:, ::-1] / 255, "reversed order", "swap"),
    ("bgr-imagenet", imagenet, lambda r: imagenet(r[:, ::-1]), "reversed order", "swap"),
    ("imagenet-twice", imagenet, lambda r: (imagenet(r) - MEAN) / SD, "applied twice", "twice"),
    ("offset", lambda r: r, lambda r: r + 40, "shifted by +40", "map"),
    ("missing", imagenet, lambda r: r / 255, "ImageNet constants", "map"),
]


@pytest.mark.parametrize("same_rows", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize(("train", "serve", "words", "kind"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_changes_between_photos_are_named(train, serve, words, kind, same_rows):
    a, b = photos(2), photos(2 if same_rows else 3)
    got = match.compare(train(a).astype(np.float32), serve(b).astype(np.float32), images=True)
    assert words in got.name
    assert got.kind == kind


@pytest.mark.parametrize("make", [imagenet, lambda r: r, lambda r: r / 255, lambda r: r / 255 + 1e-3 * r**0.5])
def test_two_draws_of_one_pipeline_are_the_same(make):
    for seed in range(6):
        a, b = photos(10 + seed, 200), photos(50 + seed, 150)
        assert match.compare(make(a), make(b), images=True).kind == "identity"


def test_rows_equal_up_to_float32_are_equal_in_effect():
    a = photos(4) / 255
    got = match.compare(a, (photos(4).astype(np.float32) * np.float32(1 / 255)), images=True)
    assert got.kind == "identity"


def table(seed, n=500):
    rng = np.random.default_rng(seed)
    return rng.gamma(4.0, 1.0, (n, 6)) * np.array([1, 20, 3, 0.5, 300, 8])


@pytest.mark.parametrize("same_rows", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize(
    ("words", "serve"),
    [
        ("not standardised", lambda x, z, m, s: x),
        ("standardised twice", lambda x, z, m, s: (z - m) / s),
        ("+40", lambda x, z, m, s: z + 40),
        ("255", lambda x, z, m, s: 255 * z),
    ],
)
def test_changes_between_tables_are_named(words, serve, same_rows):
    fit = table(0)
    m, s = fit.mean(0), fit.std(0)
    other = fit if same_rows else table(1)
    train = (fit - m) / s
    got = match.compare(train[..., None], serve(other, (other - m) / s, m, s)[..., None], images=False)
    assert words in got.name


def test_an_honest_test_split_of_a_table_is_the_same():
    for seed in range(8):
        fit, other = table(seed, 300), table(100 + seed, 120)
        m, s = fit.mean(0), fit.std(0)
        got = match.compare(((fit - m) / s)[..., None], ((other - m) / s)[..., None], images=False)
        assert got.kind == "identity"


def test_columns_that_changed_places_are_found_row_by_row():
    x = table(3)
    got = match.compare(x[..., None], x[:, [0, 2, 1, 3, 4, 5], None], images=False)
    assert got.kind == "swap"
    assert "1, 2" in got.name


def test_undoing_a_change_gives_training_values_back():
    x = photos(5) / 255
    got = match.compare(x, 255 * x[:, ::-1], images=True)
    assert match.undo(255 * x[:, ::-1], got) == pytest.approx(x, abs=1e-6)


def test_per_sample_statistics_and_mean_images_are_seen():
    x = photos(6) / 255
    own = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
    assert rows.per_sample(own)
    assert not rows.per_sample(imagenet(photos(6)))
    ramp = x + np.linspace(0, 0.5, 256)
    assert rows.position_structure(ramp - ramp.mean((0, 2), keepdims=True)) > 20
    assert rows.position_structure(ramp - ramp.mean(0)) < 1e-9


def test_errors_of_the_mean_count_images_not_pixels():
    got = summarise(photos(7, n=100))
    assert got.mean_se[0] == pytest.approx(0.12 * 255 / 10, rel=0.3)


def test_constant_channels_and_few_rows_do_not_crash():
    one = np.ones((5, 2, 1))
    assert match.compare(one, one, images=False).kind == "identity"
    assert match.compare(one[:1], one[:2], images=False) is not None
