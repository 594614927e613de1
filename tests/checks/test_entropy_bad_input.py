"""Bad input to entropy-floor: the finding, or two lines and the contract's exit code, at once and without a traceback."""

import json
import os
import time

import numpy as np
import pytest

from nndiag.cli.app import main

Q = np.random.RandomState(0).dirichlet(np.ones(4), size=30)
CURVE = "step,train_loss\n" + "".join(f"{i},{1.4 - 0.02 * i:.4f}\n" for i in range(20))


def _truncated(path, array):
    np.save(path, array) if path.suffix == ".npy" else np.savez(path, y=array)
    path.write_bytes(path.read_bytes()[:-40])


def make(folder):
    """Every bad file, and the good ones they are tried with."""
    np.save(folder / "q.npy", Q)
    np.save(folder / "ids.npy", np.arange(30) % 4)
    (folder / "run.csv").write_text(CURVE)
    (folder / "empty.csv").touch()
    (folder / "empty.npy").touch()
    (folder / "header.csv").write_text("a,b\n")
    np.save(folder / "norows.npy", np.empty((0, 3)))
    np.save(folder / "one_row.npy", Q[:1])
    np.save(folder / "one_class.npy", np.zeros(20, dtype=int))
    np.save(folder / "one_column.npy", np.ones((20, 1)))
    for name, value in (("nan", np.nan), ("inf", np.inf), ("negative", -0.2)):
        bad = Q.copy()
        bad[7, 2] = value
        np.save(folder / f"{name}.npy", bad)
    np.save(folder / "nan_ids.npy", np.array([0.0, 1.0, np.nan, 2.0]))
    zero = Q.copy()
    zero[7] = 0
    np.save(folder / "zeros.npy", zero)
    np.save(folder / "range.npy", np.array([0, 1, 2, 9]))
    np.save(folder / "gaps.npy", np.array([0, 2, 5, 5, 2]))
    np.save(folder / "more.npy", np.full((35, 4), 0.25))
    np.save(folder / "wide.npy", np.full((30, 5), 0.2))
    (folder / "text.csv").write_text("p0,p1\n0.5,0.5\n0.2,oops\n")
    (folder / "names.csv").write_text("label\ncat\ndog\n")
    _truncated(folder / "cut.npy", Q)
    _truncated(folder / "cut.npz", Q)
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "one_point.csv").write_text("step,train_loss\n0,2.3\n")
    (folder / "nan_curve.csv").write_text("step,train_loss\n0,2.3\n1,nan\n2,2.1\n")
    (folder / "text_curve.csv").write_text("step,train_loss\n0,2.3\n1,high\n2,2.1\n")
    (folder / "ragged.csv").write_text("0.5,0.5\n1.0\n")
    (folder / "broken.jsonl").write_text('{"p": [0.5, 0.5]}\n{"p": \n')
    (folder / "image.npy").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    np.save(folder / "logits.npy", np.log(Q) + 1.0)
    nan = Q.copy()
    nan[3] = np.nan
    np.save(folder / "nan_predictions.npy", nan)
    never = np.eye(4)[np.zeros(30, dtype=int)]
    np.save(folder / "never.npy", never)


ERRORS = [
    ("empty.csv", 4, "is empty"),
    ("empty.npy", 4, "is empty"),
    ("header.csv", 4, "no rows"),
    ("text.csv", 3, "line 3"),
    ("names.csv", 3, "no classes"),
    ("cut.npy", 3, "holds"),
    ("cut.npz", 3, "damaged"),
    ("objects.npy", 3, "Python objects"),
    ("folder", 3, "is a directory"),
    ("fifo", 3, "pipe or a device"),
    ("nowhere.npy", 2, "there is no file"),
    ("text.csv:p9", 2, "no column 'p9'"),
    ("ragged.csv", 3, "line 2"),
    ("broken.jsonl", 3, "line 2"),
    ("image.npy", 3, "image"),
    ("q.npy --predictions more.npy", 3, "35 rows"),
    ("q.npy --predictions wide.npy", 3, "shape"),
    ("q.npy --predictions logits.npy", 2, "no probability"),
    ("q.npy --predictions nan_predictions.npy", 3, "not finite"),
    ("q.npy --predictions never.npy", 3, "infinite"),
    ("q.npy --predictions q.npy --logits q.npy", 2, "exclude each other"),
    ("q.npy --curve one_point.csv", 3, "1 value"),
    ("q.npy --curve nan_curve.csv", 3, "nan at line 3"),
    ("q.npy --curve text_curve.csv", 3, "line 3"),
    ("q.npy --curve run.csv:val_loss", 2, "no column 'val_loss'"),
    ("q.npy --curve run.csv --tail nonsense", 2, "--tail"),
    ("q.npy --class-weights 1,2", 2, "2 class weights for 4 classes"),
    ("q.npy --class-weights 1,-2,1,1", 2, "no weight"),
    ("q.npy --classes 7", 2, "--classes says 7"),
    ("q.npy --label-smoothing 1.5", 2, "not in [0, 1)"),
    ("q.npy --smoothing-style tensorflow", 2, "tensorflow"),
    ("q.npy --temperature 0", 2, "not positive"),
    ("q.npy --units hartleys", 2, "hartleys"),
    ("q.npy --loss mse", 2, "no entropy floor"),
    ("--curve run.csv", 2, "missing LABELS"),
    ("q.npy --data q.npy", 2, "--model"),
]
NOTHING = ["norows.npy", "one_class.npy"]
FOUND = [
    ("nan.npy", "ENT001", "error"),
    ("inf.npy", "ENT001", "error"),
    ("negative.npy", "ENT001", "error"),
    ("zeros.npy", "ENT001", "error"),
    ("nan_ids.npy", "ENT001", "error"),
    ("range.npy --classes 4", "ENT001", "error"),
    ("gaps.npy", "ENT001", "note"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make(folder)
    return folder


@pytest.fixture
def run(files, monkeypatch, capfd):
    monkeypatch.chdir(files)

    def call(arguments, *more):
        begun = time.process_time()
        code = main(["entropy-floor", *arguments.split(), "--isolated", *more])
        spent = time.process_time() - begun
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        assert spent < 1.0
        return code, out, err

    return call


@pytest.mark.parametrize(("arguments", "exit_code", "said"), ERRORS)
def test_it_ends_in_two_lines(run, arguments, exit_code, said):
    code, out, err = run(arguments)
    assert (code, out) == (exit_code, "")
    lines = err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert said in lines[0]


@pytest.mark.parametrize("arguments", NOTHING)
def test_nothing_to_judge_is_exit_4(run, arguments):
    assert run(arguments, "-f", "json")[0] == 4
    assert run(arguments, "-f", "json", "--allow-empty")[0] == 0


@pytest.mark.parametrize(("arguments", "code", "severity"), FOUND)
def test_it_is_a_finding(run, arguments, code, severity):
    exit_code, out, _ = run(arguments, "-f", "json")
    found = [(item["code"], item["severity"]) for item in json.loads(out)["findings"]]
    assert found == [(code, severity)]
    assert exit_code == int(severity == "error")


def test_one_row_has_a_floor_and_no_error_bar(run):
    code, out, _ = run("one_row.npy", "-f", "json")
    document = json.loads(out)
    assert code == 0
    floors = [item for item in document["measurements"] if item["name"] == "floor" and item["unit"] == "nats"]
    assert floors[0]["value"] == pytest.approx(-(Q[0] * np.log(Q[0])).sum(), rel=1e-5)
    assert "interval" not in floors[0]


def test_a_column_of_ones_leaves_nothing_to_learn(run):
    code, out, _ = run("one_column.npy", "-f", "json")
    assert code == 0
    assert "never occur" in json.loads(out)["findings"][0]["message"]
