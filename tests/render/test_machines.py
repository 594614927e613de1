"""Formats that machines read: each parses, is complete, and survives hostile names."""

import json
import re
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest

from nndiag.core.report import Report
from nndiag.core.serial import from_dict
from nndiag.render import junit, phrases, sarif
from render import sample

# "from nndiag.render import annotations" would find the __future__ feature of that package
annotations = import_module("nndiag.render.annotations")
SCHEMA = json.loads((Path(__file__).parent / "data/sarif-2.1.0-rtm.5.schema.json").read_text())
SETS = {report.command + report.status + report.name[:2]: (report,) for report in sample.every()} | {
    "six": sample.six(),
    "every": sample.every(),
}


def _parse(text):
    return ET.fromstring(text)  # noqa: S314 - our own output


@pytest.mark.parametrize("reports", SETS.values(), ids=list(SETS))
def test_sarif_is_valid_by_its_official_schema(reports):
    jsonschema.Draft4Validator(SCHEMA).validate(json.loads(sarif.render(reports)))


def test_sarif_has_one_run_with_every_finding():
    log = json.loads(sarif.render(sample.every()))
    (run,) = log["runs"]
    assert len(run["results"]) == sum(len(report.findings) for report in sample.every())
    for result in run["results"]:
        rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert rule["help"]["text"]


def test_sarif_places_are_relative_and_start_at_a_line():
    for result in json.loads(sarif.render(sample.every()))["runs"][0]["results"]:
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert not place["artifactLocation"]["uri"].startswith(("/", "file:"))
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", place["artifactLocation"]["uri"])
        assert place["region"]["startLine"] >= 1


def test_a_finding_without_a_source_line_points_at_the_configuration_and_says_where_it_is():
    (run,) = json.loads(sarif.render([sample.entropy()]))["runs"]
    (result,) = run["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "nndiag.toml"
    assert '"loss"' in result["message"]["text"]


def test_a_file_outside_the_working_tree_is_not_claimed_to_be_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = sample.dropout()
    assert phrases.uri(report, sample.Where(file="/usr/lib/torch/nn.py", line=3)) == ("nndiag.toml", 1, False)
    assert phrases.uri(report, sample.Where(file=str(tmp_path / "a/b.py"), line=3)) == ("a/b.py", 3, True)


def test_fingerprints_do_not_move_with_lines_or_values():
    from dataclasses import replace

    item = sample.dropout().findings[0]
    moved = replace(item, where=replace(item.where, line=99), evidence=replace(item.evidence, value=7.1))
    report = sample.dropout()

    def fingerprints(finding):
        log = json.loads(sarif.render([replace(report, findings=(finding,))]))
        return log["runs"][0]["results"][0]["partialFingerprints"]

    assert fingerprints(item) == fingerprints(moved)


def test_sarif_keeps_accepted_findings_as_suppressed():
    results = json.loads(sarif.render([sample.dropout()]))["runs"][0]["results"]
    assert [r["ruleId"] for r in results if "suppressions" in r] == ["DRP006"]


def test_sarif_says_what_was_skipped_and_what_failed():
    log = json.loads(sarif.render([sample.failed(), sample.empty()]))
    (invocation,) = log["runs"][0]["invocations"]
    texts = [notice["message"]["text"] for notice in invocation["toolExecutionNotifications"]]
    assert invocation["executionSuccessful"] is False
    assert any("mat1 and mat2" in text for text in texts)
    assert any("SYM001 skipped: the model could not be built" in text for text in texts)
    assert any("nothing applicable" in text for text in texts)


@pytest.mark.parametrize("reports", SETS.values(), ids=list(SETS))
def test_junit_parses_and_counts_what_it_holds(reports):
    root = _parse(junit.render(reports))
    for tag, key in (("failure", "failures"), ("skipped", "skipped"), ("error", "errors"), ("testcase", None)):
        assert len(root.findall(f".//{tag}")) == int(root.get(key or "tests"))


def test_junit_tells_failed_from_skipped_from_passed():
    root = _parse(junit.render([sample.dropout()]))
    state = {}
    for case in root.iter("testcase"):
        tags = {"failure": "failed", "skipped": "skipped"}
        state[case.get("name").split()[0]] = next((tags[child.tag] for child in case if child.tag in tags), "passed")
    assert state["DRP105"] == "failed"
    assert state["DRP201"] == "skipped"
    assert state["DRP101"] == "passed"
    assert state["DRP001"] == "passed"  # a warning, and --fail-on is error
    assert state["DRP006"] == "passed"  # accepted


def test_junit_holds_no_character_that_xml_forbids():
    text = junit.render(sample.every())
    assert not junit.UNSAFE.search(text)
    assert "\\x1b" in text


def _unescape(line):
    """Read a workflow command as the GitHub runner does."""
    level, rest = re.fullmatch(r"::(error|warning|notice) (.*)", line).groups()
    head, text = rest.split("::", 1)
    pairs = dict(part.split("=", 1) for part in head.split(","))

    def back(value):
        for code, mark in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            value = value.replace(code, mark)
        return value

    return level, {key: back(value) for key, value in pairs.items()}, back(text)


def test_github_commands_come_back_as_they_were_meant():
    lines = annotations.render_github([sample.nasty()]).splitlines()
    level, place, text = _unescape(lines[0])
    assert level == "error"
    assert place["file"] == "dir with space/ü,:%.py"
    assert place["line"] == "3"
    assert place["title"] == "DRP101 active-in-eval"
    assert text.startswith(f"{sample.NASTY} acts in eval\nsecond line, 100%: a=b")


def test_github_shows_the_worst_first_and_nothing_accepted():
    lines = annotations.render_github(sample.six()).splitlines()
    levels = [re.match("::([a-z]+)", line).group(1) for line in lines]
    assert levels == sorted(levels, key=["error", "warning", "notice"].index)
    assert not any("DRP006" in line for line in lines)


def test_gitlab_issues_have_what_gitlab_demands():
    issues = json.loads(annotations.render_gitlab(sample.every()))
    assert issues
    for issue in issues:
        assert issue["description"]
        assert issue["check_name"]
        assert re.fullmatch("[0-9a-f]{16}", issue["fingerprint"])
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert not issue["location"]["path"].startswith("/")
        assert issue["location"]["lines"]["begin"] >= 1


@pytest.mark.parametrize("reports", SETS.values(), ids=list(SETS))
def test_a_stored_run_renders_as_the_run_itself(reports):
    stored = [from_dict(json.loads(json.dumps(report.to_dict()))) for report in reports]
    for render in (sarif.render, junit.render, annotations.render_github, annotations.render_gitlab):
        once = render([from_dict(report.to_dict()) for report in reports])
        assert render(stored) == once


def test_nothing_found_gives_empty_annotations():
    assert annotations.render_github([sample.healthy()]) == ""
    assert json.loads(annotations.render_gitlab([sample.healthy()])) == []


def test_the_tally_never_calls_a_failed_run_clean():
    assert phrases.tally([sample.failed()]) == "1 check could not run"
    assert phrases.tally([sample.empty()]) == "nothing applicable"
    assert phrases.tally([sample.healthy()]) == "nothing found"
    assert phrases.tally([sample.dropout()]) == "1 error, 1 warning, 1 note"
    assert isinstance(sample.empty(), Report)
