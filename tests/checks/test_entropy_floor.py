"""entropy-floor on labels, predictions and curves with known answers: the right code, or silence."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from nndiag.checks.entropy_floor import EntropyFloor
from nndiag.core.check import diagnose
from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Run, Subject, Training
from nndiag.load.curves import Curve

C, N = 10, 1000
RNG = np.random.RandomState(0)
Q = RNG.dirichlet(np.ones(C) * 0.3, size=N)
IDS = RNG.randint(0, C, N)
FLOOR = float(-(Q * np.log(Q)).sum(1).mean())
PRIOR = float(-(Q.mean(0) * np.log(Q.mean(0))).sum())
TOP = math.log(C)
ONE_HOT = np.eye(C)[IDS]


def examine(inputs, loss="auto", **fields):
    subject = Subject("labels", training=Training(loss=loss), run=Run(), inputs=inputs)
    return diagnose(EntropyFloor(**fields), subject)


def codes(report):
    return sorted(f"{item.rule.code} {item.severity.word}" for item in report.findings)


def value(report, name, unit="nats"):
    return next(item.value for item in report.measurements if item.name == name and item.unit == unit)


def curve(values, rounding=5e-7, unit=""):
    values = np.asarray(values, dtype=np.float64)
    return Curve("run.csv:train_loss", np.arange(len(values), dtype=float), values, rounding, unit)


def decay(start, end, scale=40.0, noise=0.005, points=300, seed=1):  # noqa: PLR0917 - a shape has these parts
    x = np.arange(points)
    return end + (start - end) * np.exp(-x / scale) + np.random.RandomState(seed).randn(points) * noise


def judged(values, labels=Q, **more):
    unit = more.pop("unit", "")
    return examine({"labels": labels, "curve": curve(values, more.pop("rounding", 5e-7), unit)}, **more)


# ---- levels ----------------------------------------------------------------------------------------------------------


def test_floor_prior_and_ln_c_are_reported_in_nats_and_bits():
    report = examine({"labels": Q})
    assert value(report, "floor") == pytest.approx(FLOOR, rel=1e-12)
    assert value(report, "floor", "bits") == pytest.approx(FLOOR / math.log(2), rel=1e-12)
    assert value(report, "class_prior") == pytest.approx(PRIOR, rel=1e-9)
    assert value(report, "ln_classes") == pytest.approx(TOP, rel=1e-12)
    assert value(report, "floor_se") == pytest.approx((-(Q * np.log(Q)).sum(1)).std(ddof=1) / math.sqrt(N), rel=1e-9)
    assert codes(report) == []
    assert "ENT001" in report.checked
    assert {"ENT002", "ENT009", "ENT201"} <= {skip.code for skip in report.skipped}


def test_hard_labels_have_floor_zero_and_smoothed_ones_the_published_floor():
    assert value(examine({"labels": IDS}), "floor") == 0.0
    assert value(examine({"labels": IDS}, label_smoothing=0.1), "floor") == pytest.approx(0.500288, abs=5e-7)
    fairseq = examine({"labels": IDS}, label_smoothing=0.1, smoothing_style="fairseq")
    assert value(fairseq, "floor") == pytest.approx(0.544805, abs=5e-7)


def test_one_hot_rows_and_ids_are_the_same_labels():
    rows, ids = examine({"labels": ONE_HOT}, label_smoothing=0.1), examine({"labels": IDS}, label_smoothing=0.1)
    for name in ("floor", "class_prior", "ln_classes"):
        assert value(rows, name) == pytest.approx(value(ids, name), rel=1e-9)


def test_distillation_multiplies_the_floor_by_the_squared_temperature():
    soft = np.exp(log_softmax(np.log(Q) / 4.0, axis=1))
    expected = 16.0 * -(soft * np.log(soft)).sum(1).mean()
    assert value(examine({"labels": Q}, temperature=4.0), "floor") == pytest.approx(expected, rel=1e-9)


def test_a_kl_loss_has_floor_zero():
    report = examine({"labels": Q}, loss="kl")
    assert value(report, "floor") == 0.0
    assert value(report, "label_entropy") == pytest.approx(FLOOR, rel=1e-9)


def test_binary_labels_have_the_mean_binary_entropy():
    y = RNG.rand(500, 3)
    expected = -(y * np.log(y) + (1 - y) * np.log(1 - y)).mean()
    assert value(examine({"labels": y}, loss="bce"), "floor") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (IDS, "class ids"),
        (IDS.astype(np.float64), "class ids"),
        (IDS[:, None], "class ids"),
        (RNG.randint(0, 50, (20, 16)), "class ids"),
        (Q, "rows of probabilities"),
        (ONE_HOT.astype(int), "rows of probabilities (certain)"),
        ((RNG.rand(50, 4) < 0.5).astype(float), "yes-no labels (certain)"),
        (RNG.rand(50), "yes-no labels"),
        (RNG.dirichlet(np.ones(5), size=(8, 6)), "rows of probabilities"),
        (np.moveaxis(RNG.dirichlet(np.ones(5), size=(8, 6)), -1, 1), "rows of probabilities"),
    ],
)
def test_labels_are_understood(labels, kind):
    report = examine({"labels": labels})
    assert report.target["kind"] == kind
    assert [item for item in codes(report) if "error" in item] == []


def test_ignored_ids_are_left_out_of_everything():
    ids = np.where(np.arange(N) % 3 == 0, -100, IDS)
    report = examine({"labels": ids})
    assert report.target["ignored"] == (N + 2) // 3
    assert report.target["samples"] == N - (N + 2) // 3


def test_what_a_dtype_can_show_is_one_step_at_the_floor():
    report = examine({"labels": Q})
    assert value(report, "smallest_kl_float32") == 2.0**-23
    assert value(report, "smallest_kl_float64") == 2.0**-52
    assert value(report, "smallest_kl_bfloat16") == 2.0**-7
    gini = (1.0 - (Q**2).sum(1)).mean()
    assert value(report, "logit_error_float32", "logits") == pytest.approx(math.sqrt(2 * 2.0**-23 / gini), rel=1e-9)


# ---- predictions -----------------------------------------------------------------------------------------------------


def logits(error, seed=2):
    return (np.log(Q) + np.random.RandomState(seed).randn(N, C) * error).astype(np.float32)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(1.0, []), (0.3, []), (1e-2, ["ENT002 note"]), (1e-4, ["ENT002 note", "ENT004 warning"])],
)
def test_logits_near_the_labels(error, expected):
    report = examine({"labels": Q, "logits": logits(error)})
    assert codes(report) == expected
    p = log_softmax(logits(error).astype(np.float64), axis=1)
    assert value(report, "kl") == pytest.approx((Q * (np.log(Q) - p)).sum(1).mean(), rel=1e-5, abs=1e-14)


def test_the_threads_answer_is_one_sentence_with_its_numbers():
    report = examine(
        {"labels": [[0.39019628, 0.44301641, 0.16678731]], "predictions": [[0.39511779, 0.44509024, 0.15979198]]}
    )
    assert report.answers[0].startswith(
        "loss 1.02681 is 0.0182 % above its floor 1.02662 nats: training is done, not stuck"
    )
    assert value(report, "kl") == pytest.approx(1.8654069e-4, rel=1e-7)
    assert value(report, "loss") == pytest.approx(1.026805546765045, abs=1e-12)
    assert value(report, "floor") == pytest.approx(1.026619006076872, abs=1e-12)
    assert value(report, "largest_probability_error", "probability") == pytest.approx(0.007, abs=5e-5)


def test_probabilities_taken_for_logits_are_a_double_softmax():
    report = examine({"labels": Q, "logits": softmax(logits(0.3), axis=1)})
    assert codes(report) == ["ENT006 warning"]
    assert "double softmax" in report.findings[0].message


@pytest.mark.parametrize("scale", [1.0, 0.999])
def test_predictions_that_went_through_two_softmaxes_are_recognised(scale):
    report = examine({"labels": IDS, "predictions": softmax(ONE_HOT * scale, axis=1)})
    assert codes(report) == ["ENT006 warning"]


def test_tanh_logits_are_recognised():
    z = np.tanh(ONE_HOT * 6 - 3 + RNG.randn(N, C) * 0.3)
    report = examine({"labels": IDS, "logits": z})
    assert codes(report) == ["ENT006 warning"]
    assert "tanh" in report.findings[0].message


def test_small_logits_of_an_untrained_model_are_no_bounded_logits():
    report = examine({"labels": IDS, "logits": RNG.randn(N, C) * 0.1})
    assert "ENT006 warning" not in codes(report)


def test_constant_predictions_ignore_the_inputs():
    assert codes(examine({"labels": Q, "predictions": np.tile(Q.mean(0), (N, 1))})) == ["ENT005 warning"]


def test_a_weak_model_at_half_way_is_no_finding():
    z = np.log(0.5 * Q + 0.5 * Q.mean(0))
    assert codes(examine({"labels": Q, "logits": z})) == []


def test_sigmoids_that_sum_to_more_than_one_are_below_the_floor():
    report = examine({"labels": Q, "predictions": np.clip(softmax(logits(0.3), axis=1) * 3, 0, 1)})
    assert codes(report) == ["ENT003 error"]


def test_a_softmax_over_the_batch_is_named():
    with pytest.raises(NndiagError, match="wrong axis"):
        examine({"labels": IDS, "predictions": softmax(logits(0.3), axis=0)})


def test_binary_logits_at_their_labels_are_done():
    y = np.clip(RNG.rand(300, 2), 0.02, 0.98)
    z = np.log(y / (1 - y)) + RNG.randn(300, 2) * 0.01
    assert codes(examine({"labels": y, "logits": z}, loss="bce")) == ["ENT002 note"]


@pytest.mark.parametrize("order", ["last", "torch"])
def test_token_logits_are_taken_in_either_order(order):
    ids, z = RNG.randint(0, 7, (20, 12)), RNG.randn(20, 12, 7)
    given = z if order == "last" else np.moveaxis(z, -1, 1)
    expected = -log_softmax(z, axis=-1)[np.arange(20)[:, None], np.arange(12), ids].mean()
    assert value(examine({"labels": ids, "logits": given}), "loss") == pytest.approx(expected, rel=1e-9)


def test_weighted_hard_labels_are_averaged_as_torch_does():
    import torch
    from torch.nn import functional

    z, w = RNG.randn(N, C), np.linspace(0.5, 3.0, C)
    report = examine({"labels": IDS, "logits": z, "class_weights": list(w)}, label_smoothing=0.1)
    loss = functional.cross_entropy(
        torch.from_numpy(z), torch.from_numpy(IDS), weight=torch.from_numpy(w), label_smoothing=0.1
    )
    assert value(report, "loss") == pytest.approx(float(loss), rel=1e-9)


# ---- curves ----------------------------------------------------------------------------------------------------------

BITS = 1.0 / math.log(2.0)
CURVES = {
    "descending": (decay(TOP, FLOOR + 0.3, scale=100), {}, []),
    "descending noisily": (decay(TOP, FLOOR + 0.2, scale=100, noise=0.1), {}, []),
    "resting above the floor": (decay(TOP, FLOOR + 0.25, scale=20), {}, []),
    "converged": (decay(TOP, FLOOR + 0.001), {}, ["ENT002 note"]),
    "below": (decay(TOP, 0.7 * FLOOR), {}, ["ENT003 error"]),
    "at the prior": (decay(TOP + 0.4, PRIOR, scale=10), {}, ["ENT005 warning"]),
    "in bits": (BITS * decay(TOP, FLOOR + 0.002), {}, ["ENT009 warning"]),
    "in bits, told": (BITS * decay(TOP, FLOOR + 0.001), {"units": "bits"}, ["ENT002 note"]),
    "in bits, by its name": (BITS * decay(TOP, FLOOR + 0.001), {"unit": "bits"}, ["ENT002 note"]),
    "in log10": (decay(TOP, FLOOR + 0.002) / math.log(10), {}, ["ENT003 error", "ENT009 warning"]),
    "mean over classes too": (decay(TOP, FLOOR + 0.002) / C, {}, ["ENT003 error", "ENT009 warning"]),
    "sum over 64": (64 * decay(TOP, FLOOR + 0.002), {}, ["ENT009 warning"]),
    "sum over 128, well above the floor": (128 * decay(TOP, FLOOR + 0.1 * (TOP - FLOOR)), {}, ["ENT009 warning"]),
    "44 times as much, over no usual size": (44 * decay(TOP, FLOOR + 0.4 * (TOP - FLOOR)), {}, []),
    "perplexity": (np.exp(decay(TOP, FLOOR + 0.002)), {}, ["ENT009 warning"]),
    "perplexity, by its name": (np.exp(decay(TOP, FLOOR + 0.001)), {"unit": "perplexity"}, ["ENT002 note"]),
    "two digits": (np.round(decay(TOP, FLOOR, noise=0), 2), {"rounding": 5e-3}, ["ENT002 note"]),
    "a kl": (decay(TOP - FLOOR, 0.0005, noise=0.001), {"loss": "kl"}, ["ENT002 note"]),
}
HARD_CURVES = {
    "descending": (decay(TOP, 0.05, scale=100), {}, []),
    "resting at 60 % accuracy": (decay(TOP, 1.1, scale=20), {}, []),
    "double softmax": (decay(TOP, 1.4612, noise=0.001), {}, ["ENT006 warning"]),
    "double softmax, 98 % right": (decay(TOP, 1.4742, noise=0.003), {}, ["ENT006 warning"]),
    "tanh": (decay(TOP, 0.7966, noise=0.003), {}, ["ENT006 warning"]),
    "cosine": (decay(TOP, 1.3769, noise=0.003), {}, ["ENT006 warning"]),
    "passing 1.46 on the way": (decay(TOP, 0.2, scale=300), {}, []),
    "smoothed, told": (decay(TOP, 0.501, noise=0.002), {"label_smoothing": 0.1}, ["ENT002 note"]),
    "told smoothed, but is not": (decay(TOP, 0.05, noise=0.002), {"label_smoothing": 0.1}, ["ENT003 error"]),
    "minus a probability": (decay(-0.1, -0.95), {}, ["ENT003 error"]),
    "prior": (decay(TOP + 0.4, TOP, scale=10), {}, ["ENT005 warning"]),
    "near tanh, but batches fall below it": (decay(TOP, 0.8, noise=0.02), {}, []),
    "prior in bits": (BITS * decay(1.07 * TOP, TOP, scale=10), {}, ["ENT009 warning"]),
    "prior, four micro-batches added": (4 * decay(1.04 * TOP, TOP, scale=10), {}, ["ENT009 warning"]),
    "rests 1 % above four times the prior": (4 * decay(1.04 * TOP, 1.01 * TOP, scale=10), {}, []),
    "rests at four times the prior, from ten times": (4 * decay(2.5 * TOP, TOP, scale=10), {}, ["ENT009 note"]),
    "sum over 64": (64 * decay(TOP, 0.3), {}, ["ENT009 warning"]),
    "sum over the 1000 rows": (N * decay(TOP, 0.3), {}, ["ENT009 warning"]),
    "perplexity that ends above ln C": (np.exp(decay(TOP, 1.2)), {}, ["ENT009 warning"]),
    "with further terms": (decay(14.0, 6.5), {}, ["ENT009 note"]),
    "raw pixels: starts at 92": (decay(92.0, 1.2, scale=20), {}, []),
    "starts at 64 ln C and still falls": (decay(64 * TOP, 30.0, scale=150), {}, []),
    "diverged": (np.concatenate([decay(TOP, 1.0), 1.0 + np.exp(np.linspace(0, 5, 60))]), {}, []),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_over_soft_labels(name):
    values, more, expected = CURVES[name]
    assert codes(judged(values, **more)) == expected


@pytest.mark.parametrize("name", HARD_CURVES)
def test_a_curve_over_hard_labels(name):
    values, more, expected = HARD_CURVES[name]
    assert codes(judged(values, IDS, **more)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (decay(1.05 * TOP, TOP, scale=10), ["ENT005 warning"]),
        (np.concatenate([decay(TOP, 1.0, scale=10), decay(1.0, TOP, scale=30)]), []),  # overfitted on its way there
        (decay(1.05 * TOP, 0.99 * TOP, scale=10), []),
        (None, ["ENT005 warning"]),  # predictions, all 1/C
    ],
)
def test_a_curve_that_rests_at_equal_odds_has_not_even_learnt_the_shares_of_the_classes(values, expected):
    labels = np.minimum(IDS, RNG.randint(0, C, N))
    report = examine({"labels": labels, "logits": np.zeros((N, C))}) if values is None else judged(values, labels)
    assert codes(report) == expected


def test_a_sum_over_tokens_that_starts_near_the_number_of_classes_is_no_perplexity():
    tokens = np.random.RandomState(0).choice(1000, (8, 128), p=(odds := 1.0 / np.arange(1, 1001)) / odds.sum())
    share = np.bincount(tokens.ravel()) / tokens.size
    prior = -(share[share > 0] * np.log(share[share > 0])).sum()
    report = judged(128 * decay(7.0, prior, scale=10), tokens, classes=1000)  # 128 x 7 is nearly 1000
    assert "sum over 128 tokens" in report.findings[0].message


@pytest.mark.parametrize("seed", range(40))
def test_healthy_noisy_curves_stay_silent(seed):
    rng = np.random.RandomState(seed)
    end, scale, noise = FLOOR + rng.uniform(0.1, 0.5), rng.uniform(30, 150), rng.uniform(0.0, 0.15)
    start = TOP * (rng.uniform(0.98, 1.2) if seed % 2 else rng.uniform(1.2, 8.0))  # untrained, or badly initialised
    assert codes(judged(decay(start, end, scale, noise, points=rng.randint(15, 600), seed=seed))) == []


def test_a_bfloat16_log_hides_the_rest():
    values = decay(TOP, FLOOR + 0.003, noise=0).astype(np.float32)
    values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert codes(judged(values, rounding=5e-9)) == ["ENT002 note", "ENT004 warning"]


def test_a_float32_staircase_at_the_floor_hides_the_rest():
    values = (decay(TOP, FLOOR, scale=10, noise=0) + 1e-7).astype(np.float32)
    assert codes(judged(values, rounding=5e-10)) == ["ENT002 note", "ENT004 warning"]


def test_a_double_softmax_over_soft_labels_has_its_own_floor():
    from nndiag.science.entropy_structure import DOUBLE_SOFTMAX, soft_structures

    level = soft_structures(Q)[DOUBLE_SOFTMAX].mean()
    assert codes(judged(decay(TOP, level, noise=0.001))) == ["ENT006 warning"]


def test_a_curve_and_a_number_of_classes_are_enough_for_structural_floors():
    report = examine({"curve": curve(decay(TOP, 1.4612, noise=0.001))}, classes=10)
    assert codes(report) == ["ENT006 warning"]
    assert "ENT005" in {skip.code for skip in report.skipped}


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (Q * 100, "percentages"),
        (RNG.multinomial(50, [0.1] * 10, size=200).astype(float), "counts"),
        (1 / (1 + np.exp(-RNG.randn(200, 10))), "--loss bce"),
    ],
)
def test_wrong_sums_are_explained(labels, word):
    report = examine({"labels": labels})
    assert codes(report) == ["ENT001 error"]
    assert word in report.findings[0].fix


def test_slightly_truncated_rows_are_a_warning():
    assert codes(examine({"labels": Q * 0.97})) == ["ENT001 warning"]


@pytest.mark.parametrize("rounded", [Q.round(2), Q.round(4), Q.astype(np.float16), Q.astype(np.float32)])
def test_rounded_labels_do_not_alarm(rounded):
    assert codes(examine({"labels": rounded})) == []


def test_ids_that_start_at_one_are_told_to_start_at_zero():
    report = examine({"labels": IDS + 1}, classes=10)
    assert codes(report) == ["ENT001 error"]
    assert "subtract 1" in report.findings[0].fix
    assert "--ignore-index -1" in examine({"labels": np.where(IDS == 0, -1, IDS)}).findings[0].fix


@pytest.mark.parametrize(
    ("weights", "labels", "more", "expected"),
    [
        ([1.0] * 9 + [5.0], Q, {}, ["ENT007 warning"]),
        ([2.0] * 10, Q, {}, []),
        ([1.0] * 9 + [5.0], IDS, {}, []),
        ([1.0] * 9 + [1.2], IDS, {"label_smoothing": 0.1}, []),
        ([1.0] * 9 + [50.0], IDS, {"label_smoothing": 0.1}, ["ENT007 warning"]),
    ],
)
def test_class_weights_and_soft_labels(weights, labels, more, expected):
    assert codes(examine({"labels": labels, "class_weights": weights}, **more)) == expected


def test_equal_inputs_with_different_labels_raise_the_floor_by_their_entropy():
    x = np.repeat(np.arange(50.0), 2)[:, None]
    y = np.concatenate([np.tile([0, 1], 25), np.ones(50, dtype=int)])
    report = examine({"labels": y, "x": x})
    assert codes(report) == ["ENT008 note"]
    assert value(report, "floor_given_inputs") == pytest.approx(0.5 * math.log(2), rel=1e-9)


def test_soft_labels_of_equal_inputs_cost_the_entropy_of_their_mean():
    q = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    report = examine({"labels": q, "x": np.array([[0.0], [-0.0], [1.0]])})
    from scipy.stats import entropy

    expected = (2 * entropy([0.7, 0.3]) + entropy([0.2, 0.8])) / 3
    assert value(report, "floor_given_inputs") == pytest.approx(expected, rel=1e-9)


def test_equal_inputs_with_different_labels_raise_the_floor_of_the_answer():
    x, y = np.repeat(np.arange(50.0)[:, None], 2, axis=0), np.tile([0, 1], 50)
    report = examine({"labels": y, "x": x})
    assert "gets below 0.693147 nats" in report.answers[0]
    done = examine({"labels": y, "x": x, "logits": np.zeros((100, 2))})
    assert "ENT002 note" in codes(done)
    curve_at_it = examine({"labels": np.tile([0, 1, 2, 3, 0, 2], 30), "x": np.repeat(np.arange(90.0), 2)[:, None],
                           "curve": curve(decay(math.log(4), math.log(2), noise=1e-4))})  # fmt: skip
    assert "ENT002 note" in codes(curve_at_it)


def test_distinct_inputs_contradict_nothing():
    report = examine({"labels": IDS, "x": RNG.randn(N, 3)})
    assert codes(report) == []
    assert "ENT008" in report.checked


def test_a_loss_without_a_floor_is_refused():
    with pytest.raises(UsageError):
        examine({"labels": Q}, loss="mse")


# ---- yes-no weights and teachers --------------------------------------------------------------------------------------


def least(objective, shape):
    """The least value that torch's L-BFGS finds, from zeros."""
    import torch

    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([x], max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = objective(x) * 1000.0
        loss.backward()
        return loss

    solver.step(closure)
    return float(objective(x).detach())


def test_pos_weight_moves_floor_prior_and_loss_as_torch_computes_them():
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    y, z, w = RNG.uniform(0.02, 0.98, (60, 3)), RNG.randn(60, 3), [1.0, 4.0, 0.5]
    report = examine({"labels": y, "logits": z, "class_weights": w}, loss="bce")
    targets, weight = torch.from_numpy(y), torch.tensor(w, dtype=torch.float64)
    assert value(report, "floor") == pytest.approx(
        least(lambda x: bce(x, targets, pos_weight=weight), (60, 3)), rel=1e-7
    )
    prior = least(lambda x: bce(x.expand(60, 3), targets, pos_weight=weight), (1, 3))
    assert value(report, "class_prior") == pytest.approx(prior, rel=1e-7)
    assert value(report, "loss") == pytest.approx(float(bce(torch.from_numpy(z), targets, pos_weight=weight)), rel=1e-9)
    assert "ENT007 warning" in codes(report)


def test_one_yes_no_label_takes_two_weights_and_hard_ones_keep_the_floor_zero():
    y = RNG.randint(0, 2, 200)
    assert value(examine({"labels": y, "class_weights": [1.0, 9.0]}, loss="bce"), "floor") == 0.0
    with pytest.raises(UsageError, match="5 class weights for 1 yes-no entry"):
        examine({"labels": y, "class_weights": [1.0] * 5}, loss="bce")


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.3), (2.0, 0.9), (1.0, 0.5)])
def test_a_teacher_beside_labels_gives_the_floor_that_torch_can_reach(temperature, alpha):
    import torch
    from torch.nn import functional

    teacher, y, z = RNG.randn(40, 5) * 2, RNG.randint(0, 5, 40), RNG.randn(40, 5)
    hard, soft = torch.from_numpy(y), functional.softmax(torch.from_numpy(teacher) / temperature, 1)

    def objective(x):
        x = x.expand(40, 5)
        kl = functional.kl_div(functional.log_softmax(x / temperature, 1), soft, reduction="batchmean")
        return alpha * functional.cross_entropy(x, hard) + (1 - alpha) * temperature**2 * kl

    inputs = {"labels": y, "teacher": teacher, "logits": z}
    report = examine(inputs, temperature=temperature, alpha=alpha)
    assert value(report, "floor") == pytest.approx(least(objective, (40, 5)), rel=1e-6)
    assert value(report, "class_prior") == pytest.approx(least(objective, (1, 5)), rel=1e-6)
    assert value(report, "loss") == pytest.approx(float(objective(torch.from_numpy(z))), rel=1e-9)
    given = {**inputs, "teacher": softmax(teacher, axis=1)}
    assert value(examine(given, temperature=temperature, alpha=alpha), "floor") == pytest.approx(value(report, "floor"))


def test_a_teacher_of_other_rows_or_a_broken_one_is_refused():
    y, teacher = RNG.randint(0, 3, 30), RNG.dirichlet(np.ones(3), 30)
    with pytest.raises(NndiagError, match="29 rows"):
        examine({"labels": y, "teacher": teacher[:29]})
    with pytest.raises(NndiagError, match="row 20"):
        examine({"labels": np.where(np.arange(30) == 20, 7, y), "teacher": RNG.randn(30, 3)})


def focal(_outputs, _targets):
    return 0.0


@pytest.mark.parametrize("loss", ["train.py:focal", focal])
def test_a_loss_of_the_users_own_has_no_known_floor(loss):
    report = examine({"labels": IDS}, loss=loss)
    assert "focal" in report.empty
    assert report.checked == ()
