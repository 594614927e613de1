"""Right recipes of every framework stay quiet; wrong ones are found, with the factor named."""

from __future__ import annotations

import pytest

from nndiag.checks.multigpu_lr import MultigpuLr
from nndiag.checks.multigpu_lr.plan import Plan
from nndiag.checks.multigpu_lr.square_root import judge_square_root
from nndiag.core.check import diagnose
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Finding
from nndiag.core.subject import Subject
from nndiag.load.recipe import load_recipe

IMAGENET = {"dataset-size": 1_281_167, "epochs": 90}
COSINE = {"name": "cosine"}


def judged(options=None, **table):
    table = {key.replace("_", "-"): item for key, item in table.items()}
    recipe = load_recipe(options=options, table=table)
    return diagnose(MultigpuLr(), Subject("recipe", inputs={"recipe": recipe}))


def codes(report, least="note"):
    order = ("note", "warning", "error")
    return sorted({f.rule.code for f in report.findings if order.index(f.severity.word) >= order.index(least)})


def only(report, code):
    return next(f for f in report.findings if f.rule.code == code)


# name, options, table: every one is a recipe that its author tuned or that a framework's documentation recommends
RIGHT = {
    "Goyal et al., 256 devices of 32": (
        {**IMAGENET, "gpus": 256, "per-device-batch": 32, "base-lr": 0.1, "base-batch": 256, "lr": 3.2,
         "optimizer": "sgd", "framework": "ddp", "warmup": 782},
        {"schedule": {"name": "multistep", "milestones": [30, 60, 80], "gamma": 0.1, "step-unit": "epoch",
                      "stepped-per": "epoch"}, "sampler": "distributed", "set-epoch": True}),
    "Goyal, milestones in updates": (
        {**IMAGENET, "gpus": 8, "per-device-batch": 32, "base-lr": 0.1, "base-batch": 256, "lr": 0.1,
         "optimizer": "sgd", "framework": "ddp"},
        {"schedule": {"name": "multistep", "milestones": [150_138, 300_276, 400_368], "step-unit": "optimizer"}}),
    "Inception: the total is split": (
        {"dataset-size": 50_000, "gpus": 4, "global-batch": 128, "base-lr": 0.1, "lr": 0.1, "optimizer": "sgd",
         "framework": "mirrored"},
        {"schedule": {"name": "step", "decay-steps": 136_718, "decay-epochs": 350, "gamma": 0.1}}),
    "the CIFAR-10 script, mended": (
        {"dataset-size": 50_000, "gpus": 4, "per-device-batch": 128, "base-lr": 0.1, "lr": 0.4, "optimizer": "sgd",
         "framework": "mirrored", "warmup": 500},
        {"schedule": {"name": "step", "decay-steps": 34_179, "decay-epochs": 350, "gamma": 0.1},
         "base-ema-decay": 0.9999, "ema-decay": 0.9996}),
    "Accelerate: loader steps, stepped once per process": (
        {"dataset-size": 32_000, "epochs": 10, "gpus": 8, "per-device-batch": 32, "base-lr": 1e-4, "lr": 2.8e-4,
         "optimizer": "adamw", "framework": "accelerate"},
        {"schedule": {"name": "linear", "total-steps": 10_000, "warmup-steps": 500, "step-unit": "dataloader"}}),
    "Accelerate, the same without a unit": (
        {"dataset-size": 32_000, "epochs": 10, "gpus": 8, "per-device-batch": 32, "base-lr": 1e-4, "lr": 2.8e-4,
         "optimizer": "adamw", "framework": "accelerate"},
        {"schedule": {"name": "cosine", "total-steps": 10_000, "warmup-steps": 500}}),
    "Accelerate without a data set's size": (
        {"gpus": 8, "per-device-batch": 32, "base-lr": 1e-4, "lr": 2.8e-4, "optimizer": "adamw",
         "framework": "accelerate"},
        {"schedule": {"name": "cosine", "total-steps": 10_000, "warmup-steps": 500, "step-unit": "dataloader"}}),
    "Accelerate with split batches": (
        {"dataset-size": 32_000, "epochs": 10, "gpus": 8, "global-batch": 256, "base-lr": 1e-4, "lr": 1e-4,
         "optimizer": "adamw", "framework": "accelerate"},
        {"split-batches": True, "schedule": {"name": "cosine", "total-steps": 1250, "step-unit": "dataloader"}}),
    "Accelerate with accumulation, loader steps / A": (
        {"dataset-size": 32_000, "epochs": 10, "gpus": 4, "per-device-batch": 16, "accumulation": 2, "base-lr": 1e-4,
         "lr": 2e-4, "optimizer": "adamw", "framework": "accelerate", "base-batch": 32},
        {"schedule": {"name": "linear", "total-steps": 10_000, "warmup-steps": 100}}),
    "Lightning, one step per epoch": (
        {"dataset-size": 50_000, "epochs": 100, "gpus": 4, "per-device-batch": 64, "base-lr": 0.1, "lr": 0.4,
         "optimizer": "sgd", "framework": "lightning", "base-batch": 64},
        {"schedule": {"name": "cosine", "total-steps": 100, "warmup-steps": 5}}),
    "Lightning, interval step, estimated_stepping_batches": (
        {"dataset-size": 50_000, "epochs": 100, "gpus": 4, "per-device-batch": 64, "base-lr": 1e-3, "lr": 2e-3,
         "optimizer": "adamw", "framework": "lightning"},
        {"schedule": {"name": "cosine", "total-steps": 19_600, "warmup-steps": 500, "stepped-per": "optimizer"}}),
    "StepLR per epoch": (
        {"dataset-size": 50_000, "epochs": 90, "gpus": 4, "per-device-batch": 64, "base-lr": 0.1, "lr": 0.4,
         "optimizer": "sgd", "framework": "ddp", "warmup": 200},
        {"schedule": {"name": "step", "decay-steps": 30, "gamma": 0.1, "stepped-per": "epoch"}}),
    "ExponentialLR per epoch": (
        {"dataset-size": 50_000, "epochs": 90, "gpus": 2, "per-device-batch": 64, "base-lr": 0.1, "lr": 0.2,
         "optimizer": "sgd", "framework": "lightning"},
        {"schedule": {"name": "exponential", "gamma": 0.95}}),
    "DeepSpeed, one step per update": (
        {"dataset-size": 1_000_000, "epochs": 1, "gpus": 64, "per-device-batch": 4, "accumulation": 4,
         "base-lr": 1e-4, "base-batch": 256, "lr": 2e-4, "optimizer": "adamw", "framework": "deepspeed"},
        {"schedule": {"name": "linear", "total-steps": 976, "warmup-steps": 50}}),
    "the Trainer counts for itself": (
        {"dataset-size": 100_000, "epochs": 3, "gpus": 8, "per-device-batch": 8, "base-lr": 5e-5, "lr": 1.4e-4,
         "optimizer": "adamw", "framework": "hf"},
        {"schedule": {"name": "linear", "warmup-steps": 500}}),
    "warm restarts rise by design": (
        {"dataset-size": 50_000, "epochs": 70, "gpus": 1, "per-device-batch": 128, "base-lr": 0.1, "lr": 0.1,
         "optimizer": "sgd"},
        {"schedule": {"name": "cosine-restarts", "cycle-steps": 10, "step-unit": "epoch", "stepped-per": "epoch"}}),
    "nothing grew: the per-device batch was divided": (
        {"gpus": 8, "per-device-batch": 8, "base-batch": 64, "base-lr": 0.1, "lr": 0.1, "optimizer": "sgd"}, {}),
    "square root for Adam with moved betas": (
        {"gpus": 4, "per-device-batch": 64, "base-lr": 1e-3, "lr": 2e-3, "optimizer": "adamw", "rule": "sqrt"},
        {"base-betas": [0.9, 0.999], "betas": [0.6, 0.996], "schedule": {"name": "constant", "warmup-steps": 100}}),
    "tuned for the large batch": (
        {"gpus": 8, "per-device-batch": 64, "base-lr": 3e-4, "lr": 3e-4, "optimizer": "adamw", "rule": "none"}, {}),
    "AdamW scaled linearly, as vision transformers are": (
        {**IMAGENET, "gpus": 8, "per-device-batch": 256, "base-lr": 5e-4, "base-batch": 512, "lr": 2e-3,
         "optimizer": "adamw", "warmup": 3125}, {"ema-decay": 0.9999}),
    "one device": ({"gpus": 1, "per-device-batch": 64, "base-lr": 0.1, "lr": 0.1, "dataset-size": 50_000}, {}),
    "a large data set pads one sample": (
        {**IMAGENET, "gpus": 8, "per-device-batch": 32, "framework": "ddp"},
        {"sampler": "distributed", "set-epoch": True}),
    "a cosine that ends one step before the run does": (
        {"dataset-size": 50_000, "epochs": 100, "gpus": 2, "per-device-batch": 128, "base-lr": 0.1, "lr": 0.2,
         "optimizer": "sgd", "framework": "ddp"},
        {"schedule": {"name": "cosine", "total-steps": 19_500, "step-unit": "optimizer"}}),
    "a linear schedule that ends at 80 % of the run, by choice": (
        {"dataset-size": 51_200, "epochs": 100, "gpus": 4, "per-device-batch": 128, "base-lr": 0.1, "lr": 0.4,
         "optimizer": "sgd", "framework": "ddp", "warmup": 500},
        {"schedule": {"name": "linear", "total-steps": 8_000, "step-unit": "optimizer"}}),
    "the contract's example without its fault": (
        {"gpus": 8, "per-device-batch": 32, "accumulation": 2, "base-lr": 3e-4, "base-batch": 64, "lr": 8.5e-4,
         "optimizer": "adamw"},
        {"schedule": {"name": "cosine", "total-steps": 10_000, "warmup-steps": 500, "step-unit": "optimizer"}}),
    "elastic averaging, rate per worker": (
        {"gpus": 4, "per-device-batch": 128, "base-lr": 0.05, "lr": 0.05, "framework": "easgd"}, {}),
    "LAMB at a large batch": (
        {"gpus": 64, "per-device-batch": 64, "base-batch": 512, "base-lr": 1e-3, "lr": 2.83e-3, "optimizer": "lamb",
         "warmup": 3000}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_recipe_stays_quiet(name):
    options, table = RIGHT[name]
    report = judged(options, **table)
    assert codes(report) == []
    assert report.answers


# name, options, table, code, words of the message
WRONG = {
    "unchanged rate, SGD": (
        {"gpus": 32, "per-device-batch": 256, "base-lr": 0.1, "lr": 0.1, "optimizer": "sgd"}, {},
        "MGL001", "256 → 8192 (×32) while the learning rate stays 0.1; linear 3.2"),
    "unchanged rate, Adam": (
        {"gpus": 8, "per-device-batch": 64, "base-lr": 3e-4, "lr": 3e-4, "optimizer": "adamw"}, {},
        "MGL001", "64 → 512 (×8) while the learning rate stays 3e-4; linear 2.4e-3, square root 8.5e-4"),
    "unchanged rate on two devices": (
        {"gpus": 2, "per-device-batch": 128, "base-lr": 0.1, "lr": 0.1, "optimizer": "sgd"}, {}, "MGL001", "×2"),
    "scaled although the total was split": (
        {"gpus": 8, "global-batch": 256, "base-lr": 0.1, "lr": 0.8, "optimizer": "sgd", "warmup": 500}, {},
        "MGL001", "0.1 → 0.8 (×8)"),
    "scaled twice": (
        {"gpus": 8, "per-device-batch": 32, "base-lr": 0.1, "lr": 6.4, "optimizer": "sgd", "warmup": 500}, {},
        "MGL001", "×64"),
    "the linear rule was meant": (
        {"gpus": 16, "per-device-batch": 32, "base-lr": 0.1, "lr": 0.4, "optimizer": "sgd", "rule": "linear",
         "warmup": 500}, {}, "MGL001", "×4"),
    "no warm-up at k = 32": (
        {**IMAGENET, "gpus": 256, "per-device-batch": 32, "base-lr": 0.1, "base-batch": 256, "lr": 3.2,
         "optimizer": "sgd"}, {}, "MGL002", "×32"),
    "a warm-up of 0": (
        {"gpus": 8, "per-device-batch": 32, "base-lr": 0.1, "lr": 0.8, "optimizer": "sgd", "warmup": 0}, {},
        "MGL002", "0 steps"),
    "the CIFAR-10 tutorial": (
        {"dataset-size": 50_000, "gpus": 4, "per-device-batch": 128, "base-lr": 0.1, "lr": 0.1, "optimizer": "sgd"},
        {"schedule": {"name": "step", "decay-steps": 136_718, "decay-epochs": 350}},
        "MGL003", "epoch 1400 instead of epoch 350, ×4 too late: the number of devices"),
    "Accelerate: updates, stepped once per process": (
        {"dataset-size": 51_200, "epochs": 100, "gpus": 8, "per-device-batch": 64, "framework": "accelerate"},
        {"schedule": {"name": "cosine", "total-steps": 10_000, "step-unit": "optimizer"}},
        "MGL003", "epoch 12.5 instead of epoch 100, ×8 too early: the number of devices"),
    "the same without a data set's size": (
        {"gpus": 8, "per-device-batch": 64, "framework": "accelerate"},
        {"schedule": {"name": "linear", "total-steps": 10_000, "step-unit": "optimizer"}},
        "MGL003", "update 1250 instead of update 10000, ×8 too early: the number of devices"),
    "total counted on one device": (
        {"dataset-size": 51_200, "epochs": 100, "gpus": 8, "per-device-batch": 64, "framework": "ddp"},
        {"schedule": {"name": "cosine", "total-steps": 80_000}},
        "MGL003", "would only come at epoch 800 instead of epoch 100, ×8 too late: the number of devices"),
    "Lightning: loader length of one device": (
        {"dataset-size": 51_200, "epochs": 100, "gpus": 8, "per-device-batch": 64, "framework": "lightning"},
        {"schedule": {"name": "linear", "total-steps": 80_000, "stepped-per": "optimizer", "step-unit": "dataloader"}},
        "MGL003", "×8 too late"),
    "Lightning: updates, stepped per epoch": (
        {"dataset-size": 51_200, "epochs": 100, "gpus": 2, "per-device-batch": 128, "framework": "lightning"},
        {"schedule": {"name": "cosine", "total-steps": 20_000}},
        "MGL003", "×200 too late: updates per epoch"),
    "epochs, stepped per update": (
        {"dataset-size": 51_200, "epochs": 100, "gpus": 2, "per-device-batch": 128, "framework": "ddp"},
        {"schedule": {"name": "linear", "total-steps": 100}}, "MGL003", "×200 too early: updates per epoch"),
    "milestones in epochs, stepped per update": (
        {"dataset-size": 51_200, "epochs": 90, "gpus": 2, "per-device-batch": 128, "framework": "ddp"},
        {"schedule": {"name": "multistep", "milestones": [30, 60, 80]}}, "MGL003", "instead of epoch 80"),
    "milestones in epochs, said so, stepped per update": (
        {"dataset-size": 51_200, "gpus": 2, "per-device-batch": 128, "framework": "ddp"},
        {"schedule": {"name": "multistep", "milestones": [30, 60, 80], "step-unit": "epoch"}}, "MGL003", "epoch 80"),
    "milestones of one device's updates": (
        {"dataset-size": 51_200, "epochs": 90, "gpus": 8, "per-device-batch": 128, "framework": "ddp"},
        {"schedule": {"name": "multistep", "milestones": [12_000, 24_000, 32_000]}}, "MGL003", "the number of devices"),
    "stepped per micro-batch": (
        {"dataset-size": 51_200, "epochs": 10, "gpus": 2, "per-device-batch": 16, "accumulation": 4},
        {"schedule": {"name": "linear", "total-steps": 4_000, "stepped-per": "micro-batch"}},
        "MGL003", "×4 too early: the accumulation steps"),
    "updates not divided by accumulation": (
        {"dataset-size": 51_200, "epochs": 10, "gpus": 2, "per-device-batch": 16, "accumulation": 4},
        {"schedule": {"name": "cosine", "total-steps": 16_000, "step-unit": "dataloader"}},
        "MGL003", "×4 too late: the accumulation steps"),
    "StepLR(30) per update": (
        {"dataset-size": 51_200, "epochs": 90, "gpus": 2, "per-device-batch": 128},
        {"schedule": {"name": "step", "decay-steps": 30, "gamma": 0.1}}, "MGL003", "epoch 30"),
    "ExponentialLR per update": (
        {"dataset-size": 51_200, "epochs": 90, "gpus": 2, "per-device-batch": 128},
        {"schedule": {"name": "exponential", "gamma": 0.95}}, "MGL003", "updates per epoch"),
    "a warm-up stepped once per process": (
        {"gpus": 8, "per-device-batch": 32, "framework": "accelerate"},
        {"schedule": {"name": "constant", "warmup-steps": 800, "step-unit": "optimizer"}}, "MGL003", "update 100"),
    "cosine stepped four times per update": (
        {"gpus": 4, "per-device-batch": 32, "framework": "accelerate", "lr": 0.1},
        {"schedule": {"name": "cosine", "total-steps": 1000, "step-unit": "optimizer"}},
        "MGL004", "falls to 0 at update 250 and is back at 0.1 at update"),
    "square root at k = 16": (
        {"gpus": 16, "per-device-batch": 32, "base-lr": 1e-3, "lr": 4e-3, "optimizer": "adam", "rule": "sqrt",
         "warmup": 100}, {}, "MGL005", "β1 = -0.6"),
    "weight average as on one device": (
        {"dataset-size": 50_000, "gpus": 4, "per-device-batch": 128},
        {"base-ema-decay": 0.9999, "ema-decay": 0.9999}, "MGL006", "102 epochs back instead of 25.6 epochs"),
    "betas as on one device": (
        {"gpus": 4, "per-device-batch": 64, "base-lr": 1e-3, "lr": 2e-3, "optimizer": "adamw", "rule": "sqrt"},
        {"base-betas": [0.9, 0.999]}, "MGL006", "×4"),
    "evaluation every so many updates": (
        {"gpus": 8, "per-device-batch": 64}, {"intervals": {"evaluation": 500}, "base-intervals": {"evaluation": 500}},
        "MGL006", "evaluation"),
    "shards of 4, 4, 2": ({"gpus": 3}, {"shard-sizes": [4, 4, 2]}, "MGL007", "1.67×"),
    "a total that does not divide": ({"gpus": 8, "global-batch": 100}, {}, "MGL007", "13, 13, 13, 13, 12"),
    "ten samples on four ranks": (
        {"gpus": 4, "per-device-batch": 1, "dataset-size": 10}, {"sampler": "distributed", "set-epoch": True},
        "MGL008", "repeats 2 of 10"),
    "three samples on eight ranks": (
        {"gpus": 8, "per-device-batch": 1, "dataset-size": 3}, {"sampler": "distributed"}, "MGL008", "repeats 5 of 3"),
    "no set_epoch": (
        {"gpus": 8, "per-device-batch": 32, "framework": "ddp"}, {"sampler": "distributed", "set-epoch": False},
        "MGL008", "set_epoch"),
    "no sampler": (
        {"gpus": 8, "per-device-batch": 32, "framework": "ddp"}, {"sampler": "none"}, "MGL008", "whole data set"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_found_and_its_factor_named(name):
    options, table, code, words = WRONG[name]
    report = judged(options, **table)
    assert code in codes(report, "warning")
    assert words in only(report, code).message


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_blamed_for_nothing_else(name):
    options, table, code, _words = WRONG[name]
    allowed = {
        "MGL003": {"MGL003", "MGL004", "MGL001"},  # a cosine in the wrong unit also rebounds; the tutorial's rate
        "MGL004": {"MGL003", "MGL004"},
    }.get(code, {code})
    assert set(codes(judged(options, **table), "warning")) <= allowed


def test_fine_tuning_without_scaling_at_a_small_factor_is_a_note():
    report = judged(
        {"gpus": 4, "per-device-batch": 8, "base-lr": 2e-5, "lr": 2e-5, "optimizer": "adamw", "epochs": 3,
         "framework": "hf"}
    )  # fmt: skip
    assert codes(report) == ["MGL001"]
    assert codes(report, "warning") == []


def test_a_rate_raised_fourfold_without_warm_up_is_a_note():
    report = judged({"gpus": 4, "per-device-batch": 64, "base-lr": 0.1, "lr": 0.4, "optimizer": "sgd"})
    assert codes(report) == ["MGL002"]
    assert codes(report, "warning") == []


def test_the_answer_carries_batch_rate_and_schedule():
    report = judged(
        {"dataset-size": 51_200, "epochs": 100, "gpus": 8, "per-device-batch": 64, "framework": "accelerate",
         "base-lr": 3e-4, "lr": 3e-4, "optimizer": "adamw"},
        schedule={"name": "cosine", "total-steps": 10_000, "step-unit": "optimizer"},
    )  # fmt: skip
    said = report.answers[0]
    assert "8 devices multiply the batch 64 → 512 (×8)" in said
    assert "lr 3e-4 is unchanged: linear would be 2.4e-3, square root 8.5e-4" in said
    assert "epoch 12.5 instead of epoch 100" in said


def test_elastic_averaging_says_that_its_rate_is_per_worker():
    report = judged({"gpus": 4, "per-device-batch": 128, "base-lr": 0.05, "lr": 0.05, "framework": "easgd"})
    assert "per worker" in report.answers[0]
    assert "MGL001" in report.checked


@pytest.mark.parametrize(
    ("options", "table", "code", "reason"),
    [
        ({"gpus": 8, "per-device-batch": 32, "lr": 1e-3}, {}, "MGL001", "base-lr"),
        ({"gpus": 8, "per-device-batch": 32, "base-lr": 1e-3}, {}, "MGL001", "lr"),
        ({"lr": 1e-3, "base-lr": 1e-3}, {}, "MGL001", "global batch"),
        (
            {"gpus": 8, "per-device-batch": 32},
            {"schedule": {"name": "cosine", "total-steps": 100}},
            "MGL003",
            "unknown",
        ),
        ({"gpus": 8, "per-device-batch": 32}, {"schedule": {"name": "cosine"}}, "MGL003", "total-steps"),
        ({"gpus": 8, "per-device-batch": 32}, {}, "MGL003", "no schedule"),
        ({"gpus": 8, "per-device-batch": 32}, {"ema-decay": 0.999}, "MGL006", "base-ema-decay"),
        ({"gpus": 8, "per-device-batch": 32}, {}, "MGL008", "sampler"),
        ({"gpus": 8, "per-device-batch": 32}, {}, "MGL009", "--model"),
        ({"gpus": 8, "per-device-batch": 32}, {}, "MGL101", "--model"),
        ({"gpus": 16, "per-device-batch": 32, "base-lr": 1.0, "lr": 4.0, "rule": "sqrt"}, {}, "MGL005", "optimizer"),
        (
            {"gpus": 8, "per-device-batch": 32, "framework": "lightning"},
            {"schedule": {"name": "cosine", "total-steps": 100}},
            "MGL003",
            "dataset-size",
        ),
    ],
)
def test_what_is_missing_is_skipped_with_its_name(options, table, code, reason):
    report = judged(options, **table)
    assert codes(report, "warning") in ([], ["MGL001"])
    assert any(skip.code == code and reason in skip.reason for skip in report.skipped)


def test_curves_of_the_schedule_and_of_rate_against_batch_exist():
    report = judged(
        {"dataset-size": 51_200, "epochs": 100, "gpus": 8, "per-device-batch": 64, "base-lr": 0.1, "lr": 0.8},
        schedule={"name": "cosine", "total-steps": 10_000, "warmup-steps": 500},
    )
    series = {item.name: item for item in report.series}
    assert {"lr_executed", "lr_intended", "lr_linear", "lr_square_root"} <= set(series)
    executed = series["lr_executed"]
    assert executed.x[-1] == pytest.approx(100)
    assert max(executed.y) == pytest.approx(0.8, rel=1e-2)
    assert {item.title for item in report.tables} >= {"Recipe", "Learning rates", "Learning rate by epoch"}


def test_the_mean_of_a_rebounding_cosine_is_right_and_the_evidence_says_so():
    report = judged(
        {"gpus": 4, "per-device-batch": 32, "framework": "accelerate"},
        schedule={"name": "cosine", "total-steps": 1000, "step-unit": "optimizer"},
    )
    assert "mean 0.5 of the peak" in only(report, "MGL004").evidence.detail


SCHEDULES_PY = """
import math
from torch.optim import lr_scheduler

def cosine_1000(optimizer):
    return lr_scheduler.CosineAnnealingLR(optimizer, 1000)

def lambda_1000(optimizer):
    return lr_scheduler.LambdaLR(optimizer, lambda s: s / 50 if s < 50 else max(0.0, 1 - (s - 50) / 950))

def one_cycle_1000(optimizer):
    return lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000)

def restarts(optimizer):
    return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100)

def raises(optimizer):
    raise RuntimeError("no schedule today")

def raises_later(optimizer):
    return lr_scheduler.LambdaLR(optimizer, lambda s: 1 / (50 - s))

def below_zero(optimizer):
    return lr_scheduler.LambdaLR(optimizer, lambda s: 1 - s / 50)
"""


def own(tmp_path, name, **more):
    (tmp_path / "own_schedules.py").write_text(SCHEDULES_PY)
    options = {"gpus": 4, "per-device-batch": 32, "lr": 0.1, "dataset-size": 12_800, "epochs": 10, **more}
    return judged(options, schedule={"name": f"{tmp_path / 'own_schedules.py'}:{name}"})  # 1000 updates


@pytest.mark.parametrize("name", ["cosine_1000", "lambda_1000", "one_cycle_1000", "restarts"])
def test_a_schedule_of_ones_own_that_fits_the_run_is_quiet(tmp_path, name):
    assert codes(own(tmp_path, name)) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cosine_1000", "epoch 2.5 instead of epoch 10, ×4 too early: the number of devices"),
        ("lambda_1000", "×4 too early: the number of devices"),
        ("one_cycle_1000", "raises at epoch 2.5"),
    ],
)
def test_a_schedule_of_ones_own_stepped_once_per_process_is_found(tmp_path, name, words):
    report = own(tmp_path, name, framework="accelerate")
    assert words in only(report, "MGL003").message
    assert ("MGL004" in codes(report)) == (name == "cosine_1000")


@pytest.mark.parametrize("name", ["cosine_1000", "lambda_1000"])
def test_a_schedule_of_ones_own_counted_on_one_device_is_found(tmp_path, name):
    report = own(tmp_path, name, **{"dataset-size": 3_200})  # 250 updates
    assert "×4 too late: the number of devices" in only(report, "MGL003").message


def test_a_schedule_of_ones_own_that_raises_ends_in_two_lines(tmp_path):
    with pytest.raises(NndiagError, match="no schedule today"):
        own(tmp_path, "raises")


def test_a_schedule_of_ones_own_that_raises_on_its_way_is_found(tmp_path):
    message = only(own(tmp_path, "raises_later"), "MGL003").message
    assert "raises at epoch 0.5 of epoch 10" in message
    assert "ZeroDivisionError" in message


def test_a_schedule_of_ones_own_that_goes_below_zero_ends_in_two_lines(tmp_path):
    with pytest.raises(NndiagError, match="below_zero gives a learning rate of -0"):
        own(tmp_path, "below_zero")


def test_a_rate_that_cannot_be_compared_is_said_to_be_so_in_the_answer():
    report = judged({"gpus": 4, "per-device-batch": 32, "lr": 0.1})
    assert "whether lr 0.1 follows it needs base-lr" in report.answers[0]


def test_a_rate_that_a_summed_gradient_makes_linear_is_no_square_root():
    recipe = load_recipe(options={"gpus": 4, "per-device-batch": 32, "accumulation": 4, "base-batch": 32,
                                  "base-lr": 0.05, "lr": 0.2, "optimizer": "sgd"})  # fmt: skip
    assert [item.rule.code for item in judge_square_root(Plan(recipe)) if isinstance(item, Finding)] == ["MGL005"]
    assert not [item for item in judge_square_root(Plan(recipe), 4.0) if isinstance(item, Finding)]


def test_a_rank_without_samples_is_named():
    assert "rank 2 has none" in only(judged({"gpus": 3}, shard_sizes=[100, 100, 0]), "MGL007").message


def test_updates_are_whole_epochs_of_whole_updates():
    report = judged({"gpus": 4, "per-device-batch": 128, "lr": 0.1, "dataset-size": 50_000, "epochs": 100})
    rows = {row[0]: row for row in report.tables[0].rows}
    assert rows["updates per epoch"][1:3] == ("391", "98")
    assert rows["updates"][1:3] == ("39100", "9800")


def test_a_warm_up_inside_a_schedule_of_ones_own_is_seen(tmp_path):
    raised = {"base-lr": 0.0125, "base-batch": 16}
    assert "MGL002" not in codes(own(tmp_path, "lambda_1000", **raised))
    assert "MGL002" in codes(own(tmp_path, "cosine_1000", **raised))
