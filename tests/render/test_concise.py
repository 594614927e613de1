"""Concise lines: one per finding, and none of them silent about what went wrong."""

from __future__ import annotations

from dataclasses import replace

from nndiag.core.findings import Where
from nndiag.core.report import Report
from nndiag.core.rules import found
from nndiag.render import Look, render

FOUND = found(
    "DRP105", "7x larger", where=Where(file="m.py", line=4, module="2", cls="torch.nn.Dropout"), means="…", fix="…"
)


def lines(*reports, **look):
    return render(list(reports), "concise", Look(**look)).splitlines()


def test_a_finding_is_file_line_code_level_basis_module_message():
    assert lines(Report("check-dropout", "completed", findings=(FOUND,))) == [
        'm.py:4: DRP105 error [measured] module "2": 7x larger'
    ]


def test_an_accepted_finding_says_so_where_it_is_shown():
    report = Report("check-dropout", "completed", findings=(replace(FOUND, suppressed="frozen"),))
    assert lines(report) == []
    assert lines(report, show_suppressed=True)[0].endswith("7x larger (accepted: frozen)")


def test_a_check_that_failed_has_a_line():
    assert lines(Report("check-dropout", "failed", name="m.py:build", error="no weights")) == [
        "m.py:build: check-dropout failed: no weights"
    ]
