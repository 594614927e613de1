"""Every page's Sick example fires its code; the Healthy twin does not. Both are executed as written."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import nndiag
from nndiag.cli.app import main
from nndiag.core.rules import RULES

PAGES = Path(nndiag.__file__).parent / "pages"
FENCE = re.compile(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    files: dict[str, str]
    commands: list[str]


def section(code: str, title: str) -> Example:
    text = (PAGES / f"{code}.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    files, commands = {}, []
    for language, name, block in FENCE.findall(body):
        if name:
            files[name] = block
        elif language == "console":
            commands += [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return Example(files, commands)


def run(example: Example, folder: Path, capfd) -> tuple[int, dict]:
    for name, block in example.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(block, encoding="utf-8")
    *before, last = example.commands
    for command in before:
        program, *arguments = shlex.split(command)
        assert program == "python", command
        old, sys.argv = sys.argv, arguments
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        finally:
            sys.argv = old
    program, *arguments = shlex.split(last)
    assert program == "nndiag", last
    capfd.readouterr()
    code = main([*arguments, "-f", "json"])
    out, err = capfd.readouterr()
    assert out, f"exit {code}: {err}"
    return code, json.loads(out)


def codes(document: dict) -> set[str]:
    return {item["code"] for item in document["findings"] if not item["suppressed"]}


@pytest.mark.parametrize("code", RULES)
def test_the_sick_example_fires(code, clean_environment, capfd):
    _exit, document = run(section(code, "Sick"), clean_environment, capfd)
    assert code in codes(document)


@pytest.mark.parametrize("code", RULES)
def test_the_healthy_twin_stays_quiet(code, clean_environment, capfd):
    _exit, document = run(section(code, "Healthy"), clean_environment, capfd)
    assert code not in codes(document)
    assert document["status"] == "completed"
    assert not [item["code"] for item in document["findings"] if item["severity"] == "error"]
