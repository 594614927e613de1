"""DATA through the command line: standard input, and a target column by its name."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ROWS = "a,b,label\n" + "".join(f"{i},{(i * 7) % 11},{i % 2}\n" for i in range(60))
MODEL = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))\n"


def run(folder: Path, *args: str, stdin: str | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "nndiag", "check-normalization", *args, "-f", "json"]
    done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout)


def test_a_named_target_column_is_no_feature(tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.csv").write_text(ROWS)
    report = run(tmp_path, "m.py:build", "d.csv", "--target", "label")
    assert "60 x 2" in json.dumps(report)


def test_standard_input_is_read_like_a_file(tmp_path):
    rows = "\n".join(line.rsplit(",", 1)[0] for line in ROWS.splitlines()) + "\n"
    report = run(tmp_path, "-", stdin=rows)
    assert "60 x 2" in json.dumps(report)


def test_a_target_column_is_split_off_standard_input_as_off_a_file(tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.csv").write_text(ROWS)
    options = ("--target", "label", "--no-train")
    piped = run(tmp_path, "m.py:build", "-", *options, stdin=ROWS)
    file = run(tmp_path, "m.py:build", "d.csv", *options)
    assert piped["measurements"] == file["measurements"]
    assert piped["findings"] == file["findings"]
