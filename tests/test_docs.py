"""Every code block of the documentation is executed; every output it shows is the real one.

`pytest tests/test_docs.py --update` writes the outputs anew.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from nndiag.cli.app import main
from nndiag.core.rules import CHECKS, RULES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
FENCE = re.compile(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = tuple(dict.fromkeys(CHECKS.values()))
HIDDEN = ("json", "html", "sarif")  # formats too long to be shown


def _console(block, folder, capfd):
    """Run the one command of a block and return what a reader would see."""
    command = block.splitlines()[0].removeprefix("$ ")
    program, *arguments = shlex.split(command)
    capfd.readouterr()
    if program == "python":
        old, sys.argv = sys.argv, arguments
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        finally:
            sys.argv = old
        return f"$ {command}\n"
    if program == "pytest":
        assert pytest.main([*arguments, "-p", "no:cacheprovider"]) == 0
        return f"$ {command}\n"
    assert program == "nndiag", command
    code = main(arguments)
    out, err = capfd.readouterr()
    assert code in (0, 1), err
    shown = "" if any(f"-f {form}" in command for form in HIDDEN) else out
    return f"$ {command}\n{shown.rstrip()}\n" if shown.strip() else f"$ {command}\n"


def _count_layers_anew():
    """Let Keras number its layers from the start, as it does in a process of the reader's own."""
    if (keras := sys.modules.get("keras")) is not None:
        keras.utils.clear_session()


def _known_options(command, capfd):
    capfd.readouterr()
    main([command, "--help"])
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capfd.readouterr()[0]))


@pytest.mark.filterwarnings("ignore")  # Lightning talks about loaders
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_and_shows_what_it_says(page, clean_environment, capfd, request, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    said = text
    _count_layers_anew()
    for language, name, block in FENCE.findall(text):
        if name:
            (clean_environment / name).write_text(block, encoding="utf-8")
        elif language == "console":
            said = said.replace(
                f"```console\n{block}```", f"```console\n{_console(block, clean_environment, capfd)}```"
            )
        elif language == "python":
            exec(compile(block, page, "exec"), names)  # noqa: S102 - our own documentation
        elif language == "toml":
            tomllib.loads(block)
        elif language == "yaml":
            assert yaml.safe_load(block)
        else:
            pytest.fail(f"{page}: a block of '{language}' is not executed")
    if request.config.getoption("--update"):
        (DOCS / page).write_text(said, encoding="utf-8")
    assert said == text or request.config.getoption("--update")


def test_every_command_has_a_page_with_the_four_parts():
    for command in COMMANDS:
        if command == "nndiag":
            continue
        text = (DOCS / f"{command}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {command}\n\n**The question.**")
        titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert titles == ["Example", "How to read the report", "What it cannot tell"]


@pytest.mark.parametrize("page", PAGES)
def test_options_and_codes_that_are_named_exist(page, capfd):
    text = (DOCS / page).read_text(encoding="utf-8")
    for code in re.findall(r"\b[A-Z]{3}\d{3}\b", text):
        assert code in RULES
    known = {command: _known_options(command, capfd) for command in (*COMMANDS[:-1], "all", "report")}
    for line in re.findall(r"nndiag ((?:[a-z]+-)?[a-z]+ [^`|\n]*)", text):
        command, *words = line.split()
        if command in known:
            options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert options <= known[command], line


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (DOCS / page).read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), f"{page}: {target}"


def test_the_table_of_codes_is_the_one_in_rules(golden):
    lines = [
        "# Codes",
        "",
        "`nndiag rule CODE` explains one. The hundreds digit is the cost: 0xx structure, config, files;",
    ]
    lines += ["1xx forward and backward passes or clocks; 2xx micro-training. Codes are never reused.", ""]
    lines += ["| code | name | level | basis | what it says |", "|---|---|---|---|---|"]
    lines += [
        f"| {rule.code} | {rule.name} | {rule.severity.word} | {rule.basis} | {rule.summary.replace('|', chr(92) + '|')} |"
        for rule in RULES.values()
    ]
    golden(DOCS / "codes.md", "\n".join(lines) + "\n")
