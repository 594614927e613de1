"""check-normalization from the command line: files, bad input, ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nndiag.cli.app import main

RNG = np.random.default_rng(0)
CODE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))

def dicts():
    for _ in range(4):
        yield {"x": torch.randn(8, 5), "labels": torch.randint(0, 2, (8,))}

def ragged():
    yield torch.randn(8, 5)
    yield torch.randn(8, 6)

def lengths():
    yield torch.randn(8, 10, 5)
    yield torch.randn(8, 7, 5)

def sizes():
    yield torch.rand(4, 3, 16, 16)
    yield torch.rand(4, 3, 20, 20)

def words():
    yield ["a", "b"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text(CODE, encoding="utf-8")
    Path("words.csv").write_text("a,b,c\n1,2,x\n3,4,y\n5,6,z\n7,1,w\n", encoding="utf-8")
    Path("named.csv").write_text(
        "age,income,y\n" + "\n".join(f"{20 + k % 50},{10_000 + 997 * (k % 83)},{k % 2}" for k in range(200)),
        encoding="utf-8",
    )
    np.save("five.npy", RNG.normal(size=(100, 5)))
    np.save("six.npy", RNG.normal(size=(100, 6)))
    np.save("half.npy", RNG.normal(size=(100, 5)).astype(np.float16))
    np.save("empty.npy", np.zeros((0, 3)))
    np.save("one.npy", RNG.normal(size=(1, 5)))
    np.save("nan.npy", np.full((9, 5), np.nan))
    np.save("same.npy", np.ones((50, 5)))
    np.save("text.npy", np.array(["a", "b"]))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("five.npy --serve six.npy", 3),
        ("five.npy --serve half.npy", 0),
        ("five.npy --feature-axis 4", 3),
        ("empty.npy", 4),
        ("one.npy", 0),
        ("nan.npy", 1),
        ("same.npy", 0),
        ("text.npy", 3),
        ("words.csv", 0),
        ("missing.npy", 2),
        ("code.py:dicts", 0),
        ("code.py:build code.py:dicts --no-train", 0),
        ("code.py:ragged", 3),
        ("code.py:lengths", 0),
        ("code.py:sizes", 0),
        ("code.py:words", 3),
        ("code.py:build six.npy", 3),
    ],
)
def test_odd_input_ends_as_the_contract_says(folder, capfd, arguments, code):
    assert main(["check-normalization", *arguments.split(), "-f", "json"]) == code
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    if code in {0, 1}:
        assert json.loads(out)["coverage"]["skipped"]
    if code in {2, 3}:
        assert err.count("\n") == 2
        assert err.startswith("error: ")


def test_a_column_of_text_is_left_out_and_said(folder, capfd):
    main(["check-normalization", "words.csv"])
    assert "c" in capfd.readouterr().out.split("left out")[1].splitlines()[0]


def test_columns_of_a_table_are_called_by_name(folder, capfd):
    main(["check-normalization", "named.csv", "-f", "json"])
    finding = json.loads(capfd.readouterr().out)["findings"][0]
    assert finding["code"] == "NRM003"
    assert finding["where"]["module"] == "income"


def test_a_model_that_cannot_take_the_data_says_the_shapes(folder, capfd):
    main(["check-normalization", "code.py:build", "six.npy"])
    assert "6" in capfd.readouterr().err


@pytest.mark.parametrize(("ranks", "file"), [(2, "big.npz"), (3, "big.npy")])
def test_ranks_read_their_shares_and_report_the_whole(folder, ranks, file):
    x = RNG.normal(3, 2, (400_000, 12)).astype(np.float32)
    np.save("big.npy", x)
    np.savez("big.npz", x=x, y=RNG.integers(0, 3, 400_000))
    argv = ["-m", "nndiag", "check-normalization", file, "-f", "json"]
    alone = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
    many = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *argv],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    documents = [json.loads(text.stdout) for text in (alone, many)]
    for document in documents:
        document["run"].pop("timing", None)
    assert documents[0] == documents[1]
