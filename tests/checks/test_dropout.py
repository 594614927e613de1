"""check-dropout on small models: the sick named at the right place, the healthy and the intentional left alone."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from checks.dropout_subject import codes, examine
from nndiag.core.errors import NndiagError

X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randn(256, 1, generator=torch.Generator().manual_seed(1))


class Hand(nn.Module):
    """A hand-written dropout in several states of health."""

    def __init__(self, way="inverted", p=0.5, mask="rand"):
        super().__init__()
        self.a, self.b, self.way, self.p, self.mask = nn.Linear(16, 128), nn.Linear(128, 1), way, p, mask

    def drop(self, h):
        q = 1 - self.p
        if not self.training:
            return h * q if self.way == "compensated" else h
        if self.mask == "rand":
            h = h * (torch.rand_like(h) > self.p)
        elif self.mask == "bernoulli":
            h = h * torch.bernoulli(torch.full_like(h, q))
        elif self.mask == "fill":
            h = h.masked_fill(torch.rand(h.shape) < self.p, 0.0)
        elif self.mask == "where":
            h = torch.where(torch.rand(h.shape) < q, h, torch.zeros_like(h))
        elif self.mask == "inplace":
            h = h.clone()
            h *= torch.empty_like(h).bernoulli_(q)
        return {"inverted": h / q, "missing": h, "compensated": h, "double": h / q / q}[self.way]

    def forward(self, x):
        return self.b(self.drop(torch.relu(self.a(x))))


class Functional(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.body, self.head, self.call = nn.Linear(16, 64), nn.Linear(64, 1), call

    def forward(self, x):
        return self.head(self.call(torch.relu(self.body(x)), self))


def mlp(*layers):
    return lambda: nn.Sequential(*copy.deepcopy(layers))


@pytest.mark.parametrize("mask", ["rand", "bernoulli", "fill", "where", "inplace"])
@pytest.mark.parametrize(
    ("way", "code", "slope"),
    [("inverted", None, 1.0), ("missing", "DRP103", 0.7), ("compensated", None, 1.0), ("double", "DRP104", 1 / 0.7)],
)
def test_hand_written_scales_are_told_apart_by_their_slope(mask, way, code, slope):
    report = examine(lambda: Hand(way, 0.3, mask), X, Y)
    assert codes(report) & {"DRP101", "DRP103", "DRP104"} == ({code} if code else set())
    measured = next(m for m in report.measurements if m.name == "train_eval_slope")
    assert measured.value == pytest.approx(slope, abs=0.03)
    if code:
        found = next(f for f in report.findings if f.rule.code == code)
        assert found.where.file.endswith("test_dropout.py")
        assert found.evidence.interval[0] < slope < found.evidence.interval[1]


def numpy_mask(h, keep):
    return torch.from_numpy(np.random.binomial(1, keep, h.shape)).to(h)


@pytest.mark.parametrize(("scale", "code"), [(2.0, None), (1.0, "DRP103"), (4.0, "DRP104")])
def test_a_mask_drawn_in_numpy_is_judged_like_any_other(scale, code):
    report = examine(lambda: Functional(lambda h, m: h * numpy_mask(h, 0.5) * scale if m.training else h), X, Y)
    assert codes(report) & {"DRP101", "DRP103", "DRP104"} == ({code} if code else set())


def test_a_mask_drawn_in_numpy_in_eval_mode_too_is_named_with_its_line():
    report = examine(lambda: Functional(lambda h, _: h * numpy_mask(h, 0.5) * 2), X, Y)
    found = next(f for f in report.findings if f.rule.code == "DRP101")
    assert found.where.file.endswith("test_dropout.py")


def test_a_constant_that_numpy_made_is_no_mask():
    fixed = np.random.default_rng(0).integers(0, 2, 64).astype("float32")
    report = examine(lambda: Functional(lambda h, m: F.dropout(h, 0.2, m.training) * torch.from_numpy(fixed)), X, Y)
    assert not {f.rule.code for f in report.findings if f.severity.word != "note"}
    assert len([m for m in report.measurements if m.name == "train_eval_slope"]) == 1


def test_dropout_in_front_of_an_encoder_layer_is_in_series_with_none_of_its_own():
    def build():
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        return nn.Sequential(nn.Dropout(0.1), nn.TransformerEncoder(layer, 2), nn.Linear(16, 1))

    assert "DRP006" not in codes(examine(build, torch.randn(16, 6, 16)))


def test_other_randomness_in_training_is_a_fact_of_the_report():
    report = examine(
        lambda: Functional(lambda h, m: F.dropout(h + torch.randn_like(h) if m.training else h, 0.1, m.training)), X, Y
    )
    assert not {f.rule.code for f in report.findings if f.severity.word != "note"}
    assert "randn_like" in report.target["other_randomness"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_without_visible_dropout_is_said_to_hide_its_randomness():
    report = examine(lambda: torch.jit.script(nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.5))), X)
    assert report.exit_code == 4
    assert any("something that calls no torch function" in skip.reason for skip in report.skipped)


@pytest.mark.parametrize(
    "call",
    [
        lambda h, _: F.dropout(h, 0.3),
        lambda h, _: F.dropout1d(h[:, None], 0.3)[:, 0],
        lambda h, _: F.alpha_dropout(h, 0.3, training=True),
        lambda h, _: h * torch.bernoulli(torch.full_like(h, 0.7)) / 0.7,
        lambda h, _: F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None], dropout_p=0.5)[:, 0],
    ],
)
def test_what_drops_in_eval_mode_is_named_with_its_line(call):
    report = examine(lambda: Functional(call), X, Y)
    found = next(f for f in report.findings if f.rule.code == "DRP101")
    assert found.where.module == ""
    assert found.where.file.endswith("test_dropout.py")
    assert report.exit_code == 1


def test_dropout_told_to_stay_on_in_so_many_letters_is_a_warning_that_says_how_to_accept_it():
    report = examine(lambda: Functional(lambda h, _: F.dropout(h, 0.3, training=True)), X, Y)
    (found,) = [f for f in report.findings if f.rule.code == "DRP101"]
    assert (found.severity.word, "[[ignore]]" in found.fix) == ("warning", True)


def test_alpha_dropout_that_was_never_told_to_train_is_found():
    report = examine(lambda: Functional(lambda h, _: F.alpha_dropout(F.selu(h), 0.2)), X, Y)
    assert "DRP102" in codes(report)


@pytest.mark.parametrize(
    ("asleep", "frozen", "place"),
    [
        ("drop", False, "drop"), ("backbone", False, "backbone.2"), ("backbone", True, None),
        ("", False, "backbone.2"), ("", True, None),  # the forward does it
    ],
)  # fmt: skip
def test_dropout_left_in_eval_by_the_models_own_train_is_found_and_a_frozen_backbone_is_said_to_be_one(
    asleep, frozen, place
):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2)).requires_grad_(not frozen)
            self.drop, self.head = nn.Dropout(0.2), nn.Linear(64, 1)

        def train(self, mode=True):
            super().train(mode)
            if asleep:
                self.get_submodule(asleep).eval()
            return self

        def forward(self, x):
            if not asleep:
                self.backbone.eval()
            return self.head(self.drop(self.backbone(x)))

    report = examine(Half, X, Y)
    assert [f.where.module for f in report.findings if f.rule.code == "DRP102"] == ([place] if place else [])
    assert [s.where for s in report.skipped if s.code == "DRP102"] == ([] if place else ["backbone"])


@pytest.mark.parametrize(("first", "found"), [(0, True), (2, False)])
def test_a_sleeping_part_that_the_users_optimizer_never_moves_is_frozen(first, found):
    class Part(nn.Sequential):
        def train(self, mode=True):
            return super().train(mode=False)

    build = lambda: nn.Sequential(Part(nn.Linear(16, 64), nn.Dropout(0.2)), nn.Linear(64, 1))  # noqa: E731 - a builder in one line
    report = examine(build, X, Y, optimizer=lambda params: torch.optim.SGD(list(params)[first:], lr=0.1))
    assert ("DRP102" in codes(report)) is found


@pytest.mark.parametrize(("p", "ratio"), [(0.1, 1.05), (0.5, 1.41), (0.8, 2.20)])
def test_the_mean_behind_linear_and_relu_grows_as_published_and_the_closed_form_says_so(p, ratio):
    x = torch.relu(torch.randn(512, 256, generator=torch.Generator().manual_seed(0)))
    report = examine(mlp(nn.Dropout(p), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)), x)
    numbers = {m.name: m.value for m in report.measurements}
    assert numbers["mean_ratio"] == pytest.approx(ratio, rel=0.08)
    assert numbers["mean_ratio_predicted"] == pytest.approx(numbers["mean_ratio"], rel=0.05)
    levels = {f.severity.word for f in report.findings if f.rule.code == "DRP106"}
    assert levels == {0.1: set(), 0.5: {"note"}, 0.8: {"warning"}}[p]


def test_sigmoid_keeps_its_mean_behind_a_centred_sum():
    x = torch.relu(torch.randn(512, 256, generator=torch.Generator().manual_seed(0)))
    report = examine(mlp(nn.Dropout(0.5), nn.Linear(256, 256), nn.Sigmoid(), nn.Linear(256, 1)), x)
    assert next(m.value for m in report.measurements if m.name == "mean_ratio") == pytest.approx(1.0, abs=0.01)
    assert "DRP106" not in codes(report)


@pytest.mark.parametrize("order", ["before", "after"])
def test_dropout_next_to_relu_is_no_finding_in_either_order(order):
    pair = (nn.Dropout(0.3), nn.ReLU()) if order == "before" else (nn.ReLU(), nn.Dropout(0.3))
    report = examine(mlp(nn.Linear(16, 128), *pair, nn.Linear(128, 1)), X, Y)
    assert not codes(report)


def test_dropout_directly_in_front_of_sigmoid_bends_the_mean():
    report = examine(mlp(nn.Linear(16, 64), nn.Dropout(0.5), nn.Sigmoid(), nn.Linear(64, 1)), 4 * X, Y)
    assert "DRP106" in codes(report)


@pytest.mark.parametrize(
    ("through", "learned", "level"),
    [
        ((), False, "error"),
        ((nn.Linear(256, 64),), False, "warning"),  # these weights are not yet trained
        ((nn.ReLU(), nn.Linear(256, 64)), False, "warning"),
        ((nn.Linear(256, 64),), True, "error"),
    ],
)
def test_variance_shift_into_batch_norm_is_found_through_linear_maps_and_predicted(through, learned, level):
    width = 64 if through else 256
    norm = nn.BatchNorm1d(width)
    if learned:
        norm.running_var.fill_(0.3)
    layers = (nn.Linear(16, 256), nn.ReLU(), nn.Dropout(0.5), *through, norm, nn.Linear(width, 1))
    report = examine(mlp(*layers), X, Y)
    found = next(f for f in report.findings if f.rule.code == "DRP105")
    assert (found.where.module, found.severity.word) == ("2", level)
    numbers = {m.name: m.value for m in report.measurements}
    assert numbers["variance_ratio_predicted"] == pytest.approx(numbers["variance_ratio"], rel=0.08)


@pytest.mark.parametrize(("p", "level"), [(0.1, None), (0.2, "note"), (0.35, "warning"), (0.5, "error")])
def test_a_variance_shift_is_told_by_its_size(p, level):
    """Input behind ReLU: 1 + p/q·(1 + m²/v) with m²/v = 1/(π-1), that is 1.16, 1.37, 1.79 and 2.47."""
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)).relu()
    report = examine(mlp(nn.Dropout(p), nn.BatchNorm1d(64), nn.Linear(64, 1)), x, batch_size=2000)
    assert [f.severity.word for f in report.findings if f.rule.code == "DRP105"] == ([level] if level else [])
    ratio = next(m.value for m in report.measurements if m.name == "variance_ratio")
    assert ratio == pytest.approx(1 + p / (1 - p) * np.pi / (np.pi - 1), rel=0.02)


def test_of_two_dropouts_the_one_that_disturbs_batch_norm_is_named():
    layers = (
        nn.Linear(16, 256),
        nn.ReLU(),
        nn.Dropout(0.02),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.6),
        nn.BatchNorm1d(256),
        nn.Linear(256, 1),
    )
    report = examine(mlp(*layers), X, Y)
    assert [f.where.module for f in report.findings if f.rule.code == "DRP105"] == ["5"]


@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.GroupNorm(4, 64), nn.BatchNorm1d(64, track_running_stats=False)])
def test_normalisers_without_running_statistics_are_not_disturbed(norm):
    report = examine(mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), norm, nn.Linear(64, 1)), X, Y)
    assert "DRP105" not in codes(report)


def test_a_frozen_batch_norm_is_not_disturbed():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[3].eval()
            return self

    build = lambda: Frozen(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 1))  # noqa: E731 - a builder in one line
    assert "DRP105" not in codes(examine(build, X, Y))


def test_dropout_on_the_output_is_an_error_for_a_regressor_and_a_note_for_a_classifier():
    regressor = examine(mlp(nn.Linear(16, 1), nn.Dropout(0.2)), X, Y)
    assert [(f.rule.code, f.severity.word, f.evidence.value) for f in regressor.findings] == [("DRP003", "error", 0.8)]
    labels = torch.randint(4, (256,), generator=torch.Generator().manual_seed(2))
    classifier = examine(mlp(nn.Linear(16, 4), nn.Dropout(0.2)), X, labels)
    assert [(f.rule.code, f.severity.word) for f in classifier.findings] == [("DRP003", "note")]


def test_the_loss_gap_of_the_last_layer_is_predicted():
    report = examine(mlp(nn.Linear(16, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 1)), X, Y, masks=100)
    found = {m.name: m for m in report.measurements}
    low, high = found["loss_gap"].interval
    assert low - (high - low) / 2 < found["loss_gap_predicted"].value < high + (high - low) / 2
    assert high < 3 * low


def test_alpha_dropout_behind_relu_is_a_mismatch_and_behind_selu_is_not():
    sick = examine(mlp(nn.Linear(16, 64), nn.ReLU(), nn.AlphaDropout(0.1), nn.Linear(64, 1)), X, Y)
    healthy = examine(mlp(nn.Linear(16, 64), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(64, 1)), X, Y)
    plain = examine(mlp(nn.Linear(16, 64), nn.SELU(), nn.Dropout(0.1), nn.Linear(64, 1)), X, Y)
    assert [codes(report) for report in (sick, healthy, plain)] == [{"DRP004"}, set(), {"DRP004"}]


def test_stacked_dropouts_multiply():
    report = examine(mlp(nn.Linear(16, 64), nn.Dropout(0.3), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 1)), X, Y)
    found = next(f for f in report.findings if f.rule.code == "DRP006")
    assert found.evidence.value == pytest.approx(0.7 * 0.6)


def test_elementwise_dropout_in_front_of_a_convolution_is_a_note_and_dropout2d_is_none():
    x = torch.randn(16, 3, 12, 12)
    build = lambda drop: mlp(  # noqa: E731 - a builder in one line
        nn.Conv2d(3, 16, 3), drop, nn.Conv2d(16, 16, 3), nn.ReLU(), drop, nn.Conv2d(16, 9, 3), nn.Flatten(),
        nn.Linear(324, 2),
    )  # fmt: skip
    (found,) = [f for f in examine(build(nn.Dropout(0.2)), x).findings if f.rule.code == "DRP005"]
    assert (found.severity.word, found.where.module) == ("note", "1")
    assert "and at '1 #2'" in found.message
    assert "DRP005" not in codes(examine(build(nn.Dropout2d(0.2)), x))


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_inert_dropouts_are_found():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.never, self.head = (
                nn.LSTM(16, 8, dropout=0.3, batch_first=True),
                nn.Dropout(0.2),
                nn.Linear(8, 1),
            )

        def forward(self, x):
            return self.head(self.rnn(x[:, None])[0][:, 0])

    report = examine(Unused, X, Y)
    assert {f.where.module for f in report.findings if f.rule.code == "DRP002"} == {"rnn", "never"}


def test_a_rate_that_looks_like_a_keep_probability_is_named():
    assert "DRP001" in codes(examine(mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.9), nn.Linear(64, 1)), X, Y))


def test_peaked_attention_rows_collapse_and_flat_ones_do_not():
    class Attend(nn.Module):
        def __init__(self, sharp):
            super().__init__()
            self.q, self.out, self.sharp = nn.Linear(16, 16), nn.Linear(16, 2), sharp

        def forward(self, x):
            q = self.q(x)
            scores = self.sharp * q @ x.transpose(1, 2)
            return self.out(F.dropout(scores.softmax(-1), 0.1, self.training) @ x)

    x = torch.randn(8, 24, 16, generator=torch.Generator().manual_seed(0))
    assert "DRP108" in codes(examine(lambda: Attend(40.0), x))
    assert "DRP108" not in codes(examine(lambda: Attend(0.1), x))


def test_sums_that_hang_on_a_few_inputs_are_noted():
    x = torch.zeros(256, 40)
    x[torch.arange(256), torch.arange(256) % 40] = 5.0
    report = examine(mlp(nn.Dropout(0.1), nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 1)), x)
    assert "DRP107" in codes(report)


class MCDropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, training=True)


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        keep = 0.8
        return x.div(keep) * (keep + torch.rand(x.shape[0], 1)).floor_()


class Residual(nn.Module):
    def __init__(self, body, drop):
        super().__init__()
        self.body, self.drop, self.norm = body, drop, nn.BatchNorm1d(16)

    def forward(self, x):
        return self.norm(x + self.drop(self.body(x)))


class LabelDrop(nn.Module):
    def __init__(self):
        super().__init__()
        self.label, self.body, self.drop, self.out = (
            nn.Embedding(11, 16),
            nn.Linear(16, 32),
            nn.Dropout(0.1),
            nn.Linear(32, 16),
        )

    def forward(self, x):
        ids = x[:, 0].abs().long().clamp(max=9)
        if self.training:
            ids = torch.where(torch.rand(ids.shape[0]) < 0.1, 10, ids)
        return self.out(self.drop(torch.relu(self.body(x + self.label(ids)))))


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        h = self.rnn(x[:, None].expand(-1, 6, -1))[0]
        if self.training:
            mask = torch.empty(h.shape[0], 1, h.shape[2]).bernoulli_(0.7).div_(0.7)
            h = h * mask.expand_as(h)
        return self.out(h)


class EmbeddingDrop(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(50, 32), nn.Linear(32, 4)

    def forward(self, x):
        weight = self.table.weight
        if self.training:
            weight = weight * torch.bernoulli(torch.full((50, 1), 0.9)) / 0.9
        return self.out(F.embedding((x.abs() * 10).long().clamp(max=49), weight).mean(1))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), MCDropout(), nn.Linear(64, 1)),
        lambda: Residual(nn.Linear(16, 16), DropPath()),
        LabelDrop,
        Locked,
        EmbeddingDrop,
        lambda: nn.Sequential(
            nn.Linear(16, 64), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 1)
        ),
        lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.LayerNorm(64), nn.Linear(64, 1)),
    ],
    ids=["mc dropout", "drop path", "label drop", "locked", "embedding", "selu", "layer norm"],
)
def test_intentional_dropout_stays_quiet(build):
    report = examine(build, X)
    assert [f.rule.code for f in report.findings if f.severity.word != "note"] == []


@pytest.mark.parametrize(
    ("forward", "what"),
    [(lambda h: h + torch.randn_like(h), "randn_like"), (F.gumbel_softmax, "gumbel_softmax")],
)
def test_other_randomness_in_eval_is_named_as_such(forward, what):
    report = examine(lambda: Functional(lambda h, _: forward(F.dropout(h, 0.1, training=False))), X, Y)
    found = next(f for f in report.findings if f.rule.code == "NND901")
    assert what in found.message
    assert found.severity.word == "note"  # sampling in eval is how a VAE predicts
    assert "DRP101" not in codes(report)


def test_randomness_that_nothing_names_is_a_warning():
    report = examine(lambda: Functional(lambda h, m: F.dropout(h, 0.1, m.training) + float(np.random.rand())), X, Y)
    assert [f.severity.word for f in report.findings if f.rule.code == "NND901"] == ["warning"]


def test_dropout_in_eval_names_the_module_that_reads_it():
    report = examine(lambda: Functional(lambda h, _: F.dropout(h, 0.5)), X, Y)
    assert [f.where.next for f in report.findings if f.rule.code == "DRP101"] == ["head"]


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_nested_outputs_are_compared_part_by_part():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 4)

        def forward(self, x):
            return torch.nested.nested_tensor([F.dropout(self.a(x[:3]), 0.5), x[:2]])

    assert "DRP101" in codes(examine(Nested, X))


def test_one_sample_is_why_a_batch_norm_was_not_judged():
    report = examine(mlp(nn.Dropout(0.5), nn.BatchNorm1d(16), nn.Linear(16, 1)), X[:1])
    assert [s.reason for s in report.skipped if s.code == "DRP105"] == ["one sample has no batch statistics"]


def test_a_rate_of_one_is_said_to_let_nothing_pass():
    report = examine(mlp(nn.Linear(16, 64), nn.Dropout(1.0), nn.Linear(64, 1)), X)
    assert "nothing passes" in report.answers[0]


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.d = nn.Linear(16, 4), nn.Dropout(0.1)

    def forward(self, x):
        return {"n": 3, "text": "no tensor", "list": self.a(self.d(x)).tolist()}


class TrainingOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.d, self.b = nn.Linear(16, 64), nn.Dropout(0.3), nn.Linear(64, 1)

    def forward(self, x):
        if not self.training:
            raise RuntimeError("export me first")
        return self.b(self.d(torch.relu(self.a(x))))


IDS = torch.randint(0, 20, (32, 7))


@pytest.mark.parametrize(
    ("build", "x", "exit_code"),
    [
        (lambda: nn.Linear(16, 2), X, 4),
        (TrainingOnly, X, 0),
        (Dictionary, X, 0),
        (mlp(nn.Embedding(20, 16), nn.Dropout(0.1), nn.Flatten(), nn.Linear(112, 2)), IDS, 0),
        (lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1)).bfloat16(), X, 0),
        (mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm1d(64), nn.Linear(64, 1)), X[:1], 0),
        (mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.0), nn.Linear(64, 1)), X, 0),
        (mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(1.0), nn.Linear(64, 1)), X, 0),
        (mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1)), torch.zeros(32, 16), 0),
        (mlp(nn.Linear(16, 64), nn.RReLU(), nn.Dropout(0.2), nn.Linear(64, 1)), X, 0),
    ],
    ids=[
        "no dropout",
        "training only",
        "no tensors out",
        "integers in",
        "half",
        "one sample",
        "p=0",
        "p=1",
        "zeros",
        "rrelu",
    ],
)
def test_awkward_input_is_judged_or_said_to_be_unjudgeable(build, x, exit_code):
    report = examine(build, x, empty=True)
    assert report.exit_code == exit_code
    if exit_code != 4:
        assert report.answers


def test_a_model_that_cannot_run_at_all_is_no_finding():
    with pytest.raises(NndiagError):
        examine(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1)), X)


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_layer_with_its_fast_path_in_eval_is_healthy(training):
    layer = lambda: nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True).train(training)  # noqa: E731 - a builder in one line
    report = examine(layer, torch.randn(8, 10, 16))
    assert not codes(report)
    assert len(report.tables[0].rows) == 4


def test_lstm_dropout_between_layers_is_a_site():
    report = examine(lambda: nn.LSTM(16, 8, 2, dropout=0.3, batch_first=True), torch.randn(8, 10, 16))
    assert report.target["dropout_sites"] == 1


def test_bars_and_histograms_are_there():
    report = examine(
        mlp(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)), X, Y
    )
    assert {series.kind for series in report.series} == {"bar", "histogram"}
    assert any("What if" in table.title for table in report.tables)


def test_training_tells_a_dropout_that_prevents_the_fit():
    build = mlp(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.97), nn.Linear(32, 1))
    target = X[:, :1] * 2
    sick = examine(build, X, target, train=True, steps=150, lr=1e-2)
    healthy = examine(
        mlp(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.05), nn.Linear(32, 1)), X, target, train=True, steps=150, lr=1e-2
    )
    assert "DRP201" in codes(sick)
    assert "DRP201" not in codes(healthy)
    assert "DRP201" in healthy.checked
