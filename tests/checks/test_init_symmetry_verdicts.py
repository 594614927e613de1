"""What the steps settle, what they leave open, and why."""

import copy
import time

import pytest
import torch
from torch import nn

from checks.init_symmetry_cases import ask, fill, first, mlp, noise, numbers, pair, said
from nndiag.core.subject import Batch, Run, Training
from nndiag.lab.symmetry.rounding import _judged


class Adaptive(nn.Module):
    """A gated residual block whose scale, shift and gate start at zero, and so does the output (adaLN-Zero)."""

    def __init__(self):
        super().__init__()
        self.condition = fill(nn.Linear(20, 48), 0.0)
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.enter, self.branch = nn.Linear(20, 16), nn.Linear(16, 16)
        self.out = fill(nn.Linear(16, 10), 0.0)

    def forward(self, x):
        shift, scale, gate = self.condition(x).chunk(3, -1)
        h = self.enter(x)
        return self.out(h + gate * self.branch(self.norm(h) * (1 + scale) + shift))


class Streams(nn.Module):
    """Residual streams mixed by weights that start at zero (hyper-connections): the last mix is only added up."""

    def __init__(self):
        super().__init__()
        self.enter, self.branch, self.out = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.mix = nn.Parameter(torch.zeros(16, 4))

    def forward(self, x):
        h = self.enter(x).relu()
        mixed = torch.einsum("bs,bd->bsd", 0.25 + torch.tanh(h @ self.mix), h)
        return self.out(mixed.sum(1) + self.branch(h))


def test_streams_that_start_at_zero_and_are_added_up_are_no_error():
    found = ask(Streams).findings
    assert [(item.rule.code, item.severity.word) for item in found] == [("SYM201", "warning")]


def test_a_buffer_that_the_forward_makes_itself_is_left_to_it():
    class Slopes(nn.Sequential):
        def forward(self, x):
            if not hasattr(self, "cached"):
                self.register_buffer("cached", torch.linspace(0, 1, x.shape[-1]), persistent=False)
            return super().forward(x + self.cached)

    assert said(ask(lambda: Slopes(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 10)))) == []


@pytest.mark.parametrize("training", [Training(), Training(optimizer="sgd", lr=0.1)])
def test_units_that_wake_later_than_others_of_their_group_are_no_twins(training):
    assert said(ask(Adaptive, training=training)) == []


def test_a_few_units_whose_first_steps_of_adam_are_alike_are_not_stuck():
    def build():
        torch.manual_seed(0)
        return nn.Sequential(fill(nn.Linear(8, 64), 0.1), nn.ReLU(), nn.Linear(64, 1))  # the random head breaks the tie

    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
    assert said(ask(build, [Batch(x, x[:, :1] * x[:, 1:2])], training=Training(loss="mse"))) == []


def test_spectral_norm_iterates_as_it_does_in_training():
    def build():
        torch.manual_seed(0)
        dense = [nn.utils.spectral_norm(nn.Linear(20 if not i else 64, 64)) for i in range(4)]
        return nn.Sequential(*[part for one in dense for part in (one, nn.LeakyReLU(0.1))], nn.Linear(64, 10))

    assert said(ask(build)) == []  # divided by the u'Wv of random u and v the weights were hundreds of times as large


def test_a_frozen_bias_beside_identical_weights_is_read_where_it_is_kept():
    def build():
        net = fill(mlp(nn.Tanh), 0.05)
        net[0].bias.requires_grad_(requires_grad=False)
        return net

    report = ask(build)
    assert said(report) == [("SYM201", "0")]
    assert numbers(report, "effective_width_fixed")["0"] == 16


def test_both_directions_of_a_recurrent_layer_are_one_finding():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(12, 6, batch_first=True, bidirectional=True)
            self.head = nn.Linear(12, 10)

        def forward(self, x):
            return self.head(self.rnn(x)[0].mean(1))

    assert said(ask(lambda: fill(Reader(), 0.05), noise(7, 12))) == [("SYM201", "rnn")]


def test_bounds_at_infinity_in_a_buffer_are_no_diverged_weights():
    def build():
        net = mlp()
        net.register_buffer("most", torch.tensor(float("inf")))
        return net

    assert said(ask(build)) == []


class Two(nn.Module):
    """Two branches of which the inputs reach one."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = mlp(), mlp()

    def forward(self, x, other=None):
        return self.used(x) if other is None else self.spare(other)


def test_a_layer_that_the_inputs_do_not_reach_is_judged_by_its_weights():
    def build():
        net = Two()
        pair(net.spare)
        return net

    report = ask(build)
    assert said(report) == [("SYM001", "spare.0")]
    assert "do not reach" in report.findings[0].message
    assert said(ask(Two)) == []


class Tied(nn.Module):
    """An embedding that is the output layer as well."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.project = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.project(self.embed(ids))).mean(1)


def test_zero_factors_of_which_one_is_tied_are_named_as_they_ran():
    def build():
        net = Tied()
        nn.init.zeros_(net.head.weight)
        nn.init.zeros_(net.project.weight)
        return net

    ids = torch.randint(0, 12, (32, 5), generator=torch.Generator().manual_seed(0))
    batches = [type(noise(20)[0])(ids, torch.arange(32) % 12)]
    finding = ask(build, batches).findings[0]
    assert (finding.rule.code, finding.where.module, finding.where.next) == ("SYM202", "embed", "project")


def test_biases_that_batch_norm_takes_away_do_not_tell_units_apart():
    def build():
        net = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        nn.init.constant_(net[0].weight, 0.1)  # its biases are random
        nn.init.constant_(net[3].weight, 0.1)
        return net

    report = ask(build)
    assert said(report) == [("SYM201", "0")]
    assert numbers(report, "effective_width_steps")["0"] == 1


def test_units_that_one_small_draw_switches_off_are_chance():
    def build():
        net = nn.Sequential(nn.Linear(20, 1), nn.ReLU())
        with torch.no_grad():
            net[0].weight.fill_(-0.1)
            net[0].bias.fill_(-0.2)  # a default layer draws up to 1 / sqrt(20)
        return net

    batches = [type(item)(item.inputs.abs(), None) for item in noise(20)]
    report = ask(build, batches)
    assert "SYM202" not in {code for code, _ in said(report)}
    assert any("chance" in skip.reason for skip in report.skipped)


@pytest.mark.parametrize(("labels", "how"), [(True, "labels permuted"), (False, "other random targets")])
def test_labels_are_permuted_where_there_are_any_and_the_run_says_which(labels, how):
    batches = noise(20) if labels else [type(item)(item.inputs, None) for item in noise(20)]
    report = ask(lambda: nn.Sequential(fill(nn.Linear(20, 10), 0.0)), batches)
    table = next(item for item in report.tables if item.title.startswith("what tells"))
    widths = {row[2]: row[3] for row in table.rows}
    assert widths["every output asked for the same"] == 1
    assert next(width for run, width in widths.items() if run.startswith(how)) == 10


def test_dealt_labels_are_the_same_labels_in_another_order():
    from nndiag.lab.symmetry.runs import _dealt

    batch = noise(20)[0]
    dealt = _dealt(batch, 0)
    assert torch.equal(dealt.inputs, batch.inputs)
    assert not torch.equal(dealt.targets, batch.targets)
    assert torch.equal(dealt.targets.sort().values, batch.targets.sort().values)


def test_a_stuck_layer_is_trained_in_both_precisions_unasked():
    report = ask(lambda: first(fill(mlp(nn.Tanh, hidden=64), 0.05), 0.05))
    assert said(report) == [("SYM201", "0")]
    assert "SYM203" in report.checked
    assert "float32" in report.findings[0].evidence.detail


GROWING = [0.0, *(1e-8 * 1.2**step for step in range(1, 101))]


@pytest.mark.parametrize(
    ("coarse", "fine", "kind"),
    [
        (GROWING, [value * 1e-9 for value in GROWING], "rounding only"),  # later in float64
        (GROWING, [0.0] * 101, "rounding only"),
        ([0.0] * 101, GROWING, "stuck"),  # exact where the user trains
        ([0.0] + [0.02] * 100, [0.0] * 101, "stuck"),  # Adam's first step on rounding, which does not grow
        ([0.0, *(1e-5 * 1.1**step for step in range(100))], [0.0, *(1e-5 * 1.1**step for step in range(100))],
         "outgoing weights"),
    ],
)  # fmt: skip
def test_a_gap_is_judged_by_where_it_starts_and_how_it_grows(coarse, fine, kind):
    assert _judged(coarse, fine)[0] == kind


class Slow(nn.Module):
    """A forward that takes its time."""

    def __init__(self):
        super().__init__()
        self.net = fill(mlp(), 0.1)

    def forward(self, x):
        time.sleep(0.02 * x.shape[0])
        return self.net(x)


def test_a_slow_model_stays_within_the_budget_and_says_what_it_left_out():
    from checks.init_symmetry_cases import Feed, Source
    from nndiag.checks.init_symmetry import InitSymmetry
    from nndiag.core.check import diagnose
    from nndiag.core.subject import Subject

    begun = time.monotonic()
    subject = Subject(name="slow", model=Source(Slow), data=Feed(noise(20)), run=Run(max_seconds=2.0))
    report = diagnose(InitSymmetry(), subject)
    assert time.monotonic() - begun < 4.0
    assert report.status == "truncated"
    assert any("budget" in skip.reason for skip in report.skipped)


def test_experiments_end_at_the_deadline():
    from checks.init_symmetry_cases import Source
    from nndiag.lab.bench import OutOfTimeError
    from nndiag.lab.bench_build import build_bench

    bench = build_bench(Source(mlp), noise(20), Training(), seed=0, device="cpu")
    start = {name: item.clone() for name, item in bench.model.named_parameters()}
    bench.deadline = time.monotonic()
    with pytest.raises(OutOfTimeError):
        bench.run(5)
    assert all(torch.equal(start[name], item) for name, item in bench.model.named_parameters())


class Gated(nn.Module):
    """A gated block whose norm keeps its gain as the distance from one, as Gemma does; all three factors are zero."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(16))
        self.enter, self.leave = nn.Linear(20, 16), nn.Linear(16, 10)
        self.gate, self.up, self.down = (fill(nn.Linear(16, 16, bias=False), 0.0) for _ in range(3))

    def forward(self, x):
        h = self.enter(x)
        n = h / h.std(-1, keepdim=True) * (1 + self.gain)
        return self.leave(h + self.down(torch.sigmoid(self.gate(n)).sub(0.5) * self.up(n)))


def test_a_gain_that_a_dead_block_starves_is_no_factor_of_it():
    report = ask(Gated)
    assert said(report) == [("SYM202", "gate")]
    assert 'zero factors in series ("gate", "up", "down")' in report.findings[0].message


class Members(nn.Module):
    """Two networks, the second a copy of the first: side by side, one behind the other, or side by side with dropout."""

    def __init__(self, series=False, drop=0.0, frozen=False):
        super().__init__()
        one = nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Dropout(drop), nn.Linear(20, 20))
        self.members, self.series = nn.ModuleList([one, copy.deepcopy(one)]), series
        self.members[1].requires_grad_(not frozen)
        self.head = nn.Linear(20, 10)

    def forward(self, x):
        first, second = self.members
        return self.head(second(first(x)) if self.series else first(x) + second(x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("SYM201", "members.0")]),
        ({"series": True}, []),
        ({"drop": 0.2}, []),
        ({"frozen": True}, []),
    ],
)
def test_copies_side_by_side_stay_copies(options, expected):
    report = ask(lambda: Members(**options))
    assert said(report) == expected
    assert all(item.severity.word == "warning" for item in report.findings)
