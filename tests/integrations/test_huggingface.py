"""The callback sees the real run of Hugging Face's Trainer, changes nothing, and stops what must not start."""

import pytest
import torch

from nndiag.core.report import DiagnosisError

pytestmark = pytest.mark.filterwarnings("ignore")
transformers = pytest.importorskip("transformers")


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, 50, (32, 12), generator=generator)
        self.labels = (self.ids[:, 0] > 25).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def model(*, sick=False):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    made = transformers.BertForSequenceClassification(config)
    if sick:
        dense = made.bert.encoder.layer[0].intermediate.dense
        torch.nn.init.constant_(dense.weight, 0.02)
        torch.nn.init.constant_(made.bert.encoder.layer[0].output.dense.weight, 0.02)
    return made


def train(tmp_path, made, *callbacks):
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        max_steps=4,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    trainer = transformers.Trainer(model=made, args=arguments, train_dataset=Rows(), callbacks=list(callbacks))
    trainer.train()
    return trainer


@pytest.fixture
def callback():
    from nndiag.integrations.huggingface import NndiagCallback

    return NndiagCallback


def test_training_is_the_same_with_and_without(tmp_path, callback):
    plain, watched = model(), model()
    train(tmp_path, plain)
    asked = callback(fail_on="never", max_seconds=5)
    train(tmp_path, watched, asked)
    assert [report.command for report in asked.reports] == list(asked.checks)
    for before, after in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(before, after)


def test_a_sick_model_does_not_start(tmp_path, callback):
    made = model(sick=True)
    start = {key: value.clone() for key, value in made.state_dict().items()}
    with pytest.raises(DiagnosisError, match="SYM"):
        train(tmp_path, made, callback(["init-symmetry"]))
    for key, value in made.state_dict().items():
        assert torch.equal(value, start[key])


def test_a_healthy_model_trains_to_the_end(tmp_path, callback):
    asked = callback(["init-symmetry"])
    trainer = train(tmp_path, model(), asked)
    assert trainer.state.global_step == 4
    assert not [item for report in asked.reports for item in report.findings if item.severity.word == "error"]


def test_the_recipe_is_the_trainers_own(tmp_path, callback):
    asked = callback(["multigpu-lr"], fail_on="never", base_lr=5e-5, base_batch=2)
    train(tmp_path, model(), asked)
    (report,) = asked.reports
    assert "MGL001" in {item.rule.code for item in report.findings}
