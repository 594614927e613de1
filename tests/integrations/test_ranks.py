"""On several processes rank 0 examines alone, the others hear its verdict, and nobody waits for anybody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

GROUP = """
import os, sys, torch
import torch.distributed as dist
from nndiag.integrations.asking import alone

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(os.environ["RANK"]), world_size=2)
rank = dist.get_rank()
with alone():
    if rank == 0:
        value = torch.ones(1)
        dist.all_reduce(value)
        assert (dist.get_world_size(), value.item(), os.environ["WORLD_SIZE"]) == (1, 1.0, "1")
value = torch.ones(1)
dist.all_reduce(value)
assert (dist.get_rank(), dist.get_world_size(), value.item(), os.environ["RANK"]) == (rank, 2, 2.0, str(rank))
dist.destroy_process_group()
"""

LIGHTNING = """
import sys, warnings, torch
warnings.simplefilter("ignore")
from torch import nn
import lightning.pytorch as lightning
from nndiag.integrations.lightning import NndiagCallback

class Net(lightning.LightningModule):
    def __init__(self, sick):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        for item in self.net.parameters() if sick else ():
            nn.init.constant_(item, 0.1)
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, _index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), 8, shuffle=True)
    lightning.seed_everything(0, verbose=False)
    asked = NndiagCallback(["check-normalization", "init-symmetry"], max_seconds=3)
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[asked],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    net = Net(sys.argv[1] == "sick")
    try:
        trainer.fit(net, loader)
        said = f"trained {trainer.global_step}"
    except Exception as stopped:
        said = f"stopped by {type(stopped).__name__}"
    print(f"\\nrank {trainer.global_rank} {said}, {len(asked.reports)} reports", flush=True)
"""


def test_rank_zero_stands_alone_and_comes_back(tmp_path, monkeypatch):
    (tmp_path / "group.py").write_text(GROUP)
    monkeypatch.setenv("WORLD_SIZE", "2")
    started = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        started.append(subprocess.Popen([sys.executable, "group.py", str(tmp_path / "store")], cwd=tmp_path))
    assert [process.wait(timeout=120) for process in started] == [0, 0]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("healthy", ["rank 0 trained 2, 2 reports", "rank 1 trained 2, 0 reports"]),
        ("sick", ["rank 0 stopped by DiagnosisError, 2 reports", "rank 1 stopped by RuntimeError, 0 reports"]),
    ],
)
def test_lightning_on_two_processes(kind, lines, tmp_path):
    pytest.importorskip("lightning.pytorch")
    (tmp_path / "train.py").write_text(LIGHTNING)
    ran = subprocess.run(
        [sys.executable, "train.py", kind], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    said = sorted(line for line in ran.stdout.splitlines() if line.startswith("rank "))
    assert said == lines, ran.stdout + ran.stderr
