"""Small networks with known fates, and how the check is asked about them."""

import torch
from torch import nn

from nndiag.checks.init_symmetry import InitSymmetry
from nndiag.core.check import diagnose
from nndiag.core.findings import Where
from nndiag.core.rules import Selection
from nndiag.core.subject import Batch, Run, Subject, Training
from nndiag.lab.borrow import seeded

DYNAMIC = {"SYM201", "SYM202", "SYM203", "SYM204"}


class Source:
    name, where = "model", Where()

    def __init__(self, build):
        self.build = build

    def make(self):
        with seeded(0):
            return self.build()


class Feed:
    name, synthetic = "batches", False

    def __init__(self, batches):
        self.all = batches

    def batches(self, _size=None):
        yield from self.all


def noise(*shape, classes=10, rows=32, count=4):
    source = torch.Generator().manual_seed(1)
    return [
        Batch(torch.randn(rows, *shape, generator=source), torch.randint(0, classes, (rows,), generator=source))
        for _ in range(count)
    ]


def ask(build, batches=None, *, training=None, train=None, select=("ALL",), **settings):
    subject = Subject(
        name="model",
        model=Source(build),
        data=Feed(batches if batches is not None else noise(20)),
        training=training or Training(),
        run=Run(train=train, selection=Selection(select=select)),
    )
    return diagnose(InitSymmetry(**settings), subject)


def said(report):
    return [(item.rule.code, item.where.module) for item in report.findings]


def numbers(report, name):
    return {item.where: item.value for item in report.measurements if item.name == name}


def fill(module, value):
    for item in module.parameters():
        nn.init.constant_(item, value)
    return module


def mlp(act=nn.ReLU, hidden=16, out=10):
    return nn.Sequential(nn.Linear(20, hidden), act(), nn.Linear(hidden, out))


def first(net, weight, bias=0.0):
    nn.init.constant_(net[0].weight, weight)
    nn.init.constant_(net[0].bias, bias)
    return net


def zeroed(net, *names):
    for name in names:
        for item in net.get_submodule(name).parameters():
            nn.init.zeros_(item)
    return net


def pair(net, sign=1.0, *, left="0", right="2", i=2, j=5):
    a, b = net.get_submodule(left), net.get_submodule(right)
    with torch.no_grad():
        a.weight[j] = sign * a.weight[i]
        if a.bias is not None:
            a.bias[j] = sign * a.bias[i]
        b.weight[:, j] = sign * b.weight[:, i]
    return net
