"""The recipe of sick.py on two devices: rate, schedule and data order follow their number.

    torchrun --standalone --nproc-per-node 2 examples/multigpu_lr/healed.py

Here nndiag finds nothing:

    cd examples/multigpu_lr
    nndiag multigpu-lr --config healed.toml --model healed.py:net --data healed.py:data
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

EPOCHS, PER_DEVICE, LR = 10, 32, 0.05


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2048, 16, generator=g)
    return TensorDataset(x, (x @ torch.randn(16, 4, generator=g)).argmax(1))


def main():
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    whole = data()
    sampler = DistributedSampler(whole)
    loader = DataLoader(whole, PER_DEVICE, sampler=sampler)
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR * dist.get_world_size())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
    if dist.get_rank() == 0:
        x, y = whole[:]
        with torch.no_grad():
            loss = float(functional.cross_entropy(model.module(x), y))
        print(f"loss {loss:.4f}, learning rate at the end {optimizer.param_groups[0]['lr']:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
