"""What looks like a costly table and is none, and what raises before the clock could be read."""

import json

import numpy as np
import pytest

from nndiag.cli.app import main

MODELS = """
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self, rows=2_000_000, dim=64, outside=False):
        super().__init__()
        self.words, self.out, self.outside = nn.Embedding(rows, dim), nn.Linear(dim, 5), outside

    def forward(self, ids):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.outside):
            vectors = self.words(ids)
        return self.out(vectors.mean(1))


def large():
    return Classifier()


def looked_up_without_gradient():
    return Classifier(outside=True)


def narrow():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def all_but_the_table(parameters):
    return torch.optim.Adam([item for item in parameters if item.shape[0] < 1000])
"""


@pytest.fixture
def ask(tmp_path, monkeypatch, capfd):
    (tmp_path / "models.py").write_text(MODELS)
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 300, 400))
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = main(["embedding-cost", *argv, "-f", "json", "--isolated"])
        out, _ = capfd.readouterr()
        return code, json.loads(out)

    return run


def found(document):
    return {item["code"]: item["severity"] for item in document["findings"]}


def test_a_lookup_without_gradients_trains_nothing(ask):
    code, document = ask("models.py:looked_up_without_gradient", "--optimizer", "adam", "--no-measure")
    assert code == 0
    assert not found(document)


def test_a_table_outside_the_optimizer_costs_its_gradient_only(ask):
    code, document = ask("models.py:large", "--optimizer", "models.py:all_but_the_table", "--no-measure")
    assert code == 0
    assert found(document) == {"EMB001": "warning"}
    assert "no optimizer uses it" in document["findings"][0]["message"]


def test_planned_numbers_count_beside_a_model_without_a_table(ask):
    code, document = ask("models.py:narrow", "--vocab", "2000000", "--dim", "64", "--optimizer", "adam", "--no-measure")
    assert code == 1
    assert found(document)["EMB001"] == "error"


def test_a_step_that_raises_is_no_crash_of_the_command(ask):
    code, document = ask("--vocab", "200000", "--dim", "16", "--optimizer", "adam", "--sparse", "--measure")
    assert code == 1
    assert found(document) == {"EMB006": "error"}
    reasons = {item["code"]: item["reason"] for item in document["coverage"]["skipped"]}
    assert "sparse gradients" in reasons["EMB101"]


def test_weight_decay_of_rows_that_a_small_sample_lacks_is_a_note(ask):
    options = ["--optimizer", "adamw", "--optimizer-arg", "weight_decay=0.1", "--lr", "1e-3", "--steps", "10000"]
    _, document = ask("--vocab", "30000", "--dim", "16", "--tokens", "few.npy", *options)
    assert found(document)["EMB005"] == "note"


def test_a_time_read_off_a_line_is_never_called_measured(ask):
    _, document = ask("--vocab", "2000000", "--dim", "64", "--optimizer", "adam", "--measure", "--max-seconds", "12")
    share = next(item for item in document["findings"] if item["code"] == "EMB101")
    assert "(extrapolated)" in share["message"]
    assert "extrapolated from" in share["evidence"]["detail"]


BARE = """
import torch
import torch.nn.functional as F
from torch import nn


class Bare(nn.Module):
    def __init__(self, how, rows=2_000_000, dim=64):
        super().__init__()
        self.how, self.table, self.out = how, nn.Parameter(torch.empty(rows, dim)), nn.Linear(dim, 5)

    def forward(self, ids):
        if self.how == "embedding":
            vectors = F.embedding(ids, self.table)
        elif self.how == "index":
            vectors = self.table[ids]
        else:
            vectors = self.table.index_select(0, ids.flatten()).view(*ids.shape, -1)
        return self.out(vectors.mean(1))


class Hot(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(20_000, 128)

    def forward(self, ids):
        hot = torch.zeros(*ids.shape, 20_000, device=ids.device).scatter_(-1, ids.unsqueeze(-1), 1.0)
        return self.project(hot).mean(1)


def embedding():
    return Bare("embedding")


def index():
    return Bare("index")


def select():
    return Bare("select")


def position_bias():
    return Bare("index", rows=169, dim=4)
"""


@pytest.mark.parametrize("how", ["embedding", "index", "select"])
def test_a_bare_parameter_that_is_looked_up_is_a_table(ask, tmp_path, how):
    (tmp_path / "bare.py").write_text(BARE)
    _, document = ask(f"bare.py:{how}", "--optimizer", "adam", "--no-measure")
    assert found(document)["EMB001"] == "error"
    assert document["findings"][0]["where"]["module"] == "table"


def test_an_indexed_position_bias_is_no_table(ask, tmp_path):
    (tmp_path / "bare.py").write_text(BARE)
    assert ask("bare.py:position_bias", "--no-measure")[0] == 4


def test_one_hot_vectors_made_by_scatter_are_seen(ask, tmp_path):
    (tmp_path / "bare.py").write_text(BARE)
    _, document = ask("bare.py:Hot", "--no-measure")
    assert "EMB010" in found(document)


def test_micro_batches_and_kept_gradients_are_in_the_ledger(ask):
    numbers = ["--vocab", "1000000", "--dim", "128", "--optimizer", "adam"]
    plain, more = (
        {item["name"]: item["value"] for item in ask(*numbers, *options)[1]["measurements"]}["bytes_moved_per_step"]
        for options in ([], ["--accumulation", "2", "--no-set-to-none"])
    )
    table, rows = 0.512e9, 5 * 4096 * 512
    # one more zero-fill, zeroing the kept gradient, both micro-batches added to it; the rows twice
    assert more - plain == pytest.approx((1 + 1 + 2 * 3) * table + rows, rel=1e-4)


def test_the_published_planner_speaks_where_several_devices_train(ask):
    options = ["--vocab", "100", "--dim", "10", "--batch-size", "512", "--seq-len", "1", "--gpus", "2"]
    _, document = ask(*options)
    numbers = {item["name"]: item["value"] for item in document["measurements"]}
    assert numbers["planner_forward"] == pytest.approx(9.356e-05, rel=1e-3)
    assert numbers["planner_backward"] == pytest.approx(1.871e-04, rel=1e-3)
    assert numbers["planner_communication"] == pytest.approx(2.256e-04, rel=1e-3)


POOLED = """
from torch import nn


class Mean(nn.Module):
    def __init__(self, padding=None):
        super().__init__()
        self.words, self.out = nn.Embedding(100_000, 32, padding_idx=padding), nn.Linear(32, 5)

    def forward(self, ids):
        return self.out(self.words(ids).mean(1))


def plain():
    return Mean()


def padded():
    return Mean(0)
"""


@pytest.mark.parametrize(("model", "offered"), [("plain", True), ("padded", False)])
def test_an_embedding_bag_is_offered_where_it_computes_the_same(ask, tmp_path, model, offered):
    (tmp_path / "pooled.py").write_text(POOLED)
    _, document = ask(f"pooled.py:{model}", "--optimizer", "adam", "--no-measure")
    table = next(table for table in document["tables"] if table["title"] == "cures")
    assert any("EmbeddingBag" in row[0] for row in table["rows"]) is offered


def cures_of(document):
    table = next(table for table in document["tables"] if table["title"] == "cures")
    return {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}


def test_every_cure_is_predicted_and_timed_beside_the_current_step(ask, tmp_path):
    (tmp_path / "small.py").write_text(MODELS + "\n\ndef small():\n    return Classifier(3000, 8)\n")
    asked = ["--optimizer", "adam", "--gpus", "2", "--no-set-to-none", "--tokens", "few.npy", "--max-seconds", "8"]
    _, document = ask("small.py:small", *asked, "--batch-size", "8", "--seq-len", "4")
    made = cures_of(document)
    wanted = (
        "now", "fused", "foreach", "zero_grad", "gradient_as_bucket_view", "nn.EmbeddingBag", "sparse=True + SparseAdam",
        "sparse=True + SGD", "sparse=True + Adagrad", "row-wise", "split", "frozen", "factorised", "hashing", "minimum",
    )  # fmt: skip
    for word in wanted:
        row = next(row for name, row in made.items() if name.startswith(word))
        assert row["predicted"]
        assert row["clock"]
    ran = next(table for table in document["tables"] if table["title"].startswith("the cures run on this model"))
    assert all(row[1] == "runs" for row in ran["rows"])
    assert {"gradient_as_bucket_view=True", "nn.EmbeddingBag for lookup and mean"} <= {row[0] for row in ran["rows"]}
    kept = [row["mathematics"] == "kept" for row in made.values()][1:]
    assert kept == sorted(kept, reverse=True)


def test_a_cure_that_does_not_apply_says_why(ask):
    _, document = ask("--vocab", "100000", "--dim", "16", "--optimizer", "rmsprop", "--tied")
    table = next(table for table in document["tables"] if table["title"] == "cures that do not apply here")
    why = dict(table["rows"])
    assert {"fused=True", "sparse=True", "nn.EmbeddingBag", "gradient_as_bucket_view=True", "minimum count"} <= set(why)


def test_the_question_that_named_this_check_is_answered_in_its_own_numbers(ask):
    _, document = ask("--vocab", "2000000", "--dim", "200", "--optimizer", "adam")
    assert "56 %, if it doubled" in json.dumps(document)
    assert "11 % before" in json.dumps(document)


def test_the_physics_of_rare_rows_is_told(ask):
    args = ("--optimizer", "adamw", "--optimizer-arg", "weight_decay=0.1", "--lr", "0.001")
    _, document = ask("--vocab", "50000", "--dim", "16", *args)
    tables = {table["title"]: {row[0]: row[1:] for row in table["rows"]} for table in document["tables"]}
    moves = next(rows for title, rows in tables.items() if title.startswith("how far a row moves"))
    assert [float(moves[step][0].split()[0]) for step in ("0", "1,000", "5,000")] == pytest.approx(
        [6.0, 25.3, 31.6], abs=0.1
    )
    left = next(rows for title, rows in tables.items() if title.startswith("what weight decay leaves"))
    assert float(left["10,000"][0]) == pytest.approx(0.3678, abs=1e-4)


HOT = """
import torch
from torch import nn
from torch.nn import functional


class Hot(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("eye", torch.eye(3000))
        self.plain = torch.eye(3000)
        self.mask = torch.ones(3000, 3000).tril()
        self.table = nn.Parameter(torch.randn(3000, 64))

    def forward(self, ids):
        return self.vectors(ids) @ self.table
"""
HOT_WAYS = {
    "F.one_hot": ("functional.one_hot(ids, 3000).float()", True),
    "rows of a buffer": ("self.eye[ids]", True),
    "rows of a plain tensor": ("self.plain.to(ids.device)[ids]", True),
    "rows of an identity made on the way": ("torch.eye(3000, device=ids.device)[ids]", True),
    "index_select": ("self.eye.index_select(0, ids.reshape(-1))", True),
    "a comparison": ("(ids[..., None] == torch.arange(3000, device=ids.device)).float()", True),
    "ones set": ("self.set_ones(ids.reshape(-1))", True),
    "rows of a triangle": ("self.mask[ids]", False),
    "a comparison of any size": ("(ids[..., None] >= torch.arange(3000, device=ids.device)).float()", False),
}


@pytest.mark.parametrize("how", HOT_WAYS)
def test_one_hot_vectors_are_seen_however_they_were_made(ask, tmp_path, how):
    line, hot = HOT_WAYS[how]
    program = f"""
    def vectors(self, ids):
        return {line}

    def set_ones(self, flat):
        zeros = torch.zeros(flat.numel(), 3000, device=flat.device)
        zeros[torch.arange(flat.numel(), device=flat.device), flat] = 1.0
        return zeros
"""
    (tmp_path / "hot.py").write_text(HOT + program)
    code, document = ask("hot.py:Hot", "--no-measure")
    if not hot:
        assert (code, document["findings"]) == (4, [])
        return
    assert found(document) == {"EMB010": "warning"}
    ledger = next(table for table in document["tables"] if table["title"] == "the ledger")
    assert ledger["rows"][0][:2] == ["table (one-hot)", "3,000 x 64"]


UNUSED = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, way="unused"):
        super().__init__()
        self.way = way
        self.large = nn.Embedding(1_000_000, 64)
        self.small, self.out = nn.Embedding(1000, 64), nn.Linear(64, 2)

    def forward(self, ids):
        vectors = self.small(ids % 1000).mean(1)
        if self.way == "product":
            vectors = vectors + (vectors @ self.large.weight.T).mean()
        return self.out(vectors)


def product():
    return Model("product")
"""


@pytest.mark.parametrize(("name", "costs"), [("Model", False), ("product", True)])
def test_a_table_that_the_forward_leaves_alone_costs_nothing(ask, tmp_path, name, costs):
    (tmp_path / "unused.py").write_text(UNUSED)
    _, document = ask(f"unused.py:{name}", "--optimizer", "adam", "--no-measure")
    assert ("EMB001" in found(document)) == costs


def test_a_table_with_sparse_gradients_is_timed_with_what_it_can_gain(ask, tmp_path):
    (tmp_path / "lazy.py").write_text(
        "from torch import nn\n\n\ndef rows():\n    return nn.Sequential(nn.Embedding(3000, 8, sparse=True))\n"
    )
    _, document = ask("lazy.py:rows", "--optimizer", "sparse_adam", "--max-seconds", "8")
    assert "EMB101" in document["coverage"]["checked"]
    assert {name.split()[0] for name in cures_of(document)} == {"now:", "frozen", "hashing"}
