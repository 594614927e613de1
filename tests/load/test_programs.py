"""MODEL as another tool wrote it: exported programs, Lightning's module and checkpoint."""

from __future__ import annotations

import zipfile

import pytest
import torch
from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.load.model import load_model

LIGHTNING = """
import lightning, torch
from torch import nn

class Lit(lightning.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(4, width)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lit_model.py").write_text(LIGHTNING)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_runs_only_when_trusted_and_its_weights_are_read_always(folder):
    layer = nn.Linear(2, 3).eval()
    torch.export.save(torch.export.export(layer, (torch.ones(4, 2),)), "m.pt2")
    weights = load_model("m.pt2")
    assert weights.shapes == {"weight": (3, 2), "bias": (3,)}
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in weights.tensors())
    with pytest.raises(NndiagError, match="without a model"):
        weights.make()
    made = load_model("m.pt2", trust=True).make()
    assert torch.equal(made(torch.ones(4, 2)), layer(torch.ones(4, 2)))


@pytest.mark.filterwarnings("ignore")
def test_an_exported_tensor_that_claims_more_than_it_holds_is_refused(folder):
    torch.export.save(torch.export.export(nn.Linear(2, 3).eval(), (torch.ones(4, 2),)), "m.pt2")
    with zipfile.ZipFile("m.pt2") as whole, zipfile.ZipFile("lies.pt2", "w") as lies:
        for item in whole.infolist():
            content = whole.read(item)
            if item.filename.endswith("model_weights_config.json"):
                content = content.replace(b'{"as_int": 3}', b'{"as_int": 300000}')
            lies.writestr(item, content)
    with pytest.raises(NndiagError, match="claims more than it holds"):
        list(load_model("lies.pt2").tensors())


@pytest.mark.filterwarnings("ignore")
def test_a_lightning_module_takes_the_weights_of_its_trainers_checkpoint(folder):
    lightning = pytest.importorskip("lightning")
    from lit_model import Lit

    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(0, 6, (16,)))
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")  # fmt: skip
    model = Lit(6)
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=8))
    trainer.save_checkpoint("m.ckpt")
    made = load_model("lit_model.py:Lit", args=["width=6"], weights="m.ckpt").make()
    assert torch.equal(made.net.weight, model.net.weight)
