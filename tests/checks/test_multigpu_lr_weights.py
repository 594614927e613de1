"""Shards that are weighed unequally, losses that are no number, runs that follow a rule: through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nndiag.cli.app import main

MODEL = """
import torch
from torch import nn
from torch.nn import functional as F

g = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 50, (64, 64), generator=g)
GROSS = torch.tensor([64, 60, 50, 8, 4, 4, 2, 2] * 8)
MILD = torch.randint(52, 64, (64,), generator=g)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)

    def forward(self, ids):
        return self.head(self.table(ids))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x, labels):
        scores = self.head(x)
        return {"logits": scores, "loss": F.cross_entropy(scores, labels, reduction="none")}


def up_to(lengths):
    return torch.where(torch.arange(64)[None] < lengths[:, None], (IDS * 7 + 3) % 50, -100)


def gross():
    return torch.utils.data.TensorDataset(IDS, up_to(GROSS))


def mild():
    return torch.utils.data.TensorDataset(IDS, up_to(MILD))


def data():
    h = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=h)
    return torch.utils.data.TensorDataset(x, (x[:, :3] + torch.randn(512, 3, generator=h)).argmax(1))


def named():
    x, y = data().tensors
    return [{"x": x[i : i + 32], "labels": y[i : i + 32]} for i in range(0, 512, 32)]


def per_token(output, target):
    return F.cross_entropy(output.transpose(1, 2), target)


def class_weights(output, target):
    return F.cross_entropy(output, target, weight=torch.tensor([1.0, 2.0, 0.5], dtype=output.dtype))


def summed(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def unreduced(output, target):
    return F.cross_entropy(output, target, reduction="none")


class Absorbing(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self):
        for group in self.param_groups:
            for item in group["params"]:
                state = self.state[item]
                state["v"] = 0.9 * state.get("v", torch.zeros_like(item)) + group["lr"] * item.grad
                with torch.no_grad():
                    item.sub_(state["v"])


def absorbing(params):
    return Absorbing(params)


LENGTHS = [64, 60, 50, 8, 4, 4, 2, 2]


def zero(inputs, outputs):
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(made.weight)
    return made


def three():
    return zero(3, 1)


def regression():
    torch.manual_seed(123)
    x, w = torch.randn(10, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    return torch.utils.data.TensorDataset(x.float(), (x @ w).float()[:, None])


def eight():
    return zero(8, 20)


def sentences():
    torch.manual_seed(41)
    x, y = torch.randn(194, 8, dtype=torch.float64), torch.randint(0, 20, (194,))
    rows, targets = torch.zeros(8, 64, 8), torch.full((8, 64), -100)
    for i, (words, ids) in enumerate(zip(x.split(LENGTHS), y.split(LENGTHS))):
        rows[i, : len(words)], targets[i, : len(ids)] = words.float(), ids
    return torch.utils.data.TensorDataset(rows, targets)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "weighed_net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd, model, data, *options):
    capfd.readouterr()
    code = main(
        [
            "multigpu-lr",
            "--model",
            f"weighed_net.py:{model}",
            "--data",
            f"weighed_net.py:{data}",
            *options,
            "-f",
            "json",
        ]
    )
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err.strip().splitlines()


def found(document):
    return {item["code"]: item for item in document["findings"]}


TOKENS = ("--loss", "weighed_net.py:per_token", "--per-device-batch", "1", "--gpus", "8")


def test_the_token_lengths_of_the_thread_are_named_and_sized_as_the_loop_by_hand_does(folder, capfd):
    """Lengths 64, 60, 50, 8, 4, 4, 2, 2: Σ g_k/8 against Σ n_k g_k / Σ n_k."""
    code, document, _ = run(capfd, "Tokens", "gross", *TOKENS)
    item = found(document)["MGL101"]
    assert code == 1
    assert item["message"].startswith("token imbalance")
    assert "shards hold 2 to 64 targets" in item["message"]
    space = {}
    exec(compile(MODEL, "weighed_net.py", "exec"), space)  # noqa: S102 - the text above
    torch = space["torch"]
    model, (ids, aims) = space["Tokens"]().double(), space["gross"]().tensors
    gradients = []
    for rows in [slice(0, 8), *(slice(i, i + 1) for i in range(8))]:
        loss = space["per_token"](model(ids[rows]), aims[rows])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    whole, averaged = gradients[0], torch.stack(gradients[1:]).mean(0)
    assert item["evidence"]["value"] == pytest.approx(float((averaged - whole).norm() / whole.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "cosine", "words"),
    [
        ("three", "regression", ("--config", "shards.toml", "--loss", "mse"), 0.138, None,
         "shard imbalance: 3 ranks give a gradient 0.138 off"),
        ("eight", "sentences", TOKENS, 1.74, 0.53,
         "token imbalance: 8 ranks give a gradient 1.74 off (relative), cosine 0.53"),
    ],
)  # fmt: skip
def test_shards_of_4_4_2_and_lengths_of_64_to_2_are_off_by_the_sizes_often_quoted(  # noqa: PLR0917
    folder, capfd, model, data, options, error, cosine, words
):
    """Both sizes belong to one draw of samples: where the gradient is all noise they are 1/3 and 2.02 on average."""
    (folder / "shards.toml").write_text("[multigpu-lr]\nshard-sizes = [4, 4, 2]\n")
    _, document, _ = run(capfd, model, data, *options)
    assert words in found(document)["MGL101"]["message"]
    sizes = {item["name"]: item["value"] for item in document["measurements"]}
    assert sizes["gradient_relative_error"] == pytest.approx(error, abs=0.005)
    assert cosine is None or sizes["gradient_cosine"] == pytest.approx(cosine, abs=0.005)


@pytest.mark.parametrize(
    ("target", "options", "most"),
    [
        (("Tokens", "mild"), ("--loss", "weighed_net.py:per_token", "--per-device-batch", "8"), "note"),
        (("net", "data"), ("--loss", "weighed_net.py:class_weights", "--per-device-batch", "16"), "warning"),
    ],
)
def test_unequal_weights_inside_the_batchs_own_spread_are_no_error(folder, capfd, target, options, most):
    code, document, _ = run(capfd, *target, "--gpus", "4", *options)
    assert code == 0
    assert {item["severity"] for item in document["findings"]} <= {"note", most}


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (("net", "data"), ("--loss", "weighed_net.py:unreduced"), "the loss unreduced has shape (2,) for 2 samples"),
        (("OwnLoss", "named"), (), "the model's loss has shape (2,) for 2 samples"),
    ],
)
def test_a_loss_that_is_no_single_number_ends_in_two_lines(folder, capfd, target, options, words):
    code, _, lines = run(capfd, *target, "--gpus", "2", "--per-device-batch", "8", *options)
    assert code == 3
    assert len(lines) == 2
    assert words in lines[0]


RUNS = ("--train", "--no-progress", "--optimizer", "sgd", "--base-lr", "0.1", "--gpus", "4")


def test_a_batch_dealt_out_over_the_devices_is_the_recipe_itself(folder, capfd):
    """The base batch of 16 as 4 × 4 at the same rate: both runs are one, up to rounding."""
    _, document, _ = run(capfd, "net", "data", *RUNS, "--lr", "0.1", "--base-batch", "16", "--per-device-batch", "4")
    sizes = {item["name"]: item["value"] for item in document["measurements"]}
    assert found(document) == {}
    assert abs(sizes["scaled_run_gap"]) < 1e-4
    assert sizes["divided_batch_difference"] < 1e-4


def test_a_linear_rate_that_a_short_training_does_not_catch_up_with_is_printed_and_not_judged(folder, capfd):
    _, document, _ = run(
        capfd, "net", "data", *RUNS, "--lr", "0.4", "--base-batch", "16", "--per-device-batch", "16", "--warmup", "20"
    )
    assert "MGL201" not in found(document)
    assert "MGL201" in document["coverage"]["checked"]
    columns = next(table["columns"] for table in document["tables"] if table["title"].startswith("Equal epochs"))
    assert columns[-3:] == ["train loss", "held-out loss", "accuracy"]


def test_a_rate_that_diverges_is_found_and_printed_without_a_number(folder, capfd):
    _, document, _ = run(capfd, "net", "data", *RUNS, "--lr", "4000", "--base-batch", "16", "--per-device-batch", "16")
    assert found(document)["MGL201"]["severity"] == "warning"


def test_an_optimizer_with_the_rate_in_its_buffer_is_told_to_correct_its_momentum(folder, capfd):
    options = ("--optimizer", "weighed_net.py:absorbing", "--base-lr", "0.1", "--lr", "0.8", "--warmup", "50")
    _, document, _ = run(capfd, "net", "data", *options, "--gpus", "8", "--per-device-batch", "8")
    assert any("momentum correction" in line for line in document["context"])


def test_two_nodes_of_torchrun_share_the_measurement_and_rank_0_reports(folder):
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{_free_port()}", "--rdzv-id", "two-nodes"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *rendezvous]
    options = ["--gpus", "1", "--nodes", "2", "--per-device-batch", "8", "--model", "weighed_net.py:net", "--data",
               "weighed_net.py:data", "--loss", "weighed_net.py:summed", "-f", "json"]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*command, "-m", "nndiag", "multigpu-lr", *options],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert sum(map(bool, said)) == 1
    document = json.loads("".join(said))  # one document from both nodes
    assert "= 1/W" in found(document)["MGL101"]["message"]
    names = {item["name"] for item in document["measurements"]}
    assert {"gradient_relative_error", "real_against_emulated", "noise_scale_lower_bound"} <= names


def _free_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
