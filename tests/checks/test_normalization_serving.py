"""Serving against training: honest pairs are quiet, each transform has its name and its one finding."""

import numpy as np
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from checks.normalization_bench import MEAN, SD, codes, imagenet, look, number, photos, the
from nndiag.core.errors import NndiagError

PAIR = {"NRM006", "NRM007", "NRM008", "NRM009", "NRM010"}
CIFAR = np.array([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1), np.array([0.247, 0.2435, 0.2616]).reshape(3, 1, 1)


def own_statistics(raw):
    return (raw - raw.mean((1, 2, 3), keepdims=True)) / raw.std((1, 2, 3), keepdims=True)


CHANGES = {
    "x255": (lambda r: r / 255, lambda r: r, "NRM006", "division by 255 is missing"),
    "/255 twice": (lambda r: r / 255, lambda r: r / 65025, "NRM006", "divides by 255 twice"),
    "2x - 1": (lambda r: r / 255, lambda r: r / 127.5 - 1, "NRM006", "2x - 1"),
    "offset 40": (lambda r: r, lambda r: r + 40, "NRM006", "+40"),
    "constants on the wrong range": (imagenet, lambda r: (r - MEAN) / SD, "NRM006", "before the ImageNet constants"),
    "other constants": (imagenet, lambda r: (r / 255 - CIFAR[0]) / CIFAR[1], "NRM006", "CIFAR-10"),
    "swapped constants": (imagenet, lambda r: (r / 255 - MEAN[::-1]) / SD[::-1], "NRM006", "swapped channel constants"),
    "no constants": (imagenet, lambda r: r / 255, "NRM006", "ImageNet constants"),
    "BGR": (lambda r: r / 255, lambda r: r[:, ::-1] / 255, "NRM007", "reversed order"),
    "BGR normalised": (imagenet, lambda r: imagenet(r[:, ::-1]), "NRM007", "reversed order"),
    "ImageNet twice": (imagenet, lambda r: (imagenet(r) - MEAN) / SD, "NRM008", "twice"),
    "per sample": (lambda r: r / 255, own_statistics, "NRM006", "by its own mean and sd"),
    "channels last": (lambda r: r / 255, lambda r: np.moveaxis(r / 255, 1, -1), "NRM006", "axes"),
}


@pytest.mark.parametrize("same_rows", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_transform_is_named_and_is_one_finding(name, same_rows):
    train, serve, code, words = CHANGES[name]
    report = look(
        train(photos(0)).astype(np.float32),
        serve=serve(photos(0 if same_rows else 1, 200 if same_rows else 150)).astype(np.float32),
    )
    assert codes(report) & PAIR == {code}
    assert words in the(report, code).message


@pytest.mark.parametrize(
    "make", [imagenet, lambda r: r, lambda r: r / 255, own_statistics], ids=["net", "raw", "unit", "own"]
)
@pytest.mark.parametrize("seed", range(4))
def test_honest_pairs_of_photos_are_quiet(make, seed):
    report = look(make(photos(seed)), serve=make(photos(100 + seed, 120)))
    assert not codes(report) & PAIR


@pytest.mark.parametrize("scaler", [None, StandardScaler, MinMaxScaler, RobustScaler])
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "diabetes"])
def test_honest_splits_of_tables_are_quiet(name, scaler):
    x = getattr(datasets, f"load_{name}")().data
    for seed in range(4):
        train, test = train_test_split(x, test_size=0.3, random_state=seed)
        if scaler is not None:
            fitted = scaler().fit(train)
            train, test = fitted.transform(train), fitted.transform(test)
        assert not codes(look(train, serve=test)) & PAIR


def cancer():
    train, test = train_test_split(datasets.load_breast_cancer().data, random_state=0)
    scaler = StandardScaler().fit(train)
    return train, test, scaler.transform(train), scaler.transform(test), scaler


def test_a_raw_test_set_is_named():
    _, test, z, _, _ = cancer()
    found = the(look(z, serve=test), "NRM006")
    assert "serving is not standardised" in found.message


def test_standardising_twice_is_named():
    _, _, z, w, scaler = cancer()
    assert codes(look(z, serve=scaler.transform(w))) & PAIR == {"NRM008"}


def test_one_column_in_another_unit_is_named():
    _, _, z, w, _ = cancer()
    w[:, 4] *= 1e4
    found = the(look(z, serve=w), "NRM006")
    assert found.where.module == "feature 4"
    assert found.severity.word == "error"


@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler])
def test_statistics_of_each_split_are_too_good_to_be_true(scaler):
    train, test, *_ = cancer()
    report = look(scaler().fit_transform(train), serve=scaler().fit_transform(test))
    assert codes(report) & PAIR == {"NRM009"}


def test_statistics_of_both_splits_together_are_found():
    train, test, *_ = cancer()
    both = StandardScaler().fit(np.concatenate([train, test]))
    report = look(both.transform(train), serve=both.transform(test))
    assert codes(report) & PAIR == {"NRM009"}
    assert "together" in the(report, "NRM009").message


def test_a_correct_pipeline_is_quiet_in_at_least_99_of_100_draws():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        train, test = rng.normal(3, 2, (300, 64)), rng.normal(3, 2, (100, 64))
        mean, sd = train.mean(0), train.std(0)
        alarms += "NRM009" in codes(look((train - mean) / sd, serve=(test - mean) / sd))
    assert alarms <= 1


def test_a_quarter_sigma_is_drift_and_nothing_else():
    rng = np.random.default_rng(0)
    train, serve = rng.normal(size=(10_000, 4)), rng.normal(size=(10_000, 4))
    serve[:, 2] += 0.25
    report = look(train, serve=serve)
    assert codes(report) & PAIR == {"NRM010"}
    assert the(report, "NRM010").where.module == "feature 2"
    assert number(report, "ks_largest") == pytest.approx(0.0995, abs=0.02)


def test_no_drift_alarms_in_at_most_one_of_a_hundred_draws():
    rng = np.random.default_rng(1)
    alarms = sum(
        "NRM010" in codes(look(rng.normal(size=(200, 3)), serve=rng.normal(size=(200, 3)))) for _ in range(250)
    )
    assert alarms <= 2


def test_a_mean_image_against_a_mean_pixel():
    ramp = np.sin(np.linspace(0, 9, 144)).reshape(12, 12) * 0.3
    a, b = photos(1) / 255 * 0.4 + ramp, photos(2) / 255 * 0.4 + ramp
    found = the(look(a - a.mean(0), serve=b - a.mean((0, 2, 3), keepdims=True)), "NRM006")
    assert "mean image" in found.message


def test_sets_that_are_equal_in_effect_are_called_equal():
    raw = photos(3)
    report = look(raw.astype(np.uint8), serve=raw)
    assert report.target["serving"] == "equal"
    assert not codes(report) & PAIR


def test_another_number_of_features_cannot_be_compared():
    with pytest.raises(NndiagError, match="5 features"):
        look(np.ones((9, 4)), serve=np.ones((9, 5)))


def test_images_of_other_sizes_are_compared_by_channel():
    report = look(photos(0, size=12) / 255, serve=photos(1, size=16))
    assert codes(report) & PAIR == {"NRM006"}


CURVED = {
    "log1p": (np.log1p, lambda y: y, "training takes log1p"),
    "decibels": (lambda x: 10 * np.log10(x), lambda y: y, "training is in decibels"),
    "filler": (lambda x: x, lambda y: np.where(np.arange(len(y))[:, None] % 12 == 0, -999, y), "hold -999"),
    "honest": (np.log1p, np.log1p, ""),
    "drift": (lambda x: x, lambda y: 1.4 * y, ""),
}


@pytest.mark.parametrize("case", CURVED)
def test_what_no_affine_map_explains_is_named_where_it_has_a_name(case):
    first, second, words = CURVED[case]
    x, y = (np.random.default_rng(seed).lognormal(np.arange(4) / 2, 0.8, (600, 4)) for seed in (1, 2))
    for rows in (y, x):
        report = look(first(x).astype(np.float32), serve=second(rows).astype(np.float32))
        assert words in the(report, "NRM006").message if words else "NRM006" not in codes(report) or rows is x


@pytest.mark.parametrize("few", [False, True], ids=["heavy tails", "five rows"])
def test_one_wild_value_or_a_handful_of_rows_is_no_other_preparation(few):
    rng = np.random.default_rng(0)
    draw = rng.standard_normal if few else rng.standard_cauchy
    assert not any(codes(look(draw((900, 6)), serve=draw((5 if few else 800, 6)))) & PAIR for _ in range(2))


def test_rows_in_another_order_are_the_same_rows():
    x = StandardScaler().fit_transform(np.random.default_rng(0).normal(size=(300, 6)))
    assert not codes(look(x, serve=x[::-1])) & PAIR


def test_few_rows_say_nothing_about_drift():
    rng = np.random.default_rng(0)
    report = look(rng.normal(size=(100, 3)), serve=rng.normal(size=(5, 3)))
    assert "NRM010" in {skip.code for skip in report.skipped}


@pytest.mark.parametrize("swapped", [False, True], ids=["training raw", "serving raw"])
def test_a_division_is_named_though_most_features_are_constant(swapped):
    raw = np.round(np.random.default_rng(3).uniform(0, 255, (200, 64)))
    raw[:, :40] = 0
    raw[:, 40:45] = 255
    pair = (raw / 255, raw) if swapped else (raw, raw / 255)
    report = look(pair[0], serve=pair[1])
    assert codes(report) & PAIR == {"NRM006"}
    words = "division by 255 is missing in serving" if swapped else "serving divides by 255, training did not"
    assert words in the(report, "NRM006").message
    assert ("needs (x - [0]) / [255]" if swapped else "/ [0.00392157]") in the(report, "NRM006").fix


def test_the_map_per_channel_comes_with_its_standard_errors():
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    y = (255 * np.random.default_rng(1).normal(size=(400, 3))).astype(np.float32)
    report = look(x, serve=y)
    rows = next(table for table in report.tables if table.title.startswith("serving = slope")).rows
    assert all(0.02 < row[2] / row[1] < 0.08 for row in rows)  # sqrt((1/n + 1/m) / 2) of a Gaussian: 0.047
    slope = next(item for item in report.measurements if item.name == "serving_slope")
    assert slope.interval[0] < 255 < slope.interval[1]


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_a_split_by_class_has_drifted_and_is_not_called_another_preparation(name):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    scaler = StandardScaler().fit(x[y == 0])
    report = look(scaler.transform(x[y == 0]).astype(np.float32), serve=scaler.transform(x[y == 1]).astype(np.float32))
    assert codes(report) & PAIR == {"NRM010"}
    assert not codes(report, "error")


@pytest.mark.parametrize("course", ["trend", "season"])
def test_a_split_by_time_that_moves_as_training_itself_did_is_a_note(course):
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 2000)[:, None]
    x = rng.normal(size=(2000, 6)) + (2 * t if course == "trend" else np.sin(2 * np.pi * t))
    scaler = StandardScaler().fit(x[:1600])
    report = look(scaler.transform(x[:1600]).astype(np.float32), serve=scaler.transform(x[1600:]).astype(np.float32))
    assert not codes(report, "error") | codes(report, "warning")


def test_serving_rows_of_nothing_but_one_value_or_nan_are_said():
    x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    assert "never changes" in the(look(x, serve=np.full((50, 5), 3.0, np.float32)), "NRM006").message
    assert "serving values" in the(look(x, serve=np.full((50, 5), np.nan, np.float32)), "NRM005").message


@pytest.mark.parametrize("rare", [True, False], ids=["counts", "lognormal"])
def test_a_second_standardisation_of_unpaired_rows_is_named(rare):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (900, 12)) if rare else rng.lognormal(1, 0.5, (900, 12))
    scale = StandardScaler().fit(x[:450]).transform
    report = look(scale(x[:450]).astype(np.float32), serve=scale(scale(x[450:])).astype(np.float32))
    assert codes(report) & PAIR == {"NRM008"}


def test_images_too_grey_for_their_order_are_skipped():
    grey = np.repeat(np.random.default_rng(0).random((120, 1, 12, 12)), 3, axis=1)
    noisy = (grey + np.random.default_rng(1).normal(0, 0.01, grey.shape)).astype(np.float32)
    skipped = {item.code: item.reason for item in look(noisy[:60], serve=noisy[60:]).skipped}
    assert "too alike" in skipped["NRM007"]


def blobs(seed, rows):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 6, rows)
    return (np.random.default_rng(77).normal(0, 3, (6, 8))[y] + rng.normal(size=(rows, 8))).astype(np.float32), y


TARGETS = {
    "the same": (lambda y: y, ""),
    "as floats": (lambda y: y.astype(np.float32), ""),
    "from one": (lambda y: y + 1, "training's +1"),
    "/255": (lambda y: (y / 255).astype(np.float32), "divides by 255"),
    "names sorted otherwise": (lambda y: np.array([1, 2, 0, 5, 3, 4])[y], "numbered otherwise"),
    "a class fewer": (lambda y: np.where(y > 4, y - 1, y), ""),  # one class alone might be a class that changed
}


@pytest.mark.parametrize("name", TARGETS)
def test_serving_targets_that_are_numbered_otherwise_are_named(name):
    change, words = TARGETS[name]
    (x, y), (other, z) = blobs(1, 900), blobs(2, 600)
    report = look(x, y, serve=(other, change(z)))
    assert (codes(report) & PAIR == {"NRM006"}) if words else not codes(report) & PAIR
    assert not words or words in the(report, "NRM006").message


@pytest.mark.parametrize(("curve", "words"), [(np.log1p, "log1p"), (np.log, "the logarithm"), (np.cbrt, "cube root")])
def test_a_curve_before_standardising_is_named_where_raw_rows_are_served(curve, words):
    raw = np.random.default_rng(0).lognormal(1, 0.8, (500, 4))
    scaled = StandardScaler().fit_transform(curve(raw))
    assert words in the(look(scaled, serve=raw), "NRM006").message
    assert not codes(look(scaled, serve=scaled)) & PAIR


def test_statistics_of_each_split_are_seen_beside_flags_that_nobody_scales():
    rng = np.random.default_rng(0)
    numbers, flags = rng.normal(5, 3, (900, 4)), (rng.random((900, 6)) < 0.3).astype(float)
    first, second = (StandardScaler().fit_transform(part) for part in (numbers[:500], numbers[500:]))
    assert "NRM009" in codes(look(np.c_[first, flags[:500]], serve=np.c_[second, flags[500:]]))
