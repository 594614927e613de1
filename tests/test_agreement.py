"""Lists that must agree: rules, checks, commands, options, settings, pages, contract."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import typer.main

import nndiag
from nndiag.checks import ALL, make
from nndiag.cli.app import CHECKS as COMMANDS
from nndiag.cli.app import app
from nndiag.core.check import Check
from nndiag.core.rules import CHECKS, RULES

PAGES = Path(nndiag.__file__).parent / "pages"
SECTIONS = (
    "What it is",
    "Why it hurts",
    "How it is measured",
    "Sick",
    "Healthy",
    "Fix",
    "When to ignore it",
    "Sources",
)
FAMILIES = [name for name in CHECKS.values() if name != "nndiag"]


def test_every_check_has_a_command_and_rules():
    assert sorted(ALL) == sorted(name for name, _command in COMMANDS) == sorted(FAMILIES)


def test_every_code_has_a_page_and_every_page_a_code():
    assert sorted(path.stem for path in PAGES.glob("*.md")) == sorted(RULES)


@pytest.mark.parametrize("code", RULES)
def test_a_page_has_its_sections_in_order(code):
    lines = (PAGES / f"{code}.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {code} {RULES[code].name}"
    assert tuple(line[3:] for line in lines if line.startswith("## ")) == SECTIONS


@pytest.mark.parametrize("name", ALL)
def test_a_check_is_a_frozen_dataclass_of_the_protocol(name):
    check = make(name)
    assert isinstance(check, Check)
    assert check.name == name
    assert dataclasses.is_dataclass(check)
    assert check.__dataclass_params__.frozen


@pytest.mark.parametrize("name", ALL)
def test_every_setting_of_a_check_is_an_option_of_its_command(name):
    command = typer.main.get_command(app).commands[name]
    options = {parameter.name for parameter in command.params}
    fields = {field.name for field in dataclasses.fields(make(name))}
    assert fields <= options, f"fields without an option: {sorted(fields - options)}"


def test_heuristics_are_never_errors_by_default():
    assert not [rule.code for rule in RULES.values() if rule.basis == "heuristic" and rule.severity == 3]


def test_every_command_shows_an_example():
    for name, command in typer.main.get_command(app).commands.items():
        if name != "env":
            assert "Example: nndiag " in (command.help or ""), name
