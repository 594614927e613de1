"""The README shows what the tool really prints, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from nndiag.cli.app import app, main

README = Path(__file__).parent.parent / "README.md"
SHOWN = re.compile(r"(<!-- report:.*?-->\n)```console\n\$ (.*?)\n(.*?)```\n(<!-- end of report -->)", re.DOTALL)


def test_the_shown_report_is_what_is_printed(request, capfd, monkeypatch):
    monkeypatch.chdir(README.parent)
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    text = README.read_text(encoding="utf-8")
    found = SHOWN.search(text)
    assert found, "README.md has lost its report"
    assert main([*shlex.split(found[2])[1:], "--isolated"]) == 1
    printed = capfd.readouterr().out
    if request.config.getoption("--update"):
        README.write_text(text[: found.start(3)] + printed + text[found.end(3) :], encoding="utf-8")
    else:
        assert found[3] == printed


def commands_shown():
    lines = re.findall(r"^    (nndiag .*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line.split("|")[0], comments=True) for line in lines]


@pytest.mark.parametrize("words", commands_shown(), ids=" ".join)
def test_every_command_shown_exists_with_its_options(words):
    command = typer.main.get_command(app).commands[words[1]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
