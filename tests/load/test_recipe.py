"""Recipes as people write them, and what must be refused."""

from __future__ import annotations

import json

import pytest

from nndiag.core.errors import NndiagError, UsageError
from nndiag.load.recipe import load_recipe


def write(folder, name, text):
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return str(path)


ACCELERATE = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 2
num_processes: 16
machine_rank: 0
mixed_precision: 'no'
"""
LIGHTNING = """
seed_everything: 42
trainer:
  devices: 4
  num_nodes: 2
  accumulate_grad_batches: 2
  max_epochs: 90
  gradient_clip_val: 1.0
model:
  class_path: model.Net
  init_args: {width: 64}
data:
  class_path: data.Digits
  init_args: {batch_size: 32}
optimizer:
  class_path: torch.optim.SGD
  init_args: {lr: 1e-1, momentum: 0.9}
lr_scheduler:
  class_path: torch.optim.lr_scheduler.CosineAnnealingLR
  init_args: {T_max: 90}
"""
HF = {
    "output_dir": "out",
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-5,
    "num_train_epochs": 3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "optim": "adamw_torch_fused",
    "max_steps": -1,
    "save_strategy": "no",
}
DEEPSPEED = {
    "train_batch_size": 512,
    "train_micro_batch_size_per_gpu": 16,
    "gradient_accumulation_steps": 4,
    "optimizer": {"type": "AdamW", "params": {"lr": "1e-4", "betas": [0.9, 0.95], "eps": 1e-8}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 500, "total_num_steps": 10000}},
    "gradient_clipping": 1.0,
}


def test_accelerates_num_processes_is_already_the_total(tmp_path):
    recipe = load_recipe([write(tmp_path, "a.yaml", ACCELERATE)], {"per-device-batch": 8, "nodes": 2})
    assert (recipe.framework, recipe.devices, recipe.global_batch) == ("accelerate", 16, 128)


def test_yamls_no_is_one_process(tmp_path):
    text = ACCELERATE.replace("MULTI_GPU", "NO").replace("num_processes: 16", "num_processes: 1")
    assert load_recipe([write(tmp_path, "a.yaml", text)]).devices == 1


def test_deepspeeds_gpus_follow_from_its_batches(tmp_path):
    recipe = load_recipe([write(tmp_path, "ds.json", DEEPSPEED)])
    assert recipe.devices == 8
    assert recipe.lr == pytest.approx(1e-4)
    assert recipe.betas == (0.9, 0.95)
    assert (recipe.schedule.name, recipe.schedule.total_steps, recipe.schedule.warmup_steps) == ("linear", 10000, 500)


def test_deepspeeds_auto_leaves_room_for_the_command_line(tmp_path):
    document = {**DEEPSPEED, "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "optimizer": {
        "type": "AdamW", "params": {"lr": "auto", "betas": "auto"}}}  # fmt: skip
    recipe = load_recipe([write(tmp_path, "ds.json", document)], {"gpus": 4, "per-device-batch": 8, "lr": 3e-4})
    assert (recipe.devices, recipe.global_batch, recipe.lr) == (4, 128, 3e-4)


def test_lightnings_world_is_devices_times_nodes_and_its_scheduler_steps_per_epoch(tmp_path):
    recipe = load_recipe([write(tmp_path, "config.yaml", LIGHTNING)])
    assert (recipe.devices, recipe.per_device_batch, recipe.global_batch) == (8, 32, 512)
    assert recipe.lr == pytest.approx(0.1)  # YAML reads 1e-1 as text
    assert (recipe.optimizer, recipe.momentum, recipe.epochs) == ("sgd", 0.9, 90)
    assert (recipe.schedule.name, recipe.schedule.total_steps, recipe.schedule.stepped_per) == ("cosine", 90, "epoch")


def test_lightnings_interval_step_steps_per_update(tmp_path):
    text = LIGHTNING + "  interval: step\n"
    assert load_recipe([write(tmp_path, "config.yaml", text)]).schedule.stepped_per == "optimizer"


@pytest.mark.parametrize(
    ("written", "devices"), [("4", 4), ('"4"', 4), ("[0, 1, 2]", 3), ('"0,1"', 2), ("-1", None), ("auto", None)]
)
def test_lightnings_devices_in_all_its_spellings(tmp_path, written, devices):
    text = LIGHTNING.replace("devices: 4", f"devices: {written}").replace("num_nodes: 2", "num_nodes: 1")
    assert load_recipe([write(tmp_path, "config.yaml", text)]).devices == devices


def test_hugging_face_warmup_steps_below_one_are_a_ratio_and_its_schedule_is_managed(tmp_path):
    recipe = load_recipe([write(tmp_path, "args.json", HF)], {"gpus": 8})
    assert (recipe.schedule.warmup_steps, recipe.schedule.warmup_ratio) == (0.0, 0.1)
    assert recipe.schedule.managed
    assert recipe.schedule.name == "cosine"
    assert (recipe.global_batch, recipe.optimizer) == (256, "adamw")


def test_hugging_faces_defaults_are_said_to_be_defaults(tmp_path):
    recipe = load_recipe([write(tmp_path, "args.yaml", "output_dir: out\nwarmup_steps: 100\n")], {"gpus": 2})
    assert (recipe.per_device_batch, recipe.lr, recipe.epochs) == (8, 5e-5, 3)
    assert "default" in recipe.deduced["lr"]


def test_the_trainer_under_accelerate_keeps_the_trainers_habit(tmp_path):
    files = [write(tmp_path, "a.yaml", ACCELERATE), write(tmp_path, "args.json", HF)]
    recipe = load_recipe(files)
    assert (recipe.framework, recipe.devices) == ("hf", 16)
    assert recipe.schedule.stepped_per == "optimizer"


def test_two_files_that_disagree_are_refused_by_name(tmp_path):
    other = {**DEEPSPEED, "gradient_accumulation_steps": 2, "train_batch_size": 256}
    files = [write(tmp_path, "a.json", DEEPSPEED), write(tmp_path, "b.json", other)]
    with pytest.raises(UsageError, match=r"a\.json says .*, .*b\.json says"):
        load_recipe(files)


def test_the_command_line_wins_over_the_table_and_the_table_over_files(tmp_path):
    path = write(tmp_path, "args.json", HF)
    recipe = load_recipe([path], {"lr": 1e-3, "gpus": 4}, {"ema-decay": 0.999, "lr": 5e-4})
    assert (recipe.lr, recipe.ema_decay) == (1e-3, 0.999)


def test_a_toml_recipe_is_a_file_like_the_others(tmp_path):
    path = write(tmp_path, "recipe.toml", "[multigpu-lr]\ngpus = 8\nper-device-batch = 32\nbase-lr = 0.1\nlr = 0.8\n")
    assert load_recipe([path]).global_batch == 256


def test_four_batches_that_contradict_each_other_are_named():
    with pytest.raises(
        UsageError, match=r"global-batch 500 is not gpus 8 × per-device-batch 32 × accumulation 2 = 512"
    ):
        load_recipe(options={"gpus": 8, "per-device-batch": 32, "accumulation": 2, "global-batch": 500})


def test_deepspeeds_contradiction_is_refused(tmp_path):
    path = write(tmp_path, "ds.json", {**DEEPSPEED, "train_batch_size": 500})
    with pytest.raises(UsageError, match="not whole"):
        load_recipe([path])


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"gpus": 8, "per-device-batch": 32, "global-batch": 512}, "accumulation", 2),
        ({"gpus": 8, "global-batch": 512}, "per_device_batch", 64),
        ({"per-device-batch": 32, "global-batch": 512}, "devices", 16),
        ({"gpus": 4, "nodes": 2, "per-device-batch": 32}, "global_batch", 256),
    ],
)
def test_the_missing_batch_is_deduced(options, field, value):
    recipe = load_recipe(options=options)
    assert getattr(recipe, field) == value


def test_a_per_device_batch_means_the_batch_grew_and_a_total_means_it_was_split():
    assert load_recipe(options={"gpus": 4, "per-device-batch": 128}).base_batch == 128
    assert load_recipe(options={"gpus": 4, "global-batch": 128}).base_batch == 128
    assert load_recipe(options={"gpus": 4, "per-device-batch": 128}).global_batch == 512
    assert load_recipe(options={"gpus": 4, "global-batch": 128}).global_batch == 128


@pytest.mark.parametrize(
    ("options", "table", "words"),
    [
        ({"gpus": 0}, {}, "gpus"),
        ({"gpus": -4}, {}, "gpus"),
        ({"gpus": 2.5}, {}, "whole"),
        ({"lr": -1e-3}, {}, "lr"),
        ({"base-lr": 0}, {}, "base-lr"),
        ({"epochs": 0}, {}, "epochs"),
        ({"accumulation": 0}, {}, "accumulation"),
        ({"dataset-size": -5}, {}, "dataset-size"),
        ({"framework": "deepsped"}, {}, "deepsped"),
        ({"rule": "cubic"}, {}, "cubic"),
        ({"lr": "fast"}, {}, "not a number"),
        ({"lr": float("nan")}, {}, "not finite"),
        ({}, {"ema-decay": 1.5}, "between 0 and 1"),
        ({}, {"base-betas": [0.9]}, "two numbers"),
        ({}, {"base-betas": [0.9, 1.5]}, "between 0 and 1"),
        ({}, {"sampler": "random"}, "sampler"),
        ({}, {"set-epoch": "maybe"}, "true or false"),
        ({}, {"emadecay": 0.9}, "unknown key"),
        ({}, {"shard-sizes": 3}, "list"),
        ({}, {"shard-sizes": [3, 2.5]}, "whole"),
        ({}, {"shard-sizes": [0, 0]}, "no samples"),
        ({}, {"shard-sizes": [3, -1]}, "at least 0"),
        ({"gpus": 4}, {"shard-sizes": [3, 3]}, "2 sizes for 4 devices"),
        ({}, {"schedule": {"name": "cosin"}}, "cosin"),
        ({}, {"schedule": {"name": "cosine", "total_step": 3}}, "unknown key"),
        ({}, {"schedule": {"name": "cosine", "total-steps": 0}}, "positive"),
        ({}, {"schedule": {"name": "cosine", "step-unit": "batches"}}, "step-unit"),
        ({}, {"schedule": {"name": "cosine", "stepped-per": "batch"}}, "stepped-per"),
        ({"warmup": 100}, {"schedule": {"name": "cosine", "warmup-steps": 200}}, "contradicts"),
        ({}, {"schedule": 5}, "table"),
    ],
)
def test_an_impossible_value_is_refused_with_its_name(options, table, words):
    with pytest.raises(UsageError, match=words):
        load_recipe(options=options, table=table)


@pytest.mark.parametrize(
    "document",
    [
        {"per_device_train_batch_size": 8.5, "learning_rate": 1e-4},
        {"train_batch_size": 64.5, "zero_optimization": {}},
        {"train_micro_batch_size_per_gpu": 2.5},
        {"trainer": {"devices": 2}, "data": {"batch_size": 8.5}},
    ],
)
def test_a_batch_of_half_a_sample_is_refused(tmp_path, document):
    (tmp_path / "native.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="whole number"):
        load_recipe([str(tmp_path / "native.json")])


def test_a_misspelt_word_gets_a_suggestion():
    with pytest.raises(UsageError) as refused:
        load_recipe(options={"framework": "lightening"})
    assert "lightning" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty.yaml", ""),
        ("list.yaml", "- 1\n- 2\n"),
        ("broken.yaml", "a: [1, 2\n"),
        ("broken.json", '{"train_batch_size": 5,'),
        ("stranger.yaml", "kitchen: sink\n"),
        ("binary.yaml", "\x00\x01\x02"),
        ("bad.yaml", "trainer:\n  devices: many\n"),
        ("switch.json", '{"train_micro_batch_size_per_gpu": false}'),
        ("bomb.yaml", "a: &a [1]\nb: [" + ", ".join(["*a"] * 500) + "]\n"),
    ],
)
def test_a_bad_file_is_refused_in_two_lines(tmp_path, name, text):
    with pytest.raises(NndiagError) as refused:
        load_recipe([write(tmp_path, name, text)])
    assert "\n" not in refused.value.message


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        load_recipe([str(tmp_path / "nowhere.yaml")])


def test_nothing_said_is_no_recipe():
    assert load_recipe() is None


def test_a_table_may_write_numbers_as_text():
    assert load_recipe(options={"lr": "1e-3", "gpus": "8", "per-device-batch": "32"}).global_batch == 256


def test_optimizer_may_be_a_table_with_its_betas():
    recipe = load_recipe(table={"optimizer": {"name": "AdamW", "lr": 3e-4, "betas": [0.9, 0.95]}})
    assert (recipe.optimizer, recipe.lr, recipe.betas) == ("adamw", 3e-4, (0.9, 0.95))


def test_each_framework_has_its_habit_of_stepping():
    table = {"schedule": {"name": "cosine", "total-steps": 100}}
    habits = {
        name: load_recipe(options={"framework": name}, table=table).schedule.stepped_per
        for name in ("ddp", "accelerate", "lightning", "deepspeed", "hf", "mirrored", "horovod", "fsdp")
    }
    assert habits == {
        "ddp": "optimizer", "accelerate": "process", "lightning": "epoch", "deepspeed": "optimizer",
        "hf": "optimizer", "mirrored": "optimizer", "horovod": "optimizer", "fsdp": "optimizer",
    }  # fmt: skip
