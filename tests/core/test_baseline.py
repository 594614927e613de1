"""A baseline keeps quiet what was known, and lets news through."""

import json
from dataclasses import replace

import pytest

from nndiag.core.baseline import apply_baseline, baseline_text, parse_baseline
from nndiag.core.errors import UsageError
from nndiag.core.findings import Severity
from render import sample


def stored(*reports):
    return parse_baseline(json.loads(baseline_text(reports)), "baseline.json")


def with_first(report, **evidence):
    first = report.findings[0]
    return replace(
        report, findings=(replace(first, evidence=replace(first.evidence, **evidence)), *report.findings[1:])
    )


def test_the_same_run_is_quiet_against_its_own_baseline():
    for report in sample.every():
        assert not apply_baseline(report, stored(report)).active


def test_a_new_finding_speaks():
    old = replace(sample.dropout(), findings=sample.dropout().findings[1:])
    assert [item.rule.code for item in apply_baseline(sample.dropout(), stored(old)).active] == ["DRP105"]


@pytest.mark.parametrize(
    ("value", "interval", "quiet"),
    [
        (6.9, (6.4, 7.4), True),  # equal
        (7.3, (7.0, 7.6), True),  # within the old interval: not told apart from 6.9
        (7.6, (6.8, 8.4), True),  # its own interval holds the old value
        (9.0, (8.5, 9.5), False),  # worse: further above the threshold 1.5
        (3.0, (2.8, 3.2), True),  # better, though still a fault
    ],
)
def test_measured_rules_compare_by_value(value, interval, quiet):
    now = with_first(sample.dropout(), value=value, interval=interval)
    assert ("DRP105" not in {item.rule.code for item in apply_baseline(now, stored(sample.dropout())).active}) is quiet


def test_below_a_threshold_a_smaller_value_is_worse():
    before = with_first(sample.symmetry(), value=1.5, interval=None)  # effective units, threshold 2
    better = with_first(sample.symmetry(), value=1.8, interval=None)
    worse = with_first(sample.symmetry(), value=1.1, interval=None)
    assert "SYM201" not in {item.rule.code for item in apply_baseline(better, stored(before)).active}
    assert "SYM201" in {item.rule.code for item in apply_baseline(worse, stored(before)).active}


def test_without_a_threshold_a_ratio_is_worse_the_further_from_one():
    before = with_first(sample.dropout(), value=0.5, interval=None, threshold=None)
    known = stored(before)
    nearer = with_first(sample.dropout(), value=1.8, interval=None, threshold=None)
    further = with_first(sample.dropout(), value=2.2, interval=None, threshold=None)
    assert "DRP105" not in {item.rule.code for item in apply_baseline(nearer, known).active}
    assert "DRP105" in {item.rule.code for item in apply_baseline(further, known).active}


def test_exact_rules_compare_by_place_alone():
    now = with_first(sample.multigpu(), value=16.0)
    assert not apply_baseline(now, stored(sample.multigpu())).active


def test_a_graver_severity_speaks():
    report = sample.multigpu()
    mild = replace(report, findings=tuple(replace(item, severity=Severity.WARNING) for item in report.findings))
    assert [item.rule.code for item in apply_baseline(report, stored(mild)).active] == ["MGL003"]


def test_a_line_that_moved_is_the_same_finding():
    report = sample.dropout()
    moved = replace(
        report,
        findings=tuple(replace(item, where=replace(item.where, line=1000)) for item in report.findings),
    )
    assert not apply_baseline(moved, stored(report)).active


def test_the_exit_code_follows():
    assert sample.dropout().exit_code == 1
    assert apply_baseline(sample.dropout(), stored(sample.dropout())).exit_code == 0


def test_the_file_is_the_same_whatever_the_order():
    first, second = sample.dropout(), sample.multigpu()
    assert baseline_text([first, second]) == baseline_text([second, first])


def test_infinities_survive():
    assert not apply_baseline(sample.nasty(), stored(sample.nasty())).active


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "no baseline"),
        ({}, "no baseline"),
        ({"kind": "nndiag-baseline", "version": "2.0", "findings": []}, "version 2.0"),
        ({"kind": "nndiag-baseline", "version": "1.0"}, "damaged"),
        ({"kind": "nndiag-baseline", "version": "1.0", "findings": [3]}, "damaged"),
        ({"kind": "nndiag-baseline", "version": "1.0", "findings": 3}, "damaged"),
        (
            {
                "kind": "nndiag-baseline",
                "version": "1.0",
                "findings": [{"code": "DRP105", "fingerprint": "x", "severity": "fatal"}],
            },
            "damaged",
        ),
        (
            {
                "kind": "nndiag-baseline",
                "version": "1.0",
                "findings": [{"code": "DRP105", "fingerprint": "x", "severity": "note", "interval": [1]}],
            },
            "damaged",
        ),
    ],
)
def test_what_is_no_baseline_is_a_usage_error(document, says):
    with pytest.raises(UsageError, match=says) as caught:
        parse_baseline(document, "b.json")
    assert caught.value.hint


def test_a_code_of_a_later_version_is_passed_over():
    entry = {"code": "XYZ999", "fingerprint": "f", "severity": "error"}
    assert parse_baseline({"kind": "nndiag-baseline", "version": "1.3", "findings": [entry]}, "b") == {}
