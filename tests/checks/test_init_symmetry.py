"""The verdicts of science.md section 5, each on a network small enough to be sure of."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from checks.init_symmetry_cases import DYNAMIC, ask, fill, first, mlp, noise, numbers, pair, said, zeroed
from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch, Training


def test_a_constant_mlp_has_one_unit_and_the_fix_has_all():
    report = ask(lambda: fill(mlp(), 0.01))
    assert said(report) == [("SYM201", "0")]
    assert numbers(report, "effective_width_steps")["0"] == 1
    assert numbers(report, "effective_width_fixed")["0"] == 16
    finding = report.findings[0]
    assert "incoming and outgoing weights identical" in finding.evidence.detail
    assert finding.where.next == "2"


def test_sigmoid_from_all_zeros_is_stuck_and_not_dead():
    assert said(ask(lambda: fill(mlp(nn.Sigmoid), 0.0))) == [("SYM201", "0")]


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_from_all_zeros_only_the_output_bias_learns(act):
    report = ask(lambda: fill(mlp(act), 0.0))
    assert said(report) == [("SYM202", "0")]
    detail = report.findings[0].evidence.detail
    assert "0.weight, 0.bias, 2.weight" in detail
    assert "2.bias" not in detail
    assert numbers(report, "class_prior_entropy")[""] < math.log(10)


def test_zero_weights_in_front_of_relu_are_dead():
    report = ask(lambda: first(mlp(), 0.0))
    assert said(report) == [("SYM202", "0")]
    assert "passes no gradient at zero" in report.findings[0].message


@pytest.mark.parametrize("act", [nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU])
def test_zero_weights_in_front_of_other_activations_wake_up(act):
    assert said(ask(lambda: first(mlp(act), 0.0))) == []


def test_relu_behind_a_positive_bias_wakes_up():
    assert said(ask(lambda: first(mlp(), 0.0, bias=0.1))) == []


def test_constant_incoming_weights_with_random_outgoing_ones_are_fine():
    report = ask(lambda: first(mlp(), 0.01))
    assert said(report) == []
    assert "random head" in report.answers[0]


def test_softmax_regression_from_zeros_is_told_apart_by_the_labels():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    batches = [Batch(x[start : start + 64], y[start : start + 64]) for start in range(0, 1792, 64)]
    report = ask(lambda: fill(nn.Linear(64, 10), 0.0), batches, training=Training(optimizer="adam", lr=0.05))
    assert said(report) == []
    assert "labels" in report.answers[0]
    assert next(iter(numbers(report, "accuracy").values())) > 0.85


def test_classes_that_the_batch_does_not_hold_are_no_symmetry():
    rows = [Batch(batch.inputs, batch.targets % 3) for batch in noise(20)]
    assert said(ask(lambda: zeroed(mlp(out=40), "2"), rows)) == []


def test_grouped_filters_are_as_many_as_groups():
    for groups, width in ((1, 1), (2, 2), (4, 4)):

        def build(groups=groups):
            conv = nn.Conv1d(4, 8, 2, groups=groups, bias=False)
            return fill(nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 10)), 0.1)

        report = ask(build, noise(4, 5))
        assert ("SYM201", "0") in said(report)
        assert numbers(report, "effective_width_steps")["0"] == width


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.attend(x, x, x)[0].mean(1))


def test_constant_queries_have_one_distinct_row_per_head():
    def build():
        model = Attention()
        nn.init.constant_(model.attend.in_proj_weight, 0.05)
        return model

    report = ask(build, noise(6, 16))
    assert said(report) == [("SYM201", "attend")]
    widths = numbers(report, "effective_width_steps")
    assert (widths["attend q"], widths["attend k"], widths["attend v"]) == (4, 4, 16)


def test_a_cloned_head_is_one_finding_at_the_attention():
    def build():
        model = Attention()
        with torch.no_grad():
            for part in range(3):
                rows = model.attend.in_proj_weight[16 * part : 16 * part + 16]
                rows[4:8] = rows[:4]
            model.attend.out_proj.weight[:, 4:8] = model.attend.out_proj.weight[:, :4]
        return model

    assert said(ask(build, noise(6, 16))) == [("SYM201", "attend")]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = fill(nn.LSTM(4, 8, batch_first=True), 0.1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.core(x)[0][:, -1])


def test_a_constant_lstm_has_one_unit_unless_the_head_is_random():
    report = ask(lambda: fill(Recurrent(), 0.1), noise(5, 4))
    assert said(report) == [("SYM201", "core")]
    assert numbers(report, "effective_width_steps")["core"] == 1
    assert said(ask(Recurrent, noise(5, 4))) == []


def test_identity_recurrence_between_constant_units_keeps_them_equal():
    def build():
        model = fill(Recurrent(), 0.1)
        model.core = nn.RNN(4, 8, batch_first=True)
        fill(model.core, 0.1)
        nn.init.eye_(model.core.weight_hh_l0)
        return model

    assert said(ask(build, noise(5, 4))) == [("SYM201", "core")]


@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d, nn.LayerNorm])
def test_a_cloned_pair_is_found_through_normalisers(norm):
    def build():
        middle = [norm(16)] if norm else []
        net = nn.Sequential(nn.Linear(20, 16), *middle, nn.ReLU(), nn.Linear(16, 10))
        return pair(net, right=str(len(net) - 1))

    report = ask(build)
    assert said(report) == [("SYM201", "0")]
    assert "{2, 5}" in report.findings[0].evidence.detail


def test_a_pair_that_is_read_differently_comes_apart():
    def build():
        net = pair(mlp())
        nn.init.normal_(net[2].weight)
        return net

    assert said(ask(build)) == []


def test_a_sign_pair_is_locked_behind_tanh_and_free_behind_relu():
    assert said(ask(lambda: pair(mlp(nn.Tanh), -1.0))) == [("SYM003", "0")]
    assert said(ask(lambda: pair(mlp(nn.ReLU), -1.0))) == []


def test_dropout_as_the_only_breaker_is_named():
    def build():
        return fill(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)), 0.05)

    assert said(ask(build)) == [("SYM204", "0")]


def test_width_257_under_adam_parts_by_rounding_only():
    asked = Training(optimizer="adam", lr=0.01, steps=150)
    assert said(ask(lambda: fill(mlp(hidden=257), 0.01), training=asked)) == [("SYM203", "0")]


class Lora(nn.Module):
    def __init__(self, *, both):
        super().__init__()
        self.base = nn.Linear(20, 16).requires_grad_(requires_grad=False)
        self.down, self.up = nn.Linear(20, 2, bias=False), nn.Linear(2, 16, bias=False)
        self.head = nn.Linear(16, 10)
        zeroed(self, "up", *(["down"] if both else []))

    def forward(self, x):
        return self.head(torch.relu(self.base(x) + self.up(self.down(x))))


def test_lora_is_dead_only_with_both_factors_zero():
    assert said(ask(lambda: Lora(both=False))) == []
    report = ask(lambda: Lora(both=True))
    assert said(report) == [("SYM202", "down")]
    assert report.findings[0].where.next == "up"


def test_units_that_are_off_for_every_input_are_counted():
    def build():
        net = mlp(hidden=32)
        with torch.no_grad():
            net[0].bias[:20] = -50
        return net

    report = ask(build)
    assert [code for code, _ in said(report)] == ["SYM101"]
    assert report.findings[0].evidence.value == pytest.approx(20 / 32)


@pytest.mark.parametrize("masked", [True, False])
def test_units_with_empty_weights_are_not_called_dead_but_said(masked):
    def build():
        net = mlp(hidden=40)
        nn.init.constant_(net[0].bias, -0.01)
        if masked:
            prune.ln_structured(net[0], "weight", amount=0.5, n=2, dim=0)
        else:
            nn.init.eye_(net[0].weight)  # 20 inputs: the other rows stay empty
        return net

    report = ask(build)
    assert said(report) == []
    assert [item.reason.partition(" are ")[0] for item in report.skipped if item.code == "SYM101"] == ["20 of 40 units"]


@pytest.mark.parametrize("seed", range(3))
def test_units_that_their_bias_alone_turns_on_or_off_are_not_called_dead(seed):
    """A codebook or table that starts small: what it feeds is on or off by the sign of a bias, until it grows."""

    def build():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        with torch.no_grad():
            net[0].weight.mul_(0.03)
        return net

    assert "SYM101" not in {code for code, _module in said(ask(build))}


def test_units_behind_other_layers_that_a_bias_turns_off_are_counted_beyond_chance():
    def build():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        with torch.no_grad():
            net[2].bias[:40] = -9
        return net

    report = ask(build)
    assert said(report) == [("SYM101", "2")]
    low, high = report.findings[0].evidence.interval
    assert low <= report.findings[0].evidence.value <= high


def test_a_layer_that_is_off_altogether_is_dead():
    assert ("SYM202", "0") in said(ask(lambda: first(mlp(), 0.01, bias=-50.0)))


def deep(depth, init=None):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(64, 64), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in net[::2]:
        if init is not None:
            init(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def test_default_linear_forgets_its_input_at_depth_ten_and_he_does_not():
    assert [code for code, _ in said(ask(lambda: deep(10), noise(64)))] == ["SYM103"]
    assert said(ask(lambda: deep(10, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")), noise(64))) == []


@pytest.mark.parametrize("std", [1.0, 0.001])
def test_weights_of_the_wrong_scale_lose_the_signal(std):
    report = ask(lambda: deep(8, lambda w: nn.init.normal_(w, std=std)), noise(64))
    assert [code for code, _ in said(report)] == ["SYM102"]


def test_without_steps_the_static_rules_speak():
    assert said(ask(lambda: fill(mlp(), 0.01), train=False)) == [("SYM001", "0")]
    assert said(ask(lambda: first(mlp(), 0.01), train=False)) == []
    assert said(ask(lambda: pair(mlp(nn.Tanh), -1.0), train=False)) == [("SYM003", "0")]
    report = ask(lambda: zeroed(mlp(), "0", "2"), train=False)
    assert said(report) == [("SYM002", "0")]
    assert {skip.code for skip in report.skipped} >= DYNAMIC


def test_trained_twins_are_still_found():
    def build():
        net = fill(mlp(), 0.01)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for batch in noise(20) * 50:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch.inputs), batch.targets).backward()
            optimizer.step()
        return net

    assert said(ask(build)) == [("SYM201", "0")]


def test_parameters_without_gradient_by_design_are_no_dead_path():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = nn.Linear(20, 16), nn.BatchNorm1d(16)
            self.unused, self.gate, self.head = nn.Linear(16, 3), nn.Linear(16, 1), nn.Linear(16, 10)

        def forward(self, x):
            h = torch.relu(self.norm(self.body(x)))
            self.unused(h)
            return self.head(h * torch.softmax(self.gate(h), dim=1))

    report = ask(Idle)
    assert said(report) == []
    assert any("not exercised" in skip.reason and "unused" in skip.where for skip in report.skipped)
    assert any("architecture" in skip.reason and "gate" in skip.where for skip in report.skipped)


def test_weights_that_are_no_numbers_are_refused():
    def build():
        net = mlp()
        nn.init.constant_(net[0].weight, math.nan)
        return net

    with pytest.raises(NndiagError, match=r"0\.weight"):
        ask(build)


def test_layers_are_chosen_by_a_glob():
    assert said(ask(lambda: fill(mlp(), 0.01), layers="2")) == []
    assert said(ask(lambda: fill(mlp(), 0.01), layers="[01]")) == [("SYM201", "0")]


def test_a_network_without_biases_that_is_all_zero_is_dead():
    def build():
        net = nn.Sequential(nn.Linear(20, 16, bias=False), nn.Tanh(), nn.Linear(16, 10, bias=False))
        return fill(net, 0.0)

    assert said(ask(build)) == [("SYM202", "0")]


def test_a_frozen_model_is_not_judged():
    report = ask(lambda: mlp().requires_grad_(requires_grad=False))
    assert said(report) == []
    assert {skip.code for skip in report.skipped} >= DYNAMIC


def test_a_bare_parameter_is_named_itself():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Parameter(torch.full((20, 16), 0.1))
            self.out = nn.Parameter(torch.full((16, 10), 0.1))

        def forward(self, x):
            return torch.tanh(x @ self.hidden) @ self.out

    assert said(ask(Bare)) == [("SYM201", "hidden")]


@pytest.mark.parametrize("seed", range(4))
def test_units_switched_off_by_a_collapsed_layer_before_them_are_no_finding_of_their_own(seed):
    def build():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
        return first(net, 0.1)

    assert said(ask(build, steps=1)) == []


def test_units_under_a_large_negative_bias_are_found_at_their_layer():
    def build():
        net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
        nn.init.constant_(net[0].bias, -10.0)
        return net

    report = ask(build)
    assert said(report) == [("SYM202", "0"), ("SYM101", "0")]
    assert [item.severity.word for item in report.findings] == ["error", "note"]  # one headline, and its reason
    assert said(ask(build, train=False)) == [("SYM101", "0")]
    assert not {place for _code, place in said(ask(build))} & {"2", "3"}


def test_a_bias_shared_by_two_layers_is_read_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.left, self.right = nn.Linear(20, 16), nn.Linear(16, 10), nn.Linear(16, 10)
            self.right.bias = self.left.bias

        def forward(self, x):
            hidden = torch.tanh(self.hidden(x))
            return self.left(hidden) + self.right(hidden)

    assert said(ask(Tied)) == []


def test_the_width_in_the_end_and_the_unit_correlation_are_shown():
    report = ask(lambda: fill(mlp(), 0.01), steps=20)
    assert numbers(report, "effective_width_end")["0"] == 1
    heat = next(item for item in report.series if item.kind == "heat")
    assert len(heat.y) == 16 * 16
    assert min(heat.y) == pytest.approx(1.0)
    ranks = next(table for table in report.tables if "stable rank" in table.columns)
    assert ranks.rows[0][:3] == ("0", 16, 1.0)
    assert ranks.rows[0][4] == 15


def test_the_theory_beside_the_gain_is_fan_in_times_the_weights_second_moment():
    report = ask(lambda: first(mlp(), 0.5))
    table = next(table for table in report.tables if "theory" in table.columns)
    assert dict(zip(table.columns, table.rows[0], strict=True))["theory"] == pytest.approx(20 * 0.5**2)


def test_a_model_that_keeps_its_eval_mode_results_is_still_judged():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.hidden, self.out, self.kept = nn.Linear(4, 20), nn.Linear(20, 16), nn.Linear(16, 10), None

        def forward(self, x):
            if self.training or self.kept is None:
                self.kept = torch.tanh(self.table(torch.ones(4, dtype=x.dtype)))
            return self.out(torch.relu(self.hidden(x + self.kept)))

    report = ask(Cached, steps=1)
    assert said(report) == []
    assert "SYM201" in report.checked


class Pooled(nn.Module):
    """Smooth layers and pooling in front of one rectified head: what the head reads hardly differs between inputs."""

    def __init__(self):
        super().__init__()
        self.features, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32)
        self.head = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 5))

    def forward(self, x):
        return self.head(nn.functional.silu(self.norm(self.features(x))).mean((2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_the_first_rectifier_behind_other_layers_may_be_off_as_often_as_on(seed):
    def make():
        torch.manual_seed(seed)
        return Pooled()

    images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(32) % 5
    report = ask(make, [Batch(images, labels)])
    assert "SYM101" not in {code for code, _module in said(report)}


@pytest.mark.parametrize("cast", [lambda y: y, lambda y: y.float()])
def test_a_loss_that_insists_on_one_precision_is_met_in_it(cast):
    """Binary cross-entropy takes no float32 targets beside float64 outputs, and its user may have cast them himself."""

    def loss(output, targets):
        return nn.functional.binary_cross_entropy(torch.sigmoid(output[:, 0]), cast(targets))

    batch = Batch(torch.randn(32, 20), torch.randint(0, 2, (32,)).float())
    report = ask(lambda: fill(mlp(), 0.01), [batch], training=Training(loss=loss))
    assert said(report) == [("SYM201", "0")]


def test_outputs_that_the_users_own_loss_joins_are_not_told_apart_by_labels():
    """A density of four components whose means start equal."""

    def likelihood(means, targets):
        return -(-((means - targets[:, None]) ** 2) / 2).logsumexp(-1).mean()

    batch = Batch(torch.randn(32, 20), torch.randn(32))
    training = Training(loss=likelihood)
    assert said(ask(lambda: zeroed(mlp(out=4), "2"), [batch], training=training, steps=5)) == [("SYM201", "2")]
