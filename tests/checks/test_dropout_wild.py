"""check-dropout on masks as other people write them: the faulty named, whole tokens and samples left to their authors."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from checks.dropout_subject import codes, examine
from nndiag.lab.dropout.player import Player
from nndiag.lab.dropout.script import Script

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def loud(report):
    """Codes above a note."""
    return {finding.rule.code for finding in report.findings if finding.severity.word != "note"}


class Indexed(nn.Module):
    """Zeroes a random selection by assignment."""

    def __init__(self, scale):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(16, 64), nn.Linear(64, 3), scale

    def forward(self, x):
        h = torch.relu(self.a(x))
        if self.training:
            h = h.clone()
            h[torch.rand_like(h) < 0.3] = 0
            h = h * self.scale
        return self.b(h)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, {"DRP103"}), (1 / 0.7, set()), (1 / 0.49, {"DRP104"})])
def test_a_mask_assigned_by_index_is_judged_like_a_product(scale, expected):
    assert loud(examine(lambda: Indexed(scale), X)) == expected


class Modality(nn.Module):
    """Silences one of two senses for a whole sample, so that the other learns to do alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(64, 3)

    def forward(self, x):
        a, b = torch.relu(self.a(x[:, :8])), torch.relu(self.b(x[:, 8:]))
        if self.training:
            b = b * (torch.rand(len(x), 1) > 0.3)
        return self.out(torch.cat([a, b], 1))


class Condition(nn.Module):
    """Takes the condition from some samples, for guidance without a classifier."""

    def __init__(self):
        super().__init__()
        self.key, self.body, self.out = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        condition = x[:, 8:] * 2
        if self.training:
            condition = condition * (torch.rand(len(x), 1) > 0.2)
        return self.out(F.silu(self.body(x[:, :8]) + self.key(condition)))


@pytest.mark.parametrize("build", [Modality, Condition])
def test_samples_taken_away_whole_want_no_rescale(build):
    assert not loud(examine(build, torch.randn(512, 16)))


class Branch(nn.Module):
    """A residual branch dropped by sample, its rescale taken to a power."""

    def __init__(self, power):
        super().__init__()
        self.inner, self.out, self.power = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)), nn.Linear(16, 2), power

    def forward(self, x):
        branch = self.inner(x)
        if self.training:
            branch = branch * (torch.rand(len(x), 1) < 0.6) / 0.6**self.power
        return self.out(x + branch)


@pytest.mark.parametrize(("power", "expected"), [(0, {"DRP103"}), (1, set()), (2, {"DRP104"})])
def test_a_branch_added_to_its_shortcut_needs_its_rescale_once(power, expected):
    assert loud(examine(lambda: Branch(power), torch.randn(512, 16))) == expected


class Loop(nn.Module):
    """A dropout that is always on, joined with a state that depends on it."""

    def __init__(self):
        super().__init__()
        self.pre, self.cell, self.out = nn.Linear(16, 24), nn.GRUCell(40, 16), nn.Linear(16, 16)

    def forward(self, x):
        state, frame, frames = x.new_zeros(len(x), 16), x, []
        for _ in range(4):
            fresh = F.dropout(torch.relu(self.pre(frame)), 0.5, training=True)
            state = self.cell(torch.cat([fresh, 3 * state], 1), state)
            frame = self.out(state)
            frames.append(frame)
        return torch.stack(frames, 1)


def test_what_is_joined_to_a_dropped_tensor_is_no_part_of_its_scale():
    assert loud(examine(Loop, X)) == {"DRP101"}


def test_dropouts_that_never_run_in_layers_alike_are_one_finding():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.drop = nn.Linear(16, 16), nn.Dropout(0.2)

        def forward(self, x):
            return torch.relu(self.linear(x))

    report = examine(lambda: nn.Sequential(*(Layer() for _ in range(4)), nn.Dropout(0.1), nn.Linear(16, 2)), X)
    (found,) = [f for f in report.findings if f.rule.code == "DRP002"]
    assert "and 3 more like it" in found.message


def test_monte_carlo_dropout_under_its_full_name_is_meant():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.enable_monte_carlo = nn.Linear(16, 32), nn.Linear(32, 1), True

        def forward(self, x):
            return self.b(F.dropout(torch.relu(self.a(x)), 0.2, self.training or self.enable_monte_carlo))

    assert "DRP101" not in codes(examine(Net, X))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_masks_made_under_vmap_do_not_stop_the_check():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(16, 32), nn.Dropout(0.2), nn.Linear(32, 1)

        def forward(self, x):
            grid = torch.vmap(lambda i: (i >= torch.arange(16)).float() / (1 + i))(torch.arange(len(x)))
            return self.b(self.drop(torch.relu(self.a(x + grid))))

    assert not loud(examine(Net, X))


class Fused(nn.Module):
    """Attention that drops inside torch's own kernel, behind another dropout, with a scale behind it in training."""

    def __init__(self, scale):
        super().__init__()
        self.drop, self.qkv, self.out, self.scale = nn.Dropout(0.2), nn.Linear(16, 48), nn.Linear(16, 3), scale

    def forward(self, x):
        q, k, v = self.qkv(self.drop(x)).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 if self.training else 0.0)
        return self.out(y * self.scale if self.training else y).mean(1)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, set()), (0.7, {"DRP103"}), (1 / 0.7, {"DRP104"})])
def test_dropout_inside_fused_attention_is_measured(scale, expected):
    report = examine(lambda: Fused(scale), torch.randn(64, 12, 16))
    assert loud(report) == expected
    slopes = {m.where: m.value for m in report.measurements if m.name == "train_eval_slope"}
    assert slopes["sdpa"] == pytest.approx(scale, abs=0.02)


class Recurrent(nn.Module):
    def __init__(self, kind, p=0.3, layers=3, *, packed=False):
        super().__init__()
        self.rnn, self.out = kind(16, 8, layers, dropout=p, batch_first=True, bidirectional=True), nn.Linear(16, 2)
        self.packed = packed

    def forward(self, x):
        if self.packed:
            lengths = torch.arange(len(x)).clamp(1, x.shape[1])
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out = self.rnn(x)[0]
        return self.out(out.data if self.packed else out[:, -1])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_dropout_between_recurrent_layers_is_watched_between_each_two(kind, packed):
    report = examine(lambda: Recurrent(kind, packed=packed), torch.randn(32, 6, 16))
    assert not report.findings
    assert report.target["dropout_sites"] == 2
    slopes = [m for m in report.measurements if m.name == "train_eval_slope"]
    assert [m.where for m in slopes] == ["rnn dropout", "rnn dropout #2"]
    assert all(m.interval[0] - 0.01 < 1 < m.interval[1] + 0.01 for m in slopes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_layer_by_layer_a_recurrence_gives_what_torch_gives_in_one_call(kind, packed):
    model, x = Recurrent(kind, packed=packed).double().eval(), torch.randn(4, 6, 16, dtype=torch.float64)
    expected = model(x)
    assert torch.allclose(Player(model, Script()).play(x), expected, rtol=1e-12, atol=1e-14)


def test_a_mask_behind_a_layer_that_starts_at_zero_is_not_judged_and_the_reason_is_given():
    class Zero(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 64), nn.Linear(64, 3)
            nn.init.zeros_(self.a.weight)
            nn.init.zeros_(self.a.bias)

        def forward(self, x):
            h = self.a(x)
            return self.b(h * (torch.rand_like(h) > 0.3) if self.training else h)

    report = examine(Zero, X)
    assert [s.reason for s in report.skipped if s.code == "DRP103"] == [
        "what it feeds is zero everywhere in eval mode: no scale shows"
    ]


def test_a_keep_probability_inside_an_lstm_is_named_at_the_lstm():
    report = examine(lambda: Recurrent(nn.LSTM, 0.9, 2), torch.randn(32, 6, 16))
    assert [f.where.module for f in report.findings if f.rule.code == "DRP001"] == ["rnn"]


class Swish(nn.Module):
    """An activation of several steps."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def test_an_activation_written_as_a_module_is_integrated_and_agrees_with_masks():
    torch.manual_seed(0)
    report = examine(
        lambda: nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), Swish(), nn.Linear(64, 2)
        ),
        X,
    )
    numbers = {m.name: m.value for m in report.measurements}
    assert numbers["mean_on_predicted"] == pytest.approx(numbers["mean_on"], rel=0.05)


def test_a_mean_next_to_nothing_is_no_base_for_a_ratio_and_the_second_moment_is_reported():
    torch.manual_seed(0)
    report = examine(
        lambda: nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 2)
        ),
        X,
    )
    numbers = {m.name: m.value for m in report.measurements}
    assert "mean_ratio" not in numbers
    assert "the mean becomes" not in report.answers[0]
    assert numbers["second_moment_ratio"] == pytest.approx(numbers["second_moment_ratio_predicted"], rel=0.05)


def test_what_the_budget_left_no_time_for_is_skipped_for_that_reason():
    build = lambda: nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.5), nn.Linear(64, 8), nn.ReLU())  # noqa: E731 - a builder in one line
    report = examine(build, torch.randn(64, 16), seconds=1e-6)
    late = {skip.code for skip in report.skipped if "time budget" in skip.reason}
    assert {"DRP103", "DRP104", "DRP106", "DRP107"} <= late
    note = next(f for f in report.findings if f.rule.code == "NND902")
    assert "forwards" in note.fix


class Zoneout(nn.Module):
    """Units keep their last value at random (Krueger et al. 2017)."""

    def __init__(self):
        super().__init__()
        self.cell, self.head, self.drop = nn.GRUCell(16, 32), nn.Linear(32, 4), nn.Dropout(0.2)

    def forward(self, x):
        h = x.new_zeros(len(x), 32)
        for step in x.unbind(1):
            new = self.cell(step, h)
            mask = torch.bernoulli(torch.full_like(h, 0.1)) if self.training else torch.full_like(h, 0.1)
            h = mask * h + (1 - mask) * new
        return self.head(self.drop(h))


def test_a_random_choice_between_two_tensors_is_no_dropout():
    report = examine(Zoneout, torch.randn(32, 5, 16))
    assert not loud(report)
    assert report.target["dropout_sites"] == 1
    assert report.target["other_randomness"]


class Dense(nn.Module):
    """A dense block: what comes out of the dropout stands beside what went around it."""

    def __init__(self, p):
        super().__init__()
        self.conv, self.norm, self.head, self.p = nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(16), nn.Linear(16, 3), p

    def forward(self, x):
        new = F.dropout(self.conv(x), self.p, self.training)
        return self.head(torch.relu(self.norm(torch.cat([x, new], 1))).mean(-1))


@pytest.mark.parametrize(("p", "level"), [(0.1, None), (0.5, "warning")])
def test_a_variance_shift_is_judged_on_the_channels_that_the_dropout_reaches(p, level):
    """The convolution's output is centred but for its bias: a ratio of 1/q or a little more, as in Li et al. 2019."""
    report = examine(lambda: Dense(p), torch.randn(128, 8, 20))
    found = [f for f in report.findings if f.rule.code == "DRP105"]
    assert bool(found) == bool(level)
    assert all("8 of 16 channels" in f.evidence.detail for f in found)
    ratio = next(m.value for m in report.measurements if m.name == "variance_ratio")
    assert 1 / (1 - p) * 0.98 < ratio < 1 / (1 - p) * 1.4


def test_a_wrong_scale_is_told_of_the_dropout_that_has_it_and_not_of_the_drop_path_behind_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.back, self.drop, self.path = nn.Linear(16, 64), nn.Linear(64, 16), Unscaled(), Path()

        def forward(self, x):
            return x + self.path(self.drop(self.back(self.drop(F.gelu(self.wide(x))))))

    class Unscaled(nn.Module):
        def forward(self, x):
            return x * (torch.rand_like(x) > 0.3) if self.training else x

    class Path(nn.Module):
        def forward(self, x):
            return x / 0.9 * (torch.rand(len(x), 1) < 0.9) if self.training else x

    report = examine(Block, torch.randn(512, 16, generator=torch.Generator().manual_seed(0)))
    assert [f.where.module for f in report.findings if f.rule.code == "DRP103"] == ["drop"]
    reasons = [row[-1] for row in next(t for t in report.tables if "predicted" in t.title).rows]
    assert [reason.split(":")[0] for reason in reasons] == ["none"] * 3
