"""Gradient equivalence, noise scale and training: through the command line, on small models with known answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from nndiag.cli.app import main

MODEL = """
import os, signal, time
import torch
from torch import nn
from torch.nn import functional as F


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


def dropped():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 3))


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=g)
    return torch.utils.data.TensorDataset(x, (x[:, :3] + torch.randn(256, 3, generator=g)).argmax(1))


def summed(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def contrastive(output, target):
    z = F.normalize(output, dim=1)
    return F.cross_entropy(5 * z @ z.T - 1e3 * torch.eye(len(z), dtype=z.dtype), (torch.arange(len(z)) + 1) % len(z))


def weighted(output, target):
    return F.cross_entropy(output, target, weight=torch.tensor([1.0, 5.0, 0.2], dtype=output.dtype))


def divided_twice(output, target):
    return F.cross_entropy(output, target) / 2


def in_a_group():
    return os.environ.get("RANK") == "1" and int(os.environ.get("WORLD_SIZE", "1")) > 1


def killed(output, target):
    if in_a_group():
        os.kill(os.getpid(), signal.SIGKILL)
    return F.cross_entropy(output, target)


def hung(output, target):
    if in_a_group():
        time.sleep(1000)
    return F.cross_entropy(output, target)


def no_tensor(output, target):
    return "a word"


def raises(output, target):
    raise ValueError("no loss today")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "measured_net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(capfd, *options, model="net"):
    capfd.readouterr()
    main(
        ["multigpu-lr", "--model", f"measured_net.py:{model}", "--data", "measured_net.py:data", *options, "-f", "json"]
    )
    out, err = capfd.readouterr()
    assert out, err
    return json.loads(out)


def found(document):
    return {item["code"]: item for item in document["findings"]}


FOUR = ("--gpus", "4", "--per-device-batch", "8")


@pytest.mark.parametrize("model", ["net", "dropped"])
def test_a_mean_over_equal_shards_is_the_whole_batchs_gradient(folder, capfd, model):
    assert found(report(capfd, *FOUR, model=model)) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (FOUR, "0.25× the gradient of the global batch = 1/W"),
        (("--gpus", "2", "--per-device-batch", "8"), "0.5× the gradient of the global batch = 1/W"),
        ((*FOUR, "--accumulation", "2"), "4 ranks × 2 micro-batches give 0.25×"),
    ],
)
def test_a_summed_loss_is_off_by_a_factor_that_is_named(folder, capfd, options, words):
    item = found(report(capfd, *options, "--loss", "measured_net.py:summed"))["MGL101"]
    assert words in item["message"]


def test_class_weights_shift_shards_against_each_other_and_are_no_factor(folder, capfd):
    item = found(report(capfd, *FOUR, "--loss", "measured_net.py:weighted"))["MGL101"]
    assert item["message"].startswith("weight imbalance")


def test_a_loss_that_is_only_small_is_no_aggregation_fault(folder, capfd):
    assert found(report(capfd, *FOUR, "--loss", "measured_net.py:divided_twice")) == {}


def test_a_contrastive_loss_depends_on_the_batch(folder, capfd):
    codes = found(report(capfd, *FOUR, "--loss", "measured_net.py:contrastive"))
    assert "MGL102" in codes
    assert "MGL101" not in codes


def test_batch_norm_is_named_as_what_depends_on_the_batch(folder, capfd):
    codes = found(report(capfd, *FOUR, model="normed"))
    assert codes["MGL102"]["where"]["module"] == "1"
    assert codes["MGL009"]["where"]["module"] == "1"
    assert "MGL101" not in codes


def test_two_real_ranks_agree_with_the_whole_batch_and_say_so(folder, capfd):
    started = time.monotonic()
    document = report(capfd, "--gpus", "2", "--per-device-batch", "8", "--ranks", "2")
    assert found(document) == {}
    errors = [item["value"] for item in document["measurements"] if item["name"] == "gradient_relative_error"]
    assert errors
    assert max(errors) < 1e-12
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("loss", "words", "seconds"), [("killed", "rank 1 of 2 was killed (SIGKILL)", 30), ("hung", "did not finish", 10)]
)
def test_a_lost_rank_ends_in_two_lines_and_leaves_no_process(folder, capfd, loss, words, seconds):
    capfd.readouterr()
    code = main([
        "multigpu-lr", "--model", "measured_net.py:net", "--data", "measured_net.py:data", "--gpus", "2",
        "--per-device-batch", "8", "--ranks", "2", "--loss", f"measured_net.py:{loss}", "--max-seconds", str(seconds),
    ])  # fmt: skip
    _out, err = capfd.readouterr()
    lines = err.strip().splitlines()
    assert code == 3
    assert len(lines) == 2
    assert words in lines[0]
    assert lines[1].startswith("hint:")
    assert not _children()


def _children():
    """Return what still runs as a worker that this process started."""
    mine = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if b"ranks_worker" in words and parent == str(os.getpid()):
                mine.append(words)
    return mine


@pytest.mark.parametrize("loss", ["no_tensor", "raises"])
def test_a_loss_that_is_none_ends_in_two_lines(folder, capfd, loss):
    capfd.readouterr()
    options = ["--model", "measured_net.py:net", "--data", "measured_net.py:data", "--loss", f"measured_net.py:{loss}"]
    assert main(["multigpu-lr", *FOUR, *options]) == 3
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert loss in lines[0]


def test_a_taken_port_ends_in_two_lines(folder):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = str(taken.getsockname()[1])
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        done = subprocess.run(
            [sys.executable, "-m", "nndiag", "multigpu-lr", *FOUR, "--model", "measured_net.py:net", "--data",
             "measured_net.py:data", "--max-seconds", "10"],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **group},
        )  # fmt: skip
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 3
    assert len(lines) == 2
    assert "process group did not come together" in lines[0]


def test_a_rank_that_torchrun_ends_while_it_waits_for_a_lost_one_says_so(folder):
    import signal

    from torch.distributed import TCPStore

    agents = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent has one
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agents.port), "RANK": "0", "LOCAL_RANK": "0",
             "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}  # fmt: skip
    command = [sys.executable, "-m", "nndiag", "multigpu-lr", *FOUR, "--model", "measured_net.py:net", "--data",
               "measured_net.py:data"]  # fmt: skip
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **piped, env={**os.environ, **group}) as waiting:
        try:
            agents.wait(["nndiag/here/0"], timedelta(seconds=60))
            waiting.send_signal(signal.SIGTERM)
            out, err = waiting.communicate(timeout=20)
        finally:
            waiting.kill()
    lines = err.strip().splitlines()
    assert (waiting.returncode, out) == (143, "")
    assert lines[-2:] == [
        "error: torchrun ended rank 0 of 2: another rank was lost",
        "hint: torchrun names it and its exit code below; out of memory, or killed?",
    ]


def test_fresh_weights_beyond_their_noise_scale_are_a_note(folder, capfd):
    """The noise scale grows many-fold in training, so fresh weights prove little."""
    document = report(capfd, "--gpus", "8", "--per-device-batch", "128")
    assert found(document)["MGL103"]["severity"] == "note"


def test_shards_without_any_gradient_have_a_noise_scale_without_a_bound(folder, capfd):
    """All units of a rectifier may be off at the start, as the density of a NeRF is."""
    off = "import torch\nfrom torch import nn\n\n\ndef net():\n    model = nn.Sequential(nn.Linear(8, 3), nn.ReLU())\n"
    (folder / "silent_net.py").write_text(off + "    nn.init.constant_(model[0].bias, -99)\n    return model\n")
    document = report(capfd, "--gpus", "2", "--per-device-batch", "8", "--model", "silent_net.py:net")
    reasons = {item["code"]: item["reason"] for item in document["coverage"]["skipped"]}
    assert reasons["MGL103"].endswith("the noise scale is without a bound")


def test_training_at_an_unchanged_rate_falls_behind_one_device(folder, capfd):
    rates = ("--gpus", "8", "--per-device-batch", "4", "--base-lr", "0.1", "--optimizer", "sgd", "--train")
    assert "MGL201" in found(report(capfd, *rates, "--lr", "0.1"))
