"""Real process groups on this machine: equal to the emulation, bounded in time, and nothing is left behind."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch, Training
from nndiag.lab import gradients
from nndiag.lab.objective import resolve_objective
from nndiag.lab.ranks import group_of_one, run_ranks, torchrun_backend
from nndiag.lab.shards import Devices, RankGradient, pick, train_on
from nndiag.lab.worldly import talks_to_ranks

JOBS = """
import os, signal, sys, time
import torch, torch.distributed as dist


class Sum:
    def __call__(self, rank, world):
        total = torch.tensor(float(rank))
        dist.all_reduce(total)
        return {"rank": rank, "world": world, "total": total, "env": int(os.environ["WORLD_SIZE"])}


class Killed:
    def __call__(self, rank, world):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()


class Hung:
    def __call__(self, rank, world):
        if rank == 1:
            time.sleep(600)
        dist.barrier()


class Raises:
    def __call__(self, rank, world):
        if rank == 1:
            raise ValueError("the second rank objects")
        dist.barrier()
"""


@dataclass
class Jobs:
    """The jobs' module, as a user's file would be loaded."""

    module: object

    def __getattr__(self, name):
        return getattr(self.module, name)()


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    import importlib

    (tmp_path / "rank_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Jobs(importlib.import_module("rank_jobs"))


def workers():
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"nndiag.lab.ranks_worker" in words and str(os.getpid()).encode() in _parent(entry):
            found.append(words)
    return found


def _parent(entry):
    try:
        return (entry.parent / "stat").read_bytes().rsplit(b")", 1)[1].split()[1]
    except OSError:
        return b""


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double().eval()


def classes(rows=32):
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.randn(rows, 8, generator=generator, dtype=torch.float64), torch.randint(3, (rows,), generator=generator)
    )


def test_every_rank_joins_one_group_and_its_result_comes_back_in_order(jobs):
    results = run_ranks(jobs.Sum, 3, seconds=60)
    assert [item["rank"] for item in results] == [0, 1, 2]
    assert {(item["world"], item["env"], float(item["total"])) for item in results} == {(3, 3, 3.0)}
    assert workers() == []


def test_two_real_ranks_with_accumulation_equal_the_emulation_to_1e_12():
    model, batch = network(), classes()
    objective = resolve_objective(Training(), model, batch)
    whole = gradients.gradient_of(model, batch, objective)
    shards = gradients.split_rows(batch, [8] * 4)
    parts = torch.stack(list(gradients.shard_gradients(model, shards, objective)))
    result = run_ranks(RankGradient(model, Training(), batch, [shards[:2], shards[2:]]), 2, seconds=60)
    assert gradients.relative(result[0]["gradient"], parts.mean(0))[0] < 1e-12
    assert gradients.relative(result[0]["gradient"], whole)[0] < 1e-12
    own = float((parts[2] / 2) @ (parts[2] / 2))  # rank 1's first micro-batch, before any all-reduce
    assert result[1]["local"] == pytest.approx([own])


def test_a_sum_over_ranks_is_w_times_the_mean():
    model, batch = network(), classes()
    shards = gradients.split_rows(batch, [16, 16])
    whole = gradients.gradient_of(model, batch, resolve_objective(Training(), model, batch))
    job = RankGradient(model, Training(), batch, [shards[:1], shards[1:]], average_ranks=False)
    assert gradients.relative(run_ranks(job, 2, seconds=60)[0]["gradient"], 2 * whole)[0] < 1e-12


@pytest.mark.parametrize(
    ("name", "seconds", "words"),
    [
        ("Killed", 60, r"rank 1 of 2 was killed \(SIGKILL\)"),
        ("Raises", 60, "rank 1 of 2 failed: ValueError: the second rank objects"),
        ("Hung", 12, "did not finish within 12 s"),
    ],
)
def test_a_lost_rank_ends_the_group_within_the_deadline(jobs, name, seconds, words):
    begun = time.monotonic()
    with pytest.raises(NndiagError, match=words) as lost:
        run_ranks(getattr(jobs, name), 2, seconds=seconds)
    assert time.monotonic() - begun < seconds + 10
    assert lost.value.hint
    assert "\n" not in lost.value.message
    assert workers() == []


def test_what_cannot_be_sent_says_so():
    with pytest.raises(NndiagError, match="cannot be sent"):
        run_ranks(lambda rank, world: None, 2, seconds=5)


@pytest.mark.parametrize(
    ("device", "local_ranks", "gpus", "backend"),
    [
        ("cuda", 8, 8, "nccl"),
        ("cuda", 1, 8, "nccl"),
        ("cuda", 2, 1, "gloo"),  # nccl refuses two ranks on one GPU
        ("cuda:0", 2, 8, "gloo"),  # named by the user: all ranks share it
        ("cpu", 2, 8, "gloo"),
    ],
)
def test_nccl_moves_gradients_where_every_rank_has_a_gpu_of_its_own(device, local_ranks, gpus, backend):
    assert torchrun_backend(device, local_ranks=local_ranks, gpus=gpus) == backend


def test_a_group_of_one_is_given_back():
    with group_of_one():
        assert dist.get_world_size() == 1
        assert os.environ["WORLD_SIZE"] == "1"
    assert not dist.is_initialized()


def world_loss(output, target):
    return functional.cross_entropy(output, target) * dist.get_world_size()


def helper(count):
    if dist.is_initialized():
        dist.all_reduce(count)
    return count


def gathered_loss(output, target):
    return output.sum() / helper(torch.tensor(1.0))


def environment_loss(output, target):
    return output.mean() * int(os.environ.get("WORLD_SIZE", "1"))


def plain_loss(output, target):
    return functional.cross_entropy(output, target)


@pytest.mark.parametrize(
    ("loss", "asks"), [(world_loss, True), (gathered_loss, True), (environment_loss, True), (plain_loss, False)]
)
def test_a_loss_that_asks_for_its_ranks_is_read_as_one(loss, asks):
    assert talks_to_ranks(loss) is asks


@pytest.mark.parametrize("thing", [nn.CrossEntropyLoss(), nn.Linear(2, 2), None, 3, print])
def test_library_code_does_not_count_as_asking(thing):
    assert not talks_to_ranks(thing)


def trained(devices, rows=256, lr=0.2):
    model, batch = network(), classes(rows)
    objective = resolve_objective(Training(), model, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = train_on(model, batch, range(rows), objective, optimizer, devices)
    return losses, torch.cat([item.detach().flatten() for item in model.parameters()])


def test_dealing_one_devices_batch_out_to_four_changes_nothing_but_rounding():
    (alone, weights), (dealt, others) = trained(Devices(1, 16)), trained(Devices(4, 4))
    assert dealt == pytest.approx(alone, abs=1e-12)
    assert torch.allclose(weights, others, atol=1e-12)


def test_summed_gradients_are_a_rate_of_w_times_as_much():
    summed = trained(Devices(4, 16, average=False), lr=0.05)[1]
    assert torch.allclose(summed, trained(Devices(4, 16), lr=0.2)[1], atol=1e-12)


def test_training_follows_the_loop_by_hand():
    batch, model = classes(64), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for start in range(0, 64, 16):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch.inputs[start : start + 16]), batch.targets[start : start + 16]).backward()
        optimizer.step()
    by_hand = torch.cat([item.detach().flatten() for item in model.parameters()])
    assert torch.allclose(trained(Devices(1, 16), rows=64)[1], by_hand, atol=1e-12)


def test_picking_rows_keeps_inputs_and_targets_together():
    few = pick(classes(8), torch.tensor([5, 1]))
    assert torch.equal(few.inputs, classes(8).inputs[[5, 1]])
    assert torch.equal(few.targets, classes(8).targets[[5, 1]])
