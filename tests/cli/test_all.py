"""`nndiag all` runs what applies, says what does not, and ends with one verdict."""

from __future__ import annotations

import json

import pytest

from nndiag.cli.app import main

MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def ran(clean_environment, capfd):
    (clean_environment / "m.py").write_text(MODEL)

    def run(*arguments):
        code = main(["all", *arguments, "--no-progress"])
        return code, capfd.readouterr().out

    return run


def test_a_check_that_does_not_apply_is_no_failure(ran):
    code, out = ran("m.py:build", "--select", "DRP,SYM0", "-f", "json")
    by_command = {run["command"]: run for run in json.loads(out)["runs"]}
    assert code == 0
    assert not by_command["check-dropout"]["coverage"]["checked"]
    assert by_command["init-symmetry"]["coverage"]["checked"]
    assert by_command["check-dropout"]["exit_code"] == 0


def test_nothing_applicable_at_all_is_exit_4(ran):
    assert ran("m.py:build", "--select", "DRP", "-f", "json")[0] == 4


def test_deselected_checks_are_not_listed(ran):
    _, out = ran("m.py:build", "--select", "DRP,SYM0", "-f", "json")
    assert [run["command"] for run in json.loads(out)["runs"]] == ["check-dropout", "init-symmetry"]


def test_a_crash_in_one_does_not_stop_the_others(ran, clean_environment):
    (clean_environment / "nndiag.toml").write_text(
        "[multigpu-lr]\nbase-lr = 0.1\nbase-batch = 64\ngpus = 8\nper-device-batch = 64\nlr = 0.8\n"
    )
    code, out = ran("m.py:broken", "--select", "SYM0,MGL0", "-f", "json")
    statuses = {run["command"]: run["status"] for run in json.loads(out)["runs"]}
    assert code == 3
    assert statuses == {"init-symmetry": "failed", "multigpu-lr": "completed"}


def test_the_last_line_is_the_verdict_over_all(ran):
    code, out = ran("m.py:build", "--select", "DRP,SYM0", "--color", "never")
    last = out.splitlines()[-1]
    assert last == "all  nothing found in 1 check · check-dropout had nothing to judge · fail-on error · exit 0"
    assert code == 0
