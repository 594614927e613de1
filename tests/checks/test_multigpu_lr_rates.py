"""Which rates follow the batch, per kind of optimizer; warm-ups that are none; files that are read together."""

from __future__ import annotations

import json

import pytest

from nndiag.checks.multigpu_lr import MultigpuLr
from nndiag.cli.app import main
from nndiag.core.check import diagnose
from nndiag.core.subject import Subject
from nndiag.load.recipe import load_recipe

EIGHT = {"gpus": 8, "per-device-batch": 32, "base-batch": 32}


def judged(options=None, configs=(), **table):
    table = {key.replace("_", "-"): item for key, item in table.items()}
    recipe = load_recipe(configs, options, table)
    return diagnose(MultigpuLr(), Subject("recipe", inputs={"recipe": recipe}))


def levels(report):
    return {item.rule.code: item.severity.word for item in report.findings}


@pytest.mark.parametrize("optimizer", ["prodigy", "Prodigy", "DAdaptAdam", "dadapt_sgd", "dog"])
def test_an_optimizer_that_finds_its_own_rate_has_none_to_scale(optimizer):
    report = judged({**EIGHT, "base-lr": 1.0, "lr": 1.0, "optimizer": optimizer})
    assert levels(report) == {}
    assert any(skip.code == "MGL001" and "own rate" in skip.reason for skip in report.skipped)


@pytest.mark.parametrize(("lr", "codes"), [(0.1, {}), (0.8, {"MGL001": "warning"}), (0.05, {})])
def test_elastic_averaging_keeps_the_rate_whatever_the_number_of_workers(lr, codes):
    assert levels(judged({**EIGHT, "base-lr": 0.1, "lr": lr, "framework": "easgd", "optimizer": "sgd"})) == codes


@pytest.mark.parametrize(
    ("gpus", "lr", "rule", "codes"),
    [
        (16, 4.8e-3, None, {"MGL001": "note"}),  # as vision transformers are trained: known to work, derived by nobody
        (8, 2.4e-3, "linear", {"MGL001": "note"}),
        (8, 2.4e-3, None, {}),
        (8, 8.5e-4, "sqrt", {}),
    ],
)
def test_a_linear_rate_for_adam_is_at_most_a_note(gpus, lr, rule, codes):
    said = {**EIGHT, "gpus": gpus, "base-lr": 3e-4, "lr": lr, "optimizer": "adamw", "rule": rule, "warmup": 500}
    assert levels(judged(said)) == codes


def test_lamb_keeps_its_betas_under_the_square_root():
    said = {"gpus": 512, "per-device-batch": 64, "base-batch": 512, "base-lr": 1.25e-3, "lr": 1e-2}
    assert levels(judged({**said, "optimizer": "lamb", "warmup": 400})) == {}


@pytest.mark.parametrize(("warmup", "codes"), [(0, ["MGL002"]), (8, ["MGL002"]), (782, [])])
def test_a_warm_up_shorter_than_momentums_memory_is_a_jump(warmup, codes):
    said = {"dataset-size": 1_281_167, "epochs": 90, "gpus": 32, "per-device-batch": 256, "base-batch": 256}
    report = judged({**said, "base-lr": 0.1, "lr": 3.2, "optimizer": "sgd", "warmup": warmup})
    assert sorted(levels(report)) == codes


def test_a_warm_up_of_epochs_is_counted_in_updates():
    schedule = {"name": "cosine", "total-steps": 90, "warmup-steps": 5, "stepped-per": "epoch"}
    said = {"dataset-size": 1_281_167, "epochs": 90, "gpus": 32, "per-device-batch": 256, "base-batch": 256}
    assert levels(judged({**said, "base-lr": 0.1, "lr": 3.2, "optimizer": "sgd"}, schedule=schedule)) == {}


def test_keras_momentum_is_corrected_where_the_rate_jumps_and_torchs_is_not():
    """13 % at ×32 and m = .9: m/k + 1 - m (Goyal et al. 2017, remark 2)."""
    said = {**EIGHT, "gpus": 32, "base-lr": 0.1, "lr": 3.2, "optimizer": "sgd", "warmup": 500}
    report = judged({**said, "framework": "mirrored", "optimizer-arg": ["momentum=0.9"]})
    assert any("13% of the right one" in line for line in report.context)
    report = judged({**said, "framework": "ddp", "optimizer-arg": ["momentum=0.9"]})
    assert report.target["momentum_correction"] == "not needed"


TRAINER = {
    "output_dir": "out", "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 2e-5,
    "num_train_epochs": 3, "warmup_ratio": 0.03, "lr_scheduler_type": "cosine", "optim": "adamw_torch",
}  # fmt: skip
AUTO = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto", "total_num_steps": "auto"}},
}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_the_trainers_arguments_fill_in_deepspeeds_auto(tmp_path, turned):
    paths = []
    for name, document in (("args.json", TRAINER), ("ds.json", AUTO)):
        (tmp_path / name).write_text(json.dumps(document))
        paths.append(str(tmp_path / name))
    recipe = load_recipe(paths[::-1] if turned else paths, {"gpus": 8, "dataset-size": 100_000})
    assert recipe.global_batch == 8 * 16 * 2
    assert recipe.schedule.name == "linear"  # DeepSpeed's scheduler is the one that runs
    assert recipe.schedule.managed
    assert recipe.schedule.warmup_ratio == 0.03


def test_a_number_beside_auto_is_no_contradiction(tmp_path):
    document = {**AUTO, "optimizer": {"type": "AdamW", "params": {"lr": 2e-5}}}
    (tmp_path / "args.json").write_text(json.dumps(TRAINER))
    (tmp_path / "ds.json").write_text(json.dumps(document))
    assert load_recipe([str(tmp_path / "args.json"), str(tmp_path / "ds.json")], {"gpus": 8}).lr == 2e-5


def test_ranks_without_a_model_have_nothing_to_run(capfd):
    assert main(["multigpu-lr", "--isolated", "--gpus", "4", "--per-device-batch", "32", "--ranks", "2"]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "--model" in lines[1]


@pytest.mark.parametrize("warmup", [0, 777, 1000])
def test_a_cosine_that_climbs_back_to_its_peak_is_seen_wherever_the_grid_falls(warmup):
    """End at 8000 of 17578 updates: the second peak lies on 15000, nearer a grid point than the first."""
    said = {"gpus": 8, "per-device-batch": 32, "dataset-size": 50_000, "epochs": 90, "lr": 0.8, "optimizer": "sgd"}
    schedule = {"name": "cosine", "total-steps": 8000, "warmup-steps": warmup, "step-unit": "optimizer"}
    assert "MGL004" in levels(judged(said, schedule=schedule))


@pytest.mark.parametrize(("gpus", "codes"), [(2, {}), (8, {"MGL005": "note"})])
def test_a_square_root_for_sgd_is_a_note_where_it_is_far_from_linear(gpus, codes):
    said = {**EIGHT, "gpus": gpus, "base-lr": 0.1, "lr": 0.1 * gpus**0.5, "optimizer": "sgd", "warmup": 500}
    assert levels(judged({**said, "rule": "sqrt"})) == codes
