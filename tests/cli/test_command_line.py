"""The command line as scripts meet it: exit codes, two-line errors, stdout and its neighbours."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from nndiag.cli.app import main

TOOL = [sys.executable, "-m", "nndiag"]


def run(*arguments, cwd, **options):
    return subprocess.run(
        [*TOOL, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--wat"], "No such option: --wat", "see 'nndiag --help'"),
        (["chek-dropout"], "No such command 'chek-dropout'.", "did you mean 'check-dropout'?"),
        (["rules", "DPR"], "no code starts with 'DPR'", "did you mean 'DRP'?"),
        (["rule", "DRP15"], "unknown code 'DRP15'", "did you mean 'DRP105'?"),
        (["entropy-floor", "x.csv", "--formt", "json"], "No such option: --formt", "did you mean '--format'?"),
        (["entropy-floor", "x.csv", "-f", "jsn"], "--format does not know 'jsn'", "did you mean 'json'?"),
        (["entropy-floor", "x.csv", "--fail-on", "eror"], "--fail-on does not know 'eror'", "did you mean 'error'?"),
        (["entropy-floor", "x.csv", "--select", "ETN"], "no code starts with 'ETN'", "did you mean 'ENT'?"),
        (["entropy-floor", "x.csv", "--severity", "ENT001"], "--severity ENT001 has no level",
         "for example --severity DRP105=warning"),
        (["entropy-floor", "x.csv", "-o", "report.json"], "--output report.json names no file",
         "for example -o json:report.json"),
        (["check-dropout"], "missing MODEL", "nndiag check-dropout models.py:build, or model = … in nndiag.toml"),
        (["check-dropout", "m.py:f", "--device", "warp"], "unknown device 'warp'", "available here: cpu"),
        (["entropy-floor", "x.csv", "--seed", "x"], "Invalid value for '--seed': ",
         "see 'nndiag entropy-floor --help'"),
    ],
)  # fmt: skip
def test_usage_errors_are_two_lines_and_exit_2(arguments, message, hint, clean_environment, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"error: {message}")
    assert lines[1].startswith(f"hint: {hint}")
    assert len(lines) == 2


def test_version(capsys):
    from nndiag import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nndiag {__version__}\n"


def test_no_arguments_show_the_help_and_exit_2(capfd):
    assert main([]) == 2
    out, err = capfd.readouterr()
    assert "check-dropout" in out + err


def test_rules_lists_every_code_once(capsys):
    from nndiag.core.rules import RULES

    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines] == list(RULES)


def test_rules_as_json_parse(capsys):
    import json

    assert main(["rules", "SYM", "--json"]) == 0
    assert {row["check"] for row in json.loads(capsys.readouterr().out)} == {"init-symmetry"}


def test_rule_shows_the_page(capsys):
    assert main(["rule", "ent001"]) == 0
    assert capsys.readouterr().out.startswith("# ENT001 invalid-label-rows")


def test_env_names_torch(capsys):
    assert main(["env"]) == 0
    assert "\ntorch 2." in capsys.readouterr().out


def test_a_closed_reader_ends_quietly_with_141(tmp_path):
    (tmp_path / "labels.csv").write_text("label\n" + "0\n1\n" * 50)
    pipe_read, pipe_write = os.pipe()
    os.close(pipe_read)
    done = subprocess.run([*TOOL, "entropy-floor", "labels.csv"], cwd=tmp_path, stdout=pipe_write, stderr=subprocess.PIPE,
                          text=True, timeout=60, check=False)  # fmt: skip
    os.close(pipe_write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_codes(number, code, tmp_path):
    (tmp_path / "m.py").write_text(
        "import time, pathlib\ndef f():\n    pathlib.Path('ready').touch()\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([*TOOL, "init-symmetry", "m.py:f"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    for _ in range(600):
        if (tmp_path / "ready").exists():
            break
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err


def test_what_the_users_code_prints_never_reaches_stdout(tmp_path):
    (tmp_path / "m.py").write_text(
        "import os, torch\nprint('import')\nos.write(1, b'low level')\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        print('construct')\n"
        "        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))\n"
        "    def forward(self, x):\n        print('forward')\n        return self.layer(x)\n"
    )
    import json

    done = run("check-dropout", "m.py:Net", "-f", "json", "--fail-on", "never", cwd=tmp_path)
    assert json.loads(done.stdout)["command"] == "check-dropout"
    for word in ("import", "low level", "construct", "forward"):
        assert word in done.stderr


def test_a_slow_import_of_the_users_file_takes_nothing_from_the_budget_for_experiments(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(time, "monotonic", time.monotonic)  # put back whatever the file does to it
    (tmp_path / "slow.py").write_text(
        "import time\nfrom torch import nn\nclock = time.monotonic\ntime.monotonic = lambda: clock() + 1000.0\n"
        "def build():\n    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))\n"
    )
    assert main(["check-dropout", f"{tmp_path}/slow.py:build", "-f", "concise", "--isolated", "--fail-on", "note"]) == 0
    assert "NND902" not in capfd.readouterr().out


def test_names_that_look_like_markup_print_as_text(tmp_path):
    (tmp_path / "labels.csv").write_text("label\n0\n1\n")
    done = run("entropy-floor", "[/nope].csv", cwd=tmp_path)
    assert done.returncode in (2, 3)
    assert "[/nope]" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_files_are_complete_or_absent(tmp_path):
    (tmp_path / "labels.csv").write_text("label\n0\n1\n")
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "folder").mkdir()
    done = run("entropy-floor", "labels.csv", "-o", "json:folder", cwd=tmp_path)
    assert done.returncode == 2
    assert "is a directory" in done.stderr
    assert (tmp_path / "old.json").read_text() == "old"
    done = run("entropy-floor", "labels.csv", "-o", "json:old.json", "-o", "concise:new.txt", cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "old.json").read_text().startswith("{")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "labels.csv", "new.txt", "old.json"]


def test_equal_runs_give_equal_bytes(tmp_path):
    (tmp_path / "labels.csv").write_text("label\n0\n1\n1\n2\n")
    first, second = (run("entropy-floor", "labels.csv", cwd=tmp_path).stdout for _ in range(2))
    assert first == second
    assert first


def test_only_rank_zero_speaks(tmp_path):
    (tmp_path / "labels.csv").write_text("label\n0\n1\n")
    done = run("entropy-floor", "labels.csv", cwd=tmp_path, env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"})
    assert (done.returncode, done.stdout) == (0, "")


def test_every_option_of_a_command_of_its_own_stands_in_an_example_of_its_help():
    from dataclasses import fields

    import typer.main

    from nndiag.cli.app import app
    from nndiag.cli.examples import EXAMPLES
    from nndiag.cli.options import Shared, Trained

    shared = {item.name for group in (Shared, Trained) for item in fields(group)}
    commands = typer.main.get_command(app).commands
    for name, lines in EXAMPLES.items():
        own = [
            item for item in commands[name].params if item.name not in shared | {"help"} and item.opts[0][:2] == "--"
        ]
        for option in own:
            spelled = set(option.opts + option.secondary_opts)
            assert spelled & set(" ".join(lines).split()), f"{name} {option.opts[0]}"
        for line in lines:
            commands[name].make_context(name, shlex.split(line), resilient_parsing=False)
