"""Inputs and targets by themselves: healthy sets are quiet, each fault has its own code."""

import numpy as np
import pytest
from sklearn import datasets
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from checks.normalization_bench import codes, imagenet, look, number, photos, the

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(400, 20))
LABELS = RNG.integers(0, 10, 400)


def column_times(factor):
    x = Z.copy()
    x[:, 7] *= factor
    return x


def padded_tokens():
    ids = np.random.default_rng(1).integers(1, 30_000, (300, 64))
    for row, length in enumerate(np.random.default_rng(2).integers(10, 64, 300)):
        ids[row, length:] = 0
    return ids


def tfidf():
    rng = np.random.default_rng(3)
    x = rng.exponential(size=(300, 2000)) * (rng.random((300, 2000)) < 0.02)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


HEALTHY = {
    "iris raw": lambda: datasets.load_iris().data,
    "digits raw": lambda: datasets.load_digits().data,
    "digits images": lambda: datasets.load_digits().images / 16,
    "diabetes as shipped": lambda: datasets.load_diabetes().data,
    "breast cancer standardised": lambda: StandardScaler().fit_transform(datasets.load_breast_cancer().data),
    "wine to [0, 1]": lambda: MinMaxScaler().fit_transform(datasets.load_wine().data),
    "images in [0, 1]": lambda: photos(0) / 255,
    "images in [-1, 1]": lambda: photos(0) / 127.5 - 1,
    "images by ImageNet": lambda: imagenet(photos(0)),
    "tokens": lambda: np.random.default_rng(0).integers(0, 30_000, (300, 64)),
    "few tokens": lambda: np.random.default_rng(0).integers(0, 90, (300, 64)),
    "padded tokens": padded_tokens,
    "one-hot": lambda: np.eye(50)[np.random.default_rng(0).integers(0, 50, 500)],
    "masks": lambda: np.random.default_rng(0).integers(0, 2, (200, 1, 8, 8)).astype(float),
    "counts": lambda: np.random.default_rng(0).poisson(0.3, (500, 60)),
    "tf-idf": tfidf,
    "log-mel spectrogram": lambda: np.random.default_rng(0).normal(-5, 3, (60, 80, 100)).astype(np.float32),
    "audio in [-1, 1]": lambda: np.random.default_rng(0).normal(0, 0.1, (40, 4000)).astype(np.float32),
    "half precision": lambda: Z.astype(np.float16),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_inputs_raise_neither_error_nor_warning(name):
    report = look(HEALTHY[name]())
    assert not codes(report, "error") | codes(report, "warning")
    assert report.answers


def _twice():
    mean, sd = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (imagenet(photos(0)).astype(np.float64) - mean) / sd


def _overflow():
    with np.errstate(over="ignore"):
        return (1e5 * Z).astype(np.float16)


SICK = {
    "bytes": (lambda: photos(0).astype(np.uint8), "NRM001", "0-255"),
    "flat bytes": (lambda: photos(0).astype(np.uint8).reshape(200, -1), "NRM001", "0-255"),
    "times 255": (lambda: 255 * Z, "NRM001", "larger"),
    "divided twice": (lambda: photos(0) / 255 / 255, "NRM001", "255 twice"),
    "16-bit audio": (lambda: RNG.normal(0, 3000, (50, 2000)).astype(np.int16), "NRM001", "16-bit audio"),
    "offset 40": (lambda: Z + 40, "NRM002", "standard deviations"),
    "one column x 1e4": (lambda: column_times(1e4), "NRM003", "feature 7"),
    "one column / 1e4": (lambda: column_times(1e-4), "NRM003", "feature 7"),
    "wine raw": (lambda: datasets.load_wine().data, "NRM003", "feature 12"),
    "breast cancer raw": (lambda: datasets.load_breast_cancer().data, "NRM003", "scales"),
    "ImageNet twice": (_twice, "NRM008", "twice"),
    "overflow": (_overflow, "NRM013", "float16"),
}


@pytest.mark.parametrize("name", SICK)
def test_each_fault_of_the_inputs_has_its_code(name):
    make, code, words = SICK[name]
    report = look(make())
    assert code in codes(report)
    assert words in the(report, code).message
    assert the(report, code).fix
    assert len(codes(report) & {"NRM001", "NRM002", "NRM003"}) <= 1, "one cause, one finding"


@pytest.mark.parametrize(("sd", "off", "level"), [(1.0, slice(None), "warning"), (5e3, slice(5, 6), "note")])
def test_an_offset_is_a_warning_where_it_is_what_makes_the_inputs_large(sd, off, level):
    x = sd * Z
    x[:, off] += 40 * sd
    assert the(look(x), "NRM002").severity.word == level


def test_the_constants_to_insert_are_spelled_out():
    x = photos(1)
    said = the(look(x), "NRM001").fix
    assert "divide by 255" in said
    assert f"{x[:, 0].mean() / 255:.4g}" in said
    assert "Rescaling(1/255)" in said


def test_non_finite_values_are_counted_and_located():
    x = Z.copy()
    x[61, 3] = np.nan
    x[70, 5] = np.inf
    found = the(look(x), "NRM005")
    assert found.evidence.value == 2
    assert "row 61, feature 3" in found.message
    assert found.severity.word == "error"


def test_constant_features_are_one_note():
    x = Z.copy()
    x[:, [2, 9]] = 3.0
    found = the(look(x), "NRM004")
    assert found.severity.word == "note"
    assert "feature 2, feature 9" in found.message


@pytest.mark.parametrize(
    ("targets", "code"),
    [
        (LABELS / 255, "NRM012"),
        ((LABELS > 4) / 255, "NRM012"),
        (LABELS / 127.5 - 1, "NRM012"),
        (((LABELS > 6) - np.mean(LABELS > 6)) / np.std(LABELS > 6), "NRM012"),
        (2e5 + 5e4 * Z[:, 0], "NRM011"),
        (1e-5 * Z[:, 0], "NRM011"),
        (LABELS, None),
        (LABELS.astype(float), None),
        (Z[:, 0], None),
        (20 + 9 * Z[:, 0], None),
        ((LABELS > 4).astype(np.float32), None),
        (np.where(LABELS > 4, 1.0, -1.0), None),
        (np.where(LABELS > 4, 0.7, 0.3), None),
    ],
)
def test_targets(targets, code):
    assert codes(look(Z, targets)) & {"NRM011", "NRM012"} == ({code} if code else set())


def test_the_spectrum_is_reported_with_its_baseline():
    report = look(np.random.default_rng(0).random((2000, 40)))
    assert number(report, "condition_uncentred") > 100 * number(report, "condition_centred") / number(
        report, "condition_white_baseline"
    )


def test_axes_are_printed_and_can_be_given():
    x = np.random.default_rng(0).normal(size=(30, 80, 50)).astype(np.float32)
    assert "(N, T, features)" in look(x).context[0]
    report = look(x, axis=1)
    assert report.target["feature_axis"] == 1
    assert "given" in report.context[0]


def test_one_row_all_nan_and_all_constant_are_said_not_judged():
    assert {skip.code for skip in look(Z[:1]).skipped} >= {"NRM003", "NRM004"}
    assert codes(look(np.full((9, 3), np.nan)), "error") == {"NRM005"}
    assert codes(look(np.ones((50, 3)))) == {"NRM004"}


def test_series_for_the_figures_exist():
    groups = {series.group for series in look(Z).series}
    assert groups >= {"inputs", "per-feature range"}


def test_a_rare_feature_that_dwarfs_all_others_is_named_and_a_plain_one_is_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6))
    x[:, 2] = np.where(rng.random(500) < 0.03, 1.0, 0.0) * rng.random(500)
    assert not codes(look(x.astype(np.float32)))
    x[:, 2] *= 1e5
    assert the(look(x.astype(np.float32)), "NRM003").where.module == "feature 2"


def test_a_finding_about_scale_says_how_sure_it_is():
    x = 40 + np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    evidence = the(look(x), "NRM002").evidence
    assert evidence.interval[0] < evidence.value < evidence.interval[1] < 1.3 * evidence.value


def test_one_large_column_beside_flags_is_named():
    flags = np.eye(12)[np.random.default_rng(0).integers(0, 12, 400)]
    flags[:, 3] *= 1e4
    assert the(look(flags.astype(np.float32)), "NRM003").where.module == "feature 3"
