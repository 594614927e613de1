"""The callback sees the real run of Lightning, changes nothing, and stops what must not start."""

import logging
import warnings

import pytest
import torch
from torch import nn

from nndiag.core.report import DiagnosisError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning talks about loaders and loggers
lightning = pytest.importorskip("lightning.pytorch")


class Module(lightning.LightningModule):
    def __init__(self, *, sick=False, lr=0.01):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.0 if sick else 0.1), nn.Linear(16, 3))
        self.lr = lr
        if sick:
            for item in self.net.parameters():
                nn.init.constant_(item, 0.1)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _index):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), 16, shuffle=True)


def fit(module, *callbacks, epochs=2):
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader())
    return trainer


@pytest.fixture
def callback():
    from nndiag.integrations.lightning import NndiagCallback

    return NndiagCallback


def test_training_is_the_same_with_and_without(callback):
    lightning.seed_everything(0, verbose=False)
    plain, watched = Module(), Module()
    watched.load_state_dict(plain.state_dict())
    fit(plain)
    asked = callback(fail_on="never", max_seconds=5)
    fit(watched, asked)
    assert [report.command for report in asked.reports] == list(asked.checks)
    for before, after in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(before, after)


def test_a_sick_model_does_not_start(callback):
    module = Module(sick=True)
    start = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(DiagnosisError, match="SYM2"):
        fit(module, callback(["init-symmetry"]))
    for key, value in module.state_dict().items():
        assert torch.equal(value, start[key])


def test_a_sick_model_that_may_start_is_only_logged(callback, caplog):
    with caplog.at_level(logging.INFO, logger="nndiag"):
        fit(Module(sick=True), callback(["init_symmetry"], fail_on="never"))
    assert any("SYM2" in record.message and record.levelname == "ERROR" for record in caplog.records)


def test_the_recipe_is_the_trainers_own(callback):
    asked = callback(["multigpu-lr"], fail_on="never", base_lr=0.01, base_batch=4)
    fit(Module(), asked)
    (report,) = asked.reports
    codes = {item.rule.code for item in report.findings}
    assert "MGL001" in codes  # lr 0.01 at batch 16 is the base rate of batch 4


def test_a_healthy_model_trains_to_the_end(callback):
    trainer = fit(Module(), callback(["init-symmetry", "check-dropout"]))
    assert trainer.global_step == 8


def test_an_unknown_check_says_what_was_meant(callback):
    from nndiag import UsageError

    with pytest.raises(UsageError) as caught:
        callback(["init-symetry"])
    assert "init-symmetry" in caught.value.hint
