"""Commands that need no tensors import none: run with torch and numpy made unimportable."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " must not be imported here")
sys.meta_path.insert(0, Wall())
from nndiag.cli.app import main
sys.exit(main({arguments!r}))
"""


def run(arguments, blocked, cwd):
    code = BLOCK.format(arguments=arguments, blocked=set(blocked))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["check-dropout", "--help"], ["all", "--help"], ["rules"], ["rule", "DRP105"], ["--version"]],
)
def test_help_and_rules_import_neither_torch_nor_numpy(arguments, tmp_path):
    done = run(arguments, {"torch", "numpy", "scipy", "matplotlib", "jinja2", "yaml"}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["entropy-floor", "labels.csv"],
        ["embedding-cost", "--vocab", "50000", "--dim", "64", "--batch-size", "32", "--seq-len", "16", "--no-measure"],
        [
            "multigpu-lr",
            "--gpus",
            "2",
            "--per-device-batch",
            "32",
            "--lr",
            "0.1",
            "--base-lr",
            "0.1",
            "--base-batch",
            "32",
        ],
    ],
)
def test_arithmetic_imports_no_torch(arguments, tmp_path):
    (tmp_path / "labels.csv").write_text("label\n0\n1\n2\n")
    done = run(
        [*arguments, "-f", "json", "--fail-on", "never"], {"torch", "transformers", "keras", "lightning"}, tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
