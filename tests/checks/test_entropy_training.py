"""entropy-floor with a live model, and the two precisions of ENT201 on the bundled digits."""

import json

import numpy as np
import pytest

from nndiag.checks.entropy_floor import EntropyFloor
from nndiag.core.check import diagnose
from nndiag.core.subject import Run, Subject, Training
from nndiag.load.bundled import digits
from nndiag.load.subject import load_subject

MODEL = """
import torch
from torch import nn

class Ends(nn.Module):
    def __init__(self, softmax):
        super().__init__()
        self.layer, self.softmax = nn.Linear(4, 3), softmax
        self.squash = nn.Softmax(-1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4)[:3] * 8)
            self.layer.bias.zero_()

    def forward(self, x):
        z = self.layer(x)
        return self.squash(z) if self.softmax else z

def logits():
    return Ends(False)

def probabilities():
    return Ends(True)
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(MODEL)
    y = np.arange(90) % 3
    np.savez("data.npz", x=np.eye(4, dtype=np.float32)[y], y=y)
    return tmp_path


def examine(model, loss):
    subject = load_subject(f"nets.py:{model}", "data.npz", loss=loss, run=Run())
    return diagnose(EntropyFloor(), subject)


def codes(report):
    return sorted(item.rule.code for item in report.findings)


def value(report, name):
    return next(item.value for item in report.measurements if item.name == name)


def test_a_models_logits_are_judged_on_its_own_data(files):
    report = examine("logits", "auto")
    assert value(report, "loss") == pytest.approx(np.log1p(2 * np.exp(-8.0)), rel=1e-5)
    assert codes(report) == ["ENT002"]


def test_a_softmax_before_cross_entropy_is_named(files):
    report = examine("probabilities", "cross_entropy")
    assert codes(report) == ["ENT006"]
    assert report.findings[0].where.module == "squash"


def test_a_softmax_that_the_loss_takes_for_one_is_healthy(files):
    assert codes(examine("probabilities", "auto")) == ["ENT002"]


def test_float32_stalls_above_1e_8_where_float64_gets_below_1e_12():
    data = digits()
    inputs = {"labels": data.soft[::3], "x": data.x[::3]}
    report = diagnose(EntropyFloor(), Subject("digits", run=Run(train=True), inputs=inputs))
    assert codes(report) == ["ENT201"]
    assert value(report, "excess_float32") > 1e-8
    assert value(report, "excess_float64") < 1e-12
    assert value(report, "excess_float32_loss_float64") < 1e-10
    names = {series.name for series in report.series}
    assert {"excess float32", "excess float64"} <= names


def test_an_optimizer_far_from_either_resolution_is_no_finding():
    data = digits()
    subject = Subject(
        "digits", training=Training(optimizer="adam", lr=0.01, steps=60), run=Run(train=True),
        inputs={"labels": data.soft[::6], "x": data.x[::6]},
    )  # fmt: skip
    assert codes(diagnose(EntropyFloor(), subject)) == []


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"labels": np.arange(30) % 3, "x": np.zeros((30, 2))}, "certain"),
        ({"labels": np.full((30, 3), 1 / 3)}, "inputs"),
        ({"labels": np.full((30, 3), 1 / 3), "x": np.full((30, 2), np.nan)}, "finite"),
    ],
)
def test_what_cannot_be_trained_is_skipped_with_its_reason(inputs, reason):
    report = diagnose(EntropyFloor(), Subject("labels", run=Run(train=True), inputs=inputs))
    skip = next(skip for skip in report.skipped if skip.code == "ENT201")
    assert reason in skip.reason


BODY = """
import torch
from torch import nn
from torch.nn import functional as F
def body(): return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
def fresh(): return body()
def seeding():
    torch.manual_seed(0)
    return body()
def drawing_alone():
    model, source = body(), torch.Generator().manual_seed(3)
    for item in model.parameters(): nn.init.normal_(item, 0, 0.01, generator=source)
    return model
def zero_biases():
    model = drawing_alone()
    for item in model.parameters(): item.data.mul_(item.dim() > 1)
    return model
kept = zero_biases()
def zero_start():
    model = nn.Linear(8, 3)
    for item in model.parameters(): nn.init.zeros_(item)
    return model
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3, bias=False), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    F.cross_entropy(model(torch.zeros(300, 8)), torch.arange(300) % 3).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad(): model[1].bias.zero_()
    model[1].weight.data.mul_(1e-3)
    return model
class Step(nn.Module):
    def __init__(self, inside=nn.Identity(), outside=nn.Identity(), loss=F.cross_entropy):
        super().__init__()
        self.body, self.inside, self.outside, self.loss = body(), inside, outside, loss
    def forward(self, x): return self.inside(self.body(x))
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self.outside(self(x)), y)
        self.trainer.log(loss)
def softmax_in_forward(): return Step(inside=nn.Softmax(-1))
def softmax_in_step(): return Step(outside=nn.Softmax(-1))
def sigmoid_in_step(): return Step(outside=nn.Sigmoid())
def log_softmax_in_step(): return Step(outside=nn.LogSoftmax(-1))
def log_of_softmax(): return Step(inside=nn.Softmax(-1), outside=nn.Identity(), loss=lambda p, y: F.nll_loss(p.log(), y))
def data():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(300) % 3
"""


@pytest.mark.parametrize(
    ("model", "codes"),
    [
        ("fresh", []),
        ("seeding", []),
        ("drawing_alone", []),
        ("zero_start", []),
        ("kept", []),
        ("trained", ["ENT005"]),
        ("softmax_in_forward", ["ENT006"]),
        ("softmax_in_step", ["ENT006"]),
        ("sigmoid_in_step", ["ENT006"]),
        ("log_softmax_in_step", []),
        ("log_of_softmax", []),
    ],
)
def test_a_model_is_judged_by_what_it_has_learnt_and_by_what_its_own_step_hands_to_the_loss(
    model, codes, tmp_path, monkeypatch
):
    from nndiag.cli.app import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(BODY)
    output = tmp_path / "out.json"
    main(["entropy-floor", "--model", f"m.py:{model}", "--data", "m.py:data", "-q", "-o", f"json:{output}"])
    report = json.loads(output.read_text())
    assert [item["code"] for item in report["findings"]] == codes
    assert codes or "ENT005" in {item["code"] for item in report["coverage"]["skipped"]}
