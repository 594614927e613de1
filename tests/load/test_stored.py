"""Stored runs and baselines are opened with care; comments in the source are honoured."""

import json
from dataclasses import replace

import pytest

from nndiag.core.baseline import baseline_text
from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.report import Policy
from nndiag.core.rules import Selection
from nndiag.load.baseline import read_baseline
from nndiag.load.report import load_reports
from nndiag.load.suppress import comments_in, with_comments
from render import sample


def write(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_single_and_merged_runs_come_back(tmp_path):
    one = write(tmp_path / "one.json", sample.dropout().to_dict())
    runs = {"schema_version": "1.0", "runs": [report.to_dict() for report in sample.every()]}
    many = write(tmp_path / "many.json", runs)
    reports = load_reports([one, many])
    assert [report.to_dict() for report in reports] == [
        report.to_dict() for report in (sample.dropout(), *sample.every())
    ]


def test_a_run_of_a_newer_major_schema_is_refused(tmp_path):
    path = write(tmp_path / "new.json", {**sample.dropout().to_dict(), "schema_version": "2.0"})
    with pytest.raises(NndiagError, match=r"schema 2.0.*reads 1.0") as caught:
        load_reports([path])
    assert "newer nndiag" in caught.value.hint


def test_a_newer_minor_schema_is_read(tmp_path):
    document = {**sample.dropout().to_dict(), "schema_version": "1.7", "mood": "sunny"}
    assert load_reports([write(tmp_path / "minor.json", document)])


def garbage():
    """Documents that look like runs and are none."""
    good = sample.dropout().to_dict()
    yield from ("", "{", "[]", "3", '"x"', "null", "\x00\x01", "[" * 100_000, '{"a": 1}')
    yield {"schema_version": "1.0"}
    yield {"schema_version": "1.0", "runs": []}
    yield {"schema_version": "1.0", "runs": 3}
    yield {"schema_version": "1.0", "runs": [3]}
    for key in good:
        if key not in ("tool", "name", "exit_code", "summary", "schema_version"):
            yield {**good, key: 7 if not isinstance(good[key], (int, str)) else [7]}
    finding = good["findings"][0]
    for key, value in [
        ("message", 3),
        ("where", []),
        ("evidence", "x"),
        ("code", "XXX000"),
        ("severity", "fatal"),
        ("where", {"line": "x"}),
        ("evidence", {"value": []}),
    ]:
        yield {**good, "findings": [{**finding, key: value}]}
    yield {**good, "series": [{"name": "s", "unit": "", "x": ["a"], "y": [1]}]}
    yield {**good, "series": [{"name": "s", "unit": "", "x": 3, "y": [1]}]}


@pytest.mark.parametrize("document", list(garbage()))
def test_garbage_is_an_error_with_a_hint(tmp_path, document):
    with pytest.raises(NndiagError) as caught:
        load_reports([write(tmp_path / "garbage.json", document)])
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        load_reports([tmp_path / "none.json"])
    with pytest.raises(UsageError):
        read_baseline(tmp_path / "none.json")


def test_a_baseline_comes_back(tmp_path):
    known = read_baseline(write(tmp_path / "b.json", baseline_text([sample.dropout()])))
    assert {item.fingerprint for item in sample.dropout().findings} == set(known)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[]", '{"kind": "nndiag-baseline", "version": "9"}'])
def test_a_damaged_baseline_is_a_usage_error(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        read_baseline(write(tmp_path / "b.json", text))
    assert caught.value.hint


def source(tmp_path, monkeypatch, comment, line=14):
    monkeypatch.chdir(tmp_path)
    lines = ["x = 1"] * 30
    lines[line - 1] += f"  {comment}"
    write(tmp_path / "models.py", "\n".join(lines) + "\n")
    return sample.dropout()


def state(report):
    return {item.rule.code: item.suppressed for item in report.findings}


def test_a_comment_accepts_the_finding_on_its_line(tmp_path, monkeypatch):
    report = source(tmp_path, monkeypatch, "# nndiag: ignore[DRP105] batch norm is frozen")
    after = state(with_comments(report))
    assert after["DRP105"] == "batch norm is frozen"
    assert after["DRP001"] == ""
    assert "NND903" not in after


def test_a_comment_may_name_several_codes_and_prefixes(tmp_path, monkeypatch):
    report = source(tmp_path, monkeypatch, "# nndiag: ignore[DRP105, drp0]")
    after = state(with_comments(report))
    assert after["DRP105"]
    assert after["DRP001"]


def test_a_comment_on_another_line_accepts_nothing_and_is_reported(tmp_path, monkeypatch):
    report = source(tmp_path, monkeypatch, "# nndiag: ignore[DRP105] why not", line=3)
    after = with_comments(report)
    assert state(after)["DRP105"] == ""
    unused = [item for item in after.findings if item.rule.code == "NND903"]
    assert [(item.where.file, item.where.line) for item in unused] == [("models.py", 3)]


def test_a_comment_about_a_skipped_rule_is_not_called_unused(tmp_path, monkeypatch):
    report = source(tmp_path, monkeypatch, "# nndiag: ignore[DRP201] slow", line=3)
    assert "NND903" not in state(with_comments(report))


def test_a_comment_about_another_command_is_not_called_unused(tmp_path, monkeypatch):
    report = source(tmp_path, monkeypatch, "# nndiag: ignore[SYM001] meant", line=3)
    assert "NND903" not in state(with_comments(report))


def test_unused_comments_stay_silent_when_nobody_asked(tmp_path, monkeypatch):
    report = source(tmp_path, monkeypatch, "# nndiag: ignore[DRP105] why not", line=3)
    policy = Policy(selection=Selection(("ALL",), ("NND903",)))
    assert "NND903" not in state(with_comments(report, policy))


def test_words_in_a_string_are_no_comment(tmp_path):
    path = write(tmp_path / "m.py", 'x = """\n# nndiag: ignore[DRP105] no\n"""\n')
    assert comments_in(str(path)) == []


def test_a_file_that_is_no_python_is_read_by_line(tmp_path):
    path = write(tmp_path / "nndiag.toml", "a = 'it''s\nlr = 1 # nndiag: ignore[MGL001] tuned\n")
    (entry,) = comments_in(str(path))
    assert (entry.line, entry.code, entry.reason) == (2, "MGL001", "tuned")


def test_a_file_that_is_gone_accepts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_comments(sample.dropout()) == sample.dropout()
    assert comments_in("\0") == []
    assert comments_in(str(tmp_path)) == []
    assert with_comments(replace(sample.dropout(), findings=())).findings == ()
