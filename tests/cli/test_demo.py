"""The demo finds each planted fault, and its rendered page in examples/ is of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nndiag.cli.app import main
from nndiag.load.report import load_reports
from nndiag.render import render

RENDERED = Path(__file__).parent.parent.parent / "examples" / "rendered"
PLANTED = {
    "check-dropout": "DRP105",
    "check-normalization": "NRM006",
    "entropy-floor": "ENT006",
    "embedding-cost": "EMB001",
    "init-symmetry": "SYM201",
    "multigpu-lr": "MGL003",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run the demo once and return its six reports as JSON."""
    path = tmp_path_factory.mktemp("demo") / "demo.json"
    assert main(["demo", "-q", "-o", f"json:{path}"]) == 0
    return json.loads(path.read_text(encoding="utf-8"))["runs"]


def test_the_demo_asks_all_six_questions(runs):
    assert [run["command"] for run in runs] == list(PLANTED)
    assert {run["status"] for run in runs} == {"completed"}


@pytest.mark.parametrize("command", PLANTED)
def test_the_planted_fault_is_found(runs, command):
    run = next(run for run in runs if run["command"] == command)
    assert PLANTED[command] in {item["code"] for item in run["findings"]}


def test_the_stored_demo_speaks_of_the_same_findings(runs):
    stored = load_reports([RENDERED / "demo.json"])
    assert [[item.rule.code for item in report.findings] for report in stored] == [
        [item["code"] for item in run["findings"]] for run in runs
    ]


def test_the_rendered_page_is_what_the_stored_demo_gives():
    page = (RENDERED / "demo.html").read_text(encoding="utf-8")
    assert render(load_reports([RENDERED / "demo.json"]), "html") == page
