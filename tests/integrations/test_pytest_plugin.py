"""The fixture works in a project of its own that only has nndiag installed."""

import subprocess
import sys

import pytest


def run(tmp_path, text, *options):
    (tmp_path / "test_model.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", "-q", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


SICK = """
import pytest
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        for layer in (self.a, self.b):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))

DATA = (torch.randn(64, 8), torch.randint(0, 3, (64,)))
"""


TESTS = (
    SICK
    + """
def test_sick(nndiag):
    nndiag.check_init_symmetry(Net(), DATA).raise_for_findings()

def test_healthy(nndiag):
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    nndiag.init_symmetry(net, DATA).raise_for_findings("warning")

@pytest.mark.nndiag(seed=3, select="SYM0")
class TestMarked:
    @pytest.mark.nndiag(seed=5)
    def test_closest_marker_wins(self, nndiag):
        report = nndiag.init_symmetry(Net(), DATA)
        assert report.run.seed == 5
        assert {item.rule.code[:4] for item in report.findings} == {"SYM0"}

def test_unknown(nndiag):
    nndiag.check_luck(1)
"""
)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    done = run(tmp_path_factory.mktemp("project"), TESTS, "-rA")
    assert done.returncode == 1, done.stdout
    return done.stdout


def test_a_sick_model_fails_its_test_with_the_report(output):
    assert "FAILED test_model.py::test_sick" in output
    assert "DiagnosisError" in output
    assert "nndiag init-symmetry" in output
    assert "SYM201" in output


def test_a_healthy_model_passes(output):
    assert "PASSED test_model.py::test_healthy" in output


def test_the_marker_gives_defaults_and_the_closest_wins(output):
    assert "PASSED test_model.py::TestMarked::test_closest_marker_wins" in output


def test_an_unknown_question_names_those_that_exist(output):
    assert "nndiag has no 'check_luck'; it has check_dropout" in output


def test_collecting_tests_imports_no_torch(tmp_path):
    text = "import sys\ndef test_light():\n    assert 'torch' not in sys.modules\n"
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("option", ["--markers", "--fixtures"])
def test_pytest_lists_the_marker_and_the_fixture(tmp_path, option):
    assert "nndiag" in run(tmp_path, "", option).stdout
