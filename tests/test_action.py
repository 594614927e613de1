"""The GitHub Action's script does what its inputs say, and the pre-commit hooks are commands that exist."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from render import sample

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEP = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "run")


@pytest.fixture
def run(tmp_path):
    """Run the step as GitHub would, on a stored run so that it is quick."""

    def go(report=None, **inputs):
        stored = tmp_path / "my run.json"
        stored.write_text(json.dumps((report or sample.dropout()).to_dict()))
        given = {"command": "report", "args": "'my run.json'", "fail-on": "error", "baseline": "", "summary": "true"}
        given |= inputs
        names = {value.split("inputs.")[1].split(" ")[0].rstrip("}"): key for key, value in STEP["env"].items()}
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(tmp_path / "temp"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            **{names[key]: value for key, value in given.items()},
        }
        command = [shutil.which("bash"), "--noprofile", "--norc", "-eo", "pipefail", "-c", STEP["run"]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        lines = (tmp_path / "output").read_text().splitlines()
        return done, dict(line.split("=", 1) for line in lines), tmp_path

    return go


def test_annotations_summary_and_files_are_written(run):
    done, outputs, folder = run()
    assert done.stdout.startswith("::error file=models.py,line=14,title=DRP105 variance-shift-into-batchnorm::")
    assert (folder / "summary.md").read_text().startswith("## ❌ check-dropout: 1 error, 1 warning, 1 note")
    for kind in ("json", "sarif", "html"):
        assert Path(outputs[kind]).stat().st_size > 1000
    assert done.returncode == int(outputs["exit-code"])


def test_a_finding_makes_the_step_fail(run):
    args = "--gpus 8 --per-device-batch 32 --lr 3e-4 --base-lr 3e-4 --base-batch 32"
    done, outputs, _ = run(command="multigpu-lr", args=args, **{"fail-on": "warning"})
    assert done.returncode == int(outputs["exit-code"]) == 1, done.stderr


def test_a_clean_run_is_green(run):
    done, outputs, _ = run(sample.healthy())
    assert done.returncode == int(outputs["exit-code"]) == 0
    assert done.stdout == ""


def test_a_bad_argument_leaves_its_exit_code(run):
    done, outputs, folder = run(args="'my run.json' --no-such-option")
    assert done.returncode == int(outputs["exit-code"]) == 2
    assert not (folder / "summary.md").exists()


def test_inputs_are_words_and_never_code(run):
    done, _, folder = run(args="'my run.json' $(touch hacked) `touch hacked`; touch hacked")
    assert done.returncode == 2
    assert not (folder / "hacked").exists()


def test_every_input_reaches_the_script_by_the_environment():
    assert "${{" not in STEP["run"]
    used = {value.split("inputs.")[1].split(" ")[0] for value in STEP["env"].values()}
    assert set(ACTION["inputs"]) - used == {"working-directory", "install"}


def test_the_hooks_name_commands_and_codes_that_exist():
    from nndiag.core.rules import known_prefix

    for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()):
        words = shlex.split(hook["entry"])
        assert words[:2] == ["nndiag", "all"]
        assert hook["language"] == "system"
        if "--select" in words:
            for code in words[words.index("--select") + 1].split(","):
                assert known_prefix(code)
