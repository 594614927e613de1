"""Whatever a model prints, stdout is the report: every command in every format parses."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest

from nndiag.cli.app import main

ROOT = Path(__file__).parents[2]
REPORT = jsonschema.Draft202012Validator(json.loads((ROOT / "docs/report.schema.json").read_text()))
SARIF = jsonschema.Draft4Validator(json.loads((ROOT / "tests/render/data/sarif-2.1.0-rtm.5.schema.json").read_text()))
NOISY = """
import os, sys
import torch
from torch import nn

print("import says hello {")
os.write(1, b"raw bytes on import\\n")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        print("construction <b>")
        self.emb = nn.Linear(8, 16)
        self.drop = nn.Dropout(0.8)
        self.bn = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 3)
    def forward(self, x):
        print("forward", file=sys.stdout, flush=True)
        os.write(1, b"raw bytes in forward\\n")
        os.system("echo from a child process")
        return self.out(self.bn(self.drop(self.emb(x))))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        print("words")
        self.emb, self.out = nn.Embedding(200, 8), nn.Linear(8, 3)
    def forward(self, ids):
        print("looking up")
        return self.out(self.emb(ids).mean(1))

def data():
    print("data")
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()

def ids():
    print("ids")
    return torch.randint(0, 200, (32, 6), generator=torch.Generator().manual_seed(0)), torch.zeros(32).long()
"""
COMMANDS = {
    "check-dropout": ["noisy.py:Net", "noisy.py:data"],
    "check-normalization": ["noisy.py:Net", "noisy.py:data", "--no-train"],
    "entropy-floor": ["--model", "noisy.py:Net", "--data", "noisy.py:data"],
    "embedding-cost": ["noisy.py:Words", "noisy.py:ids", "--no-measure"],
    "init-symmetry": ["noisy.py:Net", "noisy.py:data", "--no-train"],
    "multigpu-lr": ["--gpus", "2", "--per-device-batch", "8", "--lr", "1e-3", "--base-lr", "1e-3", "--base-batch", "8"],
}
SHORT = ["--no-progress", "--max-seconds", "5", "--allow-empty"]


def _every(pattern):
    return lambda text: all(re.match(pattern, line) for line in text.splitlines())


READERS = {
    "text": lambda text: text.startswith("nndiag "),
    "concise": _every(r".+: [A-Z]{3}\d{3} (error|warning|note) \["),
    "json": lambda text: REPORT.is_valid(json.loads(text)),
    "jsonl": lambda text: all(json.loads(line)["code"] for line in text.splitlines()),
    "sarif": lambda text: SARIF.is_valid(json.loads(text)),
    "junit": lambda text: ET.fromstring(text).tag == "testsuites",  # noqa: S314 - our own output
    "github": _every("::(error|warning|notice) "),
    "gitlab": lambda text: isinstance(json.loads(text), list),
    "md": lambda text: text.startswith("## "),
    "html": lambda text: text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n"),
}
FORMATS = tuple(READERS)


def parse(form, text):
    """Read one format as its reader would."""
    assert READERS[form](text), text[:2000]
    for noise in ("hello {", "raw bytes", "construction <b>", "child process", "looking up"):
        assert noise not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_format_parses_whatever_the_model_prints(command, clean_environment, capfd):
    (clean_environment / "noisy.py").write_text(NOISY)
    files = [f"--output={form}:report.{form}" for form in FORMATS]
    code = main([command, *COMMANDS[command], *SHORT, *files, "-f", "json"])
    out, err = capfd.readouterr()
    assert code in (0, 1), err
    parse("json", out)
    for form in FORMATS:
        text = Path(f"report.{form}").read_text()
        parse(form, text)
        capfd.readouterr()
        assert main(["report", "report.json", "-f", form]) == 0
        again, err = capfd.readouterr()
        parse(form, again)


@pytest.mark.parametrize("form", ["text", "json", "junit"])
def test_a_pipe_carries_the_report_and_nothing_else(form, clean_environment):
    (clean_environment / "noisy.py").write_text(NOISY)
    arguments = ["check-dropout", *COMMANDS["check-dropout"], *SHORT, "--select", "DRP0", "-f", form]
    done = subprocess.run(
        [sys.executable, "-m", "nndiag", *arguments], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode in (0, 1), done.stderr
    parse(form, done.stdout)
    assert "raw bytes in forward" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"schema_version": "2.0", "runs": []}', "holds no run"),
        ('{"schema_version": "2.0", "command": "x"}', "schema 2.0"),
        ("garbage", "is not JSON"),
        ("{}", "no stored run"),
        ("\x00\x01", "not JSON"),
    ],
)
def test_a_converter_fed_with_garbage_says_so_in_two_lines(content, says, clean_environment, capfd):
    Path("run.json").write_text(content)
    Path("old.html").write_text("old")
    assert main(["report", "run.json", "-o", "html:old.html"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert says in err
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert Path("old.html").read_text() == "old"


@pytest.mark.parametrize(
    "content", ["garbage", "[]", '{"kind": "nndiag-baseline", "version": "9.0", "findings": []}', "\x00"]
)
def test_a_baseline_that_is_none_is_a_usage_error(content, clean_environment, capfd):
    Path("base.json").write_text(content)
    Path("old.json").write_text("old")
    arguments = ["multigpu-lr", *COMMANDS["multigpu-lr"], "--baseline", "base.json", "-o", "json:old.json"]
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert Path("old.json").read_text() == "old"


def test_a_baseline_keeps_known_findings_quiet(clean_environment, capfd):
    arguments = ["multigpu-lr", *COMMANDS["multigpu-lr"], "--fail-on", "warning", "--no-progress"]
    arguments[arguments.index("--gpus") + 1] = "8"
    assert main(arguments) == 1
    assert main([*arguments, "--write-baseline", "base.json"]) == 0
    assert main([*arguments, "--baseline", "base.json"]) == 0
    capfd.readouterr()
    assert main([*arguments, "--baseline", "base.json", "-f", "json"]) == 0
    assert json.loads(capfd.readouterr()[0])["summary"]["suppressed"] >= 1


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a full device is Linux's")
def test_a_full_target_is_two_lines_and_stays_a_device(tmp_path):
    (tmp_path / "y.csv").write_text("y\n0\n1\n")
    command = [sys.executable, "-m", "nndiag", "entropy-floor", "y.csv", "-q"]
    with Path("/dev/full").open("w") as full:
        runs = [
            subprocess.run(
                [*command, "-o", "json:/dev/full"], cwd=tmp_path, capture_output=True, text=True, check=False
            ),
            subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False),
        ]
    for run in runs:
        assert run.returncode == 2
        assert re.fullmatch(r"error: cannot write .*: No space left on device\nhint: .*\n", run.stderr)
    assert Path("/dev/full").is_char_device()


def test_a_link_stays_a_link_and_its_target_gets_the_report(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("y.csv").write_text("y\n0\n1\n")
    Path("link.json").symlink_to("real.json")
    assert main(["entropy-floor", "y.csv", "-o", "json:link.json"]) == 0
    assert Path("link.json").is_symlink()
    assert json.loads(Path("real.json").read_text())["command"] == "entropy-floor"
