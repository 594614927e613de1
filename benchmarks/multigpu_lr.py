"""What multigpu-lr costs: the arithmetic as a whole process, and the gradient comparison in passes of the global batch.

The comparison is of a 10M-parameter model over 4 emulated ranks. A pass is one forward and backward of the whole
batch in the model's own float32; where anything looks amiss the comparison is repeated in float64.

Run: OMP_NUM_THREADS=1 python benchmarks/multigpu_lr.py
"""

import os
import statistics
import subprocess
import sys

import torch
from torch import nn
from torch.nn import functional

from nndiag.checks.multigpu_lr.comparison import compare
from nndiag.checks.multigpu_lr.layout import layout
from nndiag.checks.multigpu_lr.measured import Setting
from nndiag.checks.multigpu_lr.plan import Plan
from nndiag.core.recipe import Recipe
from nndiag.core.subject import Batch, Subject, Training
from nndiag.lab.gradients import still
from nndiag.lab.objective import resolve_objective

ARITHMETIC = [
    "multigpu-lr",
    "--isolated",
    "--gpus",
    "8",
    "--per-device-batch",
    "64",
    "--base-lr",
    "3e-4",
    "--lr",
    "3e-4",
    "--optimizer",
    "adamw",
]


class Source:
    """A model of ten million parameters."""

    name = "benchmark"
    where = None

    def make(self):
        torch.manual_seed(0)
        sizes = [(256, 2048), (2048, 2048), (2048, 2048), (2048, 500)]
        return nn.Sequential(*(part for size in sizes for part in (nn.Linear(*size), nn.ReLU())))


def processor_seconds():
    """Of this process and its children: what else runs on the machine does not count."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def fastest(action, repeats):
    times = []
    for _ in range(repeats):
        begun = processor_seconds()
        action()
        times.append(processor_seconds() - begun)
    return min(times), statistics.median(times)


def main():
    torch.set_num_threads(1)
    start, _ = fastest(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 5)
    command = [sys.executable, "-m", "nndiag", *ARITHMETIC, "-f", "json"]
    best, middle = fastest(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 7)
    print(
        "arithmetic, whole process: "
        f"{best:.3f} s of processor time (median {middle:.3f} s, of it {start:.3f} s Python; goal 0.4 s)"
    )

    for per_device in (64, 256):
        gradients_of(per_device)


def gradients_of(per_device):
    rows = 4 * per_device
    source = Source()
    model = source.make()
    parameters = sum(item.numel() for item in model.parameters())
    batch = Batch(torch.randn(rows, 256), torch.randint(0, 500, (rows,)))
    plan = Plan(Recipe(devices=4, per_device_batch=per_device, global_batch=rows, base_batch=per_device))
    objective = resolve_objective(Training(), still(model), batch)
    laid = layout(plan, ranks=None, world=1)
    setting = Setting(Subject("benchmark", model=source), plan, laid, batch, objective, world=1, aware=False)

    def one_pass():
        model.zero_grad(set_to_none=True)
        functional.cross_entropy(model(batch.inputs), batch.targets).backward()

    unit, _ = fastest(one_pass, 5)
    taken, _ = fastest(lambda: compare(setting), 3)
    seen = compare(setting)
    error = float((seen.aggregated - seen.whole).norm() / seen.whole.norm())
    print(
        f"{parameters / 1e6:.1f}M parameters, 4 ranks of {per_device}: {taken:.2f} s = {taken / unit:.1f} passes "
        f"of {unit:.2f} s (goal 6), relative error of the averaged gradient {error:.2g}"
    )


if __name__ == "__main__":
    main()
