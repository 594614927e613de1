"""The terminal report against golden renders, and the promises no golden file can hold."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nndiag.core.findings import Table
from nndiag.render import Look, render
from nndiag.render.words import number, ranges, spark

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("render_sample", HERE / "sample.py")
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("name", ["dropout", "entropy", "healthy", "empty", "failed", "nasty"])
def test_text_reports_stay_as_they_were_looked_at(name, width, golden):
    report = getattr(sample, name)()
    golden(HERE / "expected" / f"{name}-{width}.txt", render([report], "text", Look(width=width)))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_no_line_is_wider_than_asked(width):
    for name in ("dropout", "entropy", "embedding", "multigpu", "symmetry", "nasty"):
        text = render([getattr(sample, name)()], "text", Look(width=width))
        assert max(map(len, text.splitlines())) <= width, name


def test_ascii_terminals_get_ascii_only():
    for name in ("dropout", "entropy", "symmetry", "nasty"):
        text = render([getattr(sample, name)()], "text", Look(utf8=False))
        assert text.isascii(), name


def test_no_escape_sequence_without_colour():
    assert "\x1b" not in render([sample.nasty()], "text", Look(color=False))


def test_foreign_escape_sequences_are_spelled_out_also_with_colour():
    text = render([sample.nasty()], "text", Look(color=True))
    without_ours = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\\x1b[31m" in without_ours
    assert "\x1b" not in without_ours
    assert "[/nope]" in without_ours


def test_colour_only_adds_to_what_is_said():
    plain = render([sample.dropout()], "text", Look(color=False))
    coloured = render([sample.dropout()], "text", Look(color=True))
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split()


def test_quiet_keeps_findings_and_verdict():
    text = render([sample.dropout()], "text", Look(quiet=True))
    assert text.startswith("✗ DRP105")
    assert "exit 1" in text.splitlines()[-1]
    assert "checked" not in text


def test_suppressed_findings_are_shown_when_asked():
    assert "DRP006 stacked" not in render([sample.dropout()], "text", Look())
    assert "DRP006 stacked" in render([sample.dropout()], "text", Look(show_suppressed=True))


def test_a_long_table_is_folded_around_what_matters():
    rows = [(f"layer.{index}", "error" if index == 77 else "ok") for index in range(100)]
    report = replace(sample.healthy(), tables=(Table("", ("layer", "status"), rows, main=True),))
    text = render([report], "text", Look())
    assert "layer.77 " in text
    assert "layer.99" not in text
    assert "… and 76 more rows; -v shows them" in text
    assert "layer.99" in render([report], "text", Look(verbose=1))


def test_concise_is_one_line_per_finding():
    lines = render([sample.dropout()], "concise", Look()).splitlines()
    assert lines[0].startswith('models.py:14: DRP105 error [measured] module "2"→"3": variance entering')
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (6.9, "6.9"), (1.0266190, "1.027"), (50257, "50,257"), (26130.4, "26,130"), (3.2e-7, "3.2e-07"),
     (float("nan"), "nan"), (float("-inf"), "-inf"), (None, ""), (2.0e9, "2e+09")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_runs_of_codes_are_joined_within_a_family_only():
    assert ranges(["NRM013", "DRP001", "NRM101", "DRP002"]) == "DRP001-002 NRM013 NRM101"


def test_a_spark_shows_its_extremes_and_the_threshold():
    drawn, mark = spark([0.0, 1.0, 2.0, 3.0], 4, threshold=0.0)
    assert (drawn[0], drawn[-1], mark) == ("▁", "█", "▁")


def test_a_spark_of_nothing_finite_is_empty():
    assert spark([float("nan")], 5) == ("", "")
