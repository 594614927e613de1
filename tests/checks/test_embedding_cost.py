"""The command as users call it: mutants found, healthy twins quiet, bad input refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from nndiag.cli.app import main

MODELS = """
import torch
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self, rows=30_000, dim=32, sparse=False, tied=False, frozen=False):
        super().__init__()
        self.words = nn.Embedding(rows, dim, sparse=sparse, padding_idx=0)
        self.words.weight.requires_grad_(not frozen)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, rows if tied else 5)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(self.rnn(self.words(ids))[0])


def large():
    return Tagger(2_000_000, 64)


def enormous():
    return Tagger(4_000_000_000, 64)


def sparse():
    return Tagger(sparse=True)


def tied_sparse():
    return Tagger(5000, tied=True, sparse=True)


def tied():
    return Tagger(5000, tied=True)


def frozen():
    return Tagger(2_000_000, 64, frozen=True)


class Columns(nn.Module):  # ids of two columns in one table, the second behind an offset
    def __init__(self, rows=30):
        super().__init__()
        self.words = nn.Embedding(rows, 4)
        self.place = nn.Embedding(2, 4)
        self.register_buffer("offsets", torch.tensor([0, 20]))

    def forward(self, ids):
        return self.words(ids + self.offsets) + self.place(torch.arange(2))


def wide_columns():
    return Columns(40)


class Hot(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4000, 64)

    def forward(self, ids):
        return self.project(F.one_hot(ids, 4000).float())


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(40, 64)

    def forward(self, x):
        return self.project(x)


def split(model):
    rest = [p for name, p in model.named_parameters() if not name.startswith("words")]
    return [torch.optim.SparseAdam([model.words.weight]), torch.optim.AdamW(rest)]


class Mine(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(torch.sign(p.grad), alpha=-1e-3)
"""


@pytest.fixture
def ask(tmp_path, monkeypatch, capfd):
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    np.save("bad.npy", np.array([[1, 2, 30_000], [-1, 4, 5]]))
    np.save("columns.npy", np.random.default_rng(0).integers(0, 20, (64, 2)))
    np.save("few.npy", np.random.default_rng(0).integers(0, 500, (200, 64)))
    np.save("all.npy", np.random.default_rng(0).permutation(30_000).reshape(100, -1))

    def run(*argv):
        code = main(["embedding-cost", *argv, "-f", "json", "--isolated"])
        out, err = capfd.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def found(document):
    return {item["code"]: item["severity"] for item in document["findings"]}


MUTANTS = {
    "two million rows with Adam": ("EMB001", ["models.py:large", "--optimizer", "adam", "--no-measure"]),
    "from numbers": ("EMB001", ["--vocab", "2000000", "--dim", "64", "--optimizer", "adam"]),
    "unfused": ("EMB002", ["--vocab", "2000000", "--dim", "64", "--optimizer", "adamw"]),
    "the user's own optimizer": ("EMB001", ["models.py:large", "--optimizer", "models.py:Mine", "--no-measure"]),
    "momentum and sparse": (
        "EMB007",
        ["models.py:sparse", "--optimizer", "sgd", "--optimizer-arg", "momentum=0.9", "--no-measure"],
    ),
    "AdamW and sparse": ("EMB006", ["models.py:sparse", "--optimizer", "adamw", "--no-measure"]),
    "SparseAdam over everything": ("EMB006", ["models.py:sparse", "--optimizer", "sparse_adam", "--no-measure"]),
    "clipping sparse gradients": (
        "EMB006",
        ["models.py:sparse", "--optimizer", "models.py:split", "--clip-grad-norm", "1", "--no-measure"],
    ),
    "tied and sparse": ("EMB008", ["models.py:tied_sparse", "--optimizer", "adamw", "--no-measure"]),
    "state beyond memory": ("EMB009", ["models.py:large", "--memory", "2GiB", "--no-measure"]),
    "one-hot": ("EMB010", ["models.py:Hot", "--no-measure"]),
    "ids outside, in a file": ("EMB011", ["models.py:Tagger", "--tokens", "bad.npy", "--no-measure"]),
    "ids outside, in the data": ("EMB011", ["models.py:Tagger", "bad.npy", "--no-measure"]),
    "ids outside, behind an offset": ("EMB011", ["models.py:Columns", "columns.npy", "--no-measure"]),
    "all-reduce": ("EMB012", ["models.py:large", "--gpus", "8", "--no-measure"]),
    "never seen": ("EMB003", ["models.py:Tagger", "--tokens", "few.npy", "--no-measure"]),
    "decay": ("EMB005", ["models.py:Tagger", "few.npy", "--optimizer", "adamw", "--no-measure"]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found(ask, name):
    code, argv = MUTANTS[name]
    _, document, _ = ask(*argv)
    assert code in found(document)


HEALTHY = {
    "thirty thousand words": ["models.py:Tagger", "--optimizer", "adamw", "--no-measure"],
    "every id used": ["models.py:Tagger", "--tokens", "all.npy", "--optimizer", "adam", "--no-measure"],
    "sparse with its own optimizer": ["models.py:sparse", "--optimizer", "models.py:split", "--no-measure"],
    "an offset within the table": ["models.py:wide_columns", "columns.npy", "--no-measure"],
    "sparse SGD": ["models.py:sparse", "--optimizer", "sgd", "--no-measure"],
    "frozen": ["models.py:frozen", "--optimizer", "adam", "--no-measure"],
    "tied": ["models.py:tied", "--optimizer", "adamw", "--no-measure"],
    "GPT-2 from numbers": [
        "--vocab",
        "50257",
        "--dim",
        "768",
        "--optimizer",
        "adamw",
        "--batch-size",
        "8",
        "--seq-len",
        "1024",
    ],
    "BERT from numbers": [
        "--vocab",
        "30522",
        "--dim",
        "768",
        "--optimizer",
        "adamw",
        "--batch-size",
        "16",
        "--seq-len",
        "512",
    ],
    "Llama from numbers": [
        "--vocab",
        "32000",
        "--dim",
        "4096",
        "--optimizer",
        "adamw",
        "--batch-size",
        "8",
        "--seq-len",
        "2048",
    ],
    "GPT-2 on eight devices": ["--vocab", "50257", "--dim", "768", "--optimizer", "adamw", "--gpus", "8"],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_twins_are_quiet(ask, name):
    code, document, _ = ask(*HEALTHY[name])
    assert (code, set(found(document).values()) - {"note"}) == (0, set())


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_language_models_at_their_usual_size_are_quiet(ask, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    config, kind = {
        "gpt2": (transformers.GPT2Config(), "GPT2LMHeadModel"),
        "bert": (transformers.BertConfig(), "BertForMaskedLM"),
    }[name]
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": [kind]}))
    code, document, _ = ask(str(tmp_path / "config.json"), "--optimizer", "adamw")
    assert (code, found(document)) == (0, {})
    assert any(skip["code"] == "EMB101" for skip in document["coverage"]["skipped"])


BAD = {
    "negative vocabulary": (["--vocab", "-5", "--dim", "8"], 2),
    "no dimension": (["--vocab", "5"], 2),
    "unknown optimizer": (["--vocab", "5", "--dim", "8", "--optimizer", "adan"], 2),
    "unknown dtype": (["--vocab", "5", "--dim", "8", "--dtype", "float23"], 2),
    "no size": (["--vocab", "5", "--dim", "8", "--memory", "plenty"], 2),
    "no devices": (["--vocab", "5", "--dim", "8", "--gpus", "0"], 2),
    "no such device": (["--vocab", "5", "--dim", "8", "--device", "cuda:7"], 2),
    "missing tokens": (["--vocab", "5", "--dim", "8", "--tokens", "nothing.npy"], 2),
    "no table": (["models.py:Plain", "--no-measure"], 4),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(ask, name):
    argv, expected = BAD[name]
    code, _, err = ask(*argv)
    assert code == expected
    assert expected == 4 or err.startswith("error: ")
    assert "Traceback" not in err


def test_an_unknown_optimizer_gets_a_suggestion(ask):
    assert "adam" in ask("--vocab", "5", "--dim", "8", "--optimizer", "adan")[2]


def test_a_terabyte_table_is_answered_without_allocating_it(ask):
    code, document, _ = ask("models.py:enormous", "--optimizer", "adam", "--no-measure")
    assert (code, found(document)["EMB001"]) == (1, "error")


def test_the_ledger_of_the_reference_table(ask):
    _, document, _ = ask("--vocab", "1000000", "--dim", "128", "--optimizer", "adam")
    numbers = {item["name"]: item["value"] for item in document["measurements"]}
    zero_fill, rows = 0.512e9, 5 * 4096 * 512
    assert numbers["bytes_moved_per_step"] == pytest.approx(9.216e9 + zero_fill + rows)
    assert numbers["bytes_resident"] == pytest.approx(2.048e9 + 1.024e9)


def test_series_for_the_figures_exist(ask):
    _, document, _ = ask("--vocab", "1000000", "--dim", "128", "--optimizer", "adam")
    groups = {item.get("group") for item in document["series"]}
    assert {"bytes per step", "time against vocabulary"} <= groups


def test_from_numbers_torch_is_never_imported(tmp_path):
    program = """
import sys
from nndiag.cli.app import main
main(["embedding-cost", "--vocab", "2000000", "--dim", "64", "--optimizer", "adam", "-q", "--isolated"])
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_two_million_rows_are_measured_in_little_memory(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    program = """
import resource, sys
from nndiag.cli.app import main
main(["embedding-cost", "models.py:large", "--optimizer", "adam", "-f", "json", "--isolated"])
sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > 2e9)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert found(document)["EMB101"] == "error"
    table = next(table for table in document["tables"] if table["title"] == "cures")
    assert any("SparseAdam" in row[0] and not row[0].count("refused") for row in table["rows"])
