"""Markdown says the verdict first, escapes what comes from outside, and hides no skip."""

import re

import pytest

from nndiag.render import markdown
from render import sample

SETS = {"six": sample.six(), "every": sample.every()} | {
    f"{index}": (report,) for index, report in enumerate(sample.every())
}


@pytest.mark.parametrize("name", SETS)
def test_every_finding_and_every_skip_is_told(name):
    text = markdown.render(SETS[name])
    for report in SETS[name]:
        for item in report.active:
            assert f"{item.rule.code}: {markdown.text(item.message)}" in text
        for skip in report.skipped:
            assert markdown.text(skip.reason) in text


def test_the_verdict_is_the_first_line():
    first = markdown.render(sample.six()).splitlines()[0]
    assert first == "## ❌ nndiag all: 4 errors, 2 warnings, 3 notes"
    assert markdown.render([sample.healthy()]).startswith("## ✅ check-normalization: nothing found")
    assert markdown.render([sample.failed()]).startswith("## ❌ init-symmetry: 1 check could not run")


def test_tables_keep_their_columns_whatever_the_cells_hold():
    for block in markdown.render(sample.every()).split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
            assert len(bars) == 1


def test_outside_text_opens_no_tag_and_no_link():
    text = markdown.render([sample.nasty()])
    body = re.sub(r"(`+)(.*?)\1", "", text)
    assert not re.search(r"(?<!\\)<(?!/?(details|summary)\b)", body)
    assert not re.search(r"(?<!\\)\[", body)
    assert "\x1b" not in text


def test_a_long_table_is_cut_and_says_so():
    from dataclasses import replace

    table = sample.Table("t", ("n",), tuple((i,) for i in range(100)), main=True)
    assert "… and 70 more rows" in markdown.render([replace(sample.healthy(), tables=(table,))])


def test_backticks_in_names_do_not_end_the_code():
    assert markdown.code("a`b") == "`` a`b ``"
    assert markdown.code("a") == "`a`"
