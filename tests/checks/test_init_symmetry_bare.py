"""Weights that no layer of torch holds: parameters in lists, multiplied by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from checks.init_symmetry_cases import ask, fill, noise, numbers, said


class Listed(nn.Module):
    """As in implementations of MAML: a list of weights and biases, read by number."""

    def __init__(self, constant):
        super().__init__()
        self.vars = nn.ParameterList()
        for shape in ((8, 1, 3, 3), (8, 8, 3, 3), (5, 8)):
            self.vars += [nn.Parameter(torch.randn(shape) / 5), nn.Parameter(torch.zeros(shape[0]))]
        if constant:
            for index in (0, 2):
                nn.init.ones_(self.vars[index])

    def forward(self, x):
        for index in (0, 2):
            x = functional.relu(functional.conv2d(x, self.vars[index], self.vars[index + 1]))
        return functional.linear(x.mean((2, 3)), self.vars[4], self.vars[5])


def test_constant_weights_in_a_list_are_named_by_their_place_in_it():
    report = ask(lambda: Listed(constant=True), noise(1, 8, 8, classes=5))
    assert said(report) == [("SYM201", "vars.0")]
    assert report.findings[0].where.next == "vars.2"
    assert "incoming and outgoing weights identical" in report.findings[0].evidence.detail
    assert numbers(report, "effective_width_steps") == {"vars.0": 1, "vars.2": 8}
    assert said(ask(lambda: Listed(constant=False), noise(1, 8, 8, classes=5))) == []


class Scratch(nn.Module):
    """As in courses: matrices, biases added by hand."""

    def __init__(self, first, second):
        super().__init__()
        self.W1, self.b1 = nn.Parameter(torch.randn(20, 16) / 4), nn.Parameter(torch.zeros(16))
        self.W2, self.b2 = nn.Parameter(torch.randn(16, 10) / 4), nn.Parameter(torch.zeros(10))
        for item, value in ((self.W1, first), (self.W2, second)):
            if value is not None:
                nn.init.constant_(item, value)

    def forward(self, x):
        return torch.relu(x @ self.W1 + self.b1) @ self.W2 + self.b2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (None, None, []),
        (None, 0.0, []),
        (0.01, None, []),
        (0.01, 0.01, [("SYM201", "W1")]),
        (0.0, 0.0, [("SYM202", "W1"), ("SYM101", "W1")]),  # and why: relu'(0) = 0
    ],
)
def test_matrices_multiplied_by_hand_are_judged_as_layers_are(first, second, expected):
    assert said(ask(lambda: Scratch(first, second))) == expected


def test_a_bias_added_by_hand_is_no_zero_factor():
    (finding, _) = ask(lambda: Scratch(0.0, 0.0)).findings
    assert 'zero factors in series ("W1", "W2")' in finding.message
    assert finding.where.next == "W2"


def test_without_steps_a_zero_pair_multiplied_by_hand_is_found_too():
    assert said(ask(lambda: Scratch(0.0, 0.0), train=False, select=("SYM0",))) == [("SYM002", "W1")]


class Hidden(nn.Module):
    """A weight that goes through something unknown before it is multiplied."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.full((16, 20), 0.1))

    def forward(self, x):
        return torch.relu(x @ torch.fft.fft(self.w).real.T)[:, :10]


def test_a_matrix_whose_use_is_not_followed_is_skipped_and_the_answer_says_so():
    report = ask(Hidden)
    assert ("SYM201", "w") in [(skip.code, skip.where) for skip in report.skipped]
    assert "1 tensor used in a way that was not followed is not among them" in report.answers[0]


def test_layers_in_series_are_two_findings_and_both_are_marked():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10))

        def forward(self, x):
            return self.net(x)

    report = ask(lambda: fill(Net(), 0.05))
    assert said(report) == [("SYM201", "net.0"), ("SYM201", "net.2")]
    (table,) = (item for item in report.tables if item.main)
    assert [row[-1] for row in table.rows] == ["error", "error", "ok"]


class Latents(nn.Module):
    """Learned queries that attend to the input and are averaged, or answer one by one."""

    def __init__(self, pooled):
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, 10, 20))
        self.read, self.head, self.pooled = nn.Linear(20, 20), nn.Linear(20, 10 if pooled else 1), pooled

    def forward(self, x):
        keys = self.read(x)[:, None]
        found = self.head((self.latents + keys).tanh())
        return found.mean(1) if self.pooled else found.squeeze(-1)


@pytest.mark.parametrize(("pooled", "expected"), [(True, [("SYM201", "latents")]), (False, [])])
def test_learned_queries_that_nothing_tells_apart_are_noted(pooled, expected):
    report = ask(lambda: Latents(pooled), steps=5)
    assert said(report) == expected
    assert {item.severity.word for item in report.findings} <= {"note"}
