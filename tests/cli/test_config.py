"""nndiag.toml: found upwards, checked, weaker than environment and command line."""

from __future__ import annotations

import json

import pytest

from nndiag.cli.app import main


@pytest.fixture
def floor(clean_environment, capfd):
    """Run entropy-floor on three labels in an empty folder and return (exit code, JSON, stderr)."""
    (clean_environment / "labels.csv").write_text("label\n0\n1\n2\n")

    def run(*arguments, config=None, name="nndiag.toml"):
        if config is not None:
            (clean_environment / name).write_text(config)
        code = main(["entropy-floor", "labels.csv", "-f", "json", *arguments])
        out, err = capfd.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def smoothing(document):
    return document["settings"]["label_smoothing"]


def test_the_file_gives_defaults(floor):
    assert smoothing(floor(config="[entropy-floor]\nlabel-smoothing = 0.1\n")[1]) == 0.1


def test_pyproject_serves_as_well(floor):
    config = "[project]\nname = 'x'\n[tool.nndiag.entropy-floor]\nlabel-smoothing = 0.2\n"
    assert smoothing(floor(config=config, name="pyproject.toml")[1]) == 0.2


def test_environment_beats_the_file_and_the_command_line_beats_both(floor, monkeypatch):
    config = "[entropy-floor]\nlabel-smoothing = 0.1\n"
    monkeypatch.setenv("NNDIAG_LABEL_SMOOTHING", "0.2")
    assert smoothing(floor(config=config)[1]) == 0.2
    assert smoothing(floor("--label-smoothing", "0.3")[1]) == 0.3


def test_isolated_reads_no_file(floor):
    assert smoothing(floor("--isolated", config="[entropy-floor]\nlabel-smoothing = 0.1\n")[1]) != 0.1


def test_the_nearest_file_upwards_counts(floor, clean_environment, monkeypatch):
    below = clean_environment / "a" / "b"
    below.mkdir(parents=True)
    (below / "labels.csv").write_text("label\n0\n1\n")
    (clean_environment / "nndiag.toml").write_text("[entropy-floor]\nlabel-smoothing = 0.1\n")
    monkeypatch.chdir(below)
    assert smoothing(floor()[1]) == 0.1


def test_paths_are_read_relative_to_the_file(clean_environment, monkeypatch, capfd):
    (clean_environment / "labels.csv").write_text("label\n0\n1\n")
    (clean_environment / "nndiag.toml").write_text('[entropy-floor]\nlabels = "labels.csv"\n')
    below = clean_environment / "deep"
    below.mkdir()
    monkeypatch.chdir(below)
    assert main(["entropy-floor", "-f", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["status"] == "completed"


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ("label-smothing = 0.1\n", "unknown key 'label-smothing' in nndiag.toml", "did you mean 'label-smoothing'?"),
        ("[entropy-flor]\nx = 1\n", "unknown key 'entropy-flor' in nndiag.toml", "did you mean 'entropy-floor'?"),
        ("[check-dropout]\nmaks = 3\n", "unknown key 'maks' in [check-dropout] of nndiag.toml", "did you mean 'masks'?"),
        ("[[ignore]]\nwhere = '*'\n", "an [[ignore]] of nndiag.toml has no code", 'add code = "DRP105"'),
        ("[[ignore]]\ncode = 'DRP1'\nreson = 'x'\n", "unknown key 'reson' in [[ignore]] of nndiag.toml",
         "did you mean 'reason'?"),
        ("[[ignore]]\ncode = 'MGL944'\n", "no code starts with 'MGL944'", "did you mean 'MGL009'?"),
        ("multigpu-lr = 3\n", "'multigpu-lr' in nndiag.toml is no table", "write [multigpu-lr] and its keys below"),
        ("seed = \n", "'nndiag.toml' is not valid TOML", "mend it, or run with --isolated"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_two_lines_and_exit_2(floor, config, message, hint):
    code, document, err = floor(config=config)
    assert (code, document) == (2, None)
    assert err.splitlines()[0].startswith(f"error: {message}")
    assert err.splitlines()[1] == f"hint: {hint}"


def test_a_named_file_must_exist(floor):
    code, _document, err = floor("--config", "none.toml")
    assert code == 2
    assert "no configuration file 'none.toml'" in err


def test_codes_may_be_ignored_by_list_or_accepted_by_table(floor):
    assert "ENT001" not in floor(config='ignore = ["ENT001"]\n')[1]["coverage"]["checked"]
    assert floor(config='[[ignore]]\ncode = "ENT"\nreason = "known"\n')[0] == 0


def test_select_and_severity_come_from_the_file(floor):
    checked = floor(config='select = ["ENT001"]\nseverity = { ENT001 = "note" }\n')[1]["coverage"]["checked"]
    assert checked == ["ENT001"]
