"""From Python: objects in, a report out, the user's own untouched."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import nndiag

X = torch.randn(128, 20, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


def net(*, sick=False):
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.8), nn.BatchNorm1d(32) if sick else nn.Identity(), nn.Linear(32, 3)
    )
    if sick:
        for layer in (made[0], made[4]):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
    return made


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(500, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.emb(ids).mean(1))


IDS = torch.randint(0, 500, (64, 10), generator=torch.Generator().manual_seed(1))
QUESTIONS = {
    "check_dropout": lambda **more: nndiag.check_dropout(net(sick=True), (X, Y), **more),
    "check_normalization": lambda **more: nndiag.check_normalization(net(), (X * 255, Y), **more),
    "entropy_floor": lambda **more: nndiag.entropy_floor(Y, curve=[1.2, 1.1, 1.05, 1.04], classes=3, **more),
    "embedding_cost": lambda **more: nndiag.embedding_cost(vocab=2_000_000, dim=64, optimizer="adam", **more),
    "init_symmetry": lambda **more: nndiag.init_symmetry(net(), (X, Y), **more),
    "multigpu_lr": lambda **more: nndiag.multigpu_lr(
        gpus=8, per_device_batch=32, lr=3e-4, base_lr=3e-4, base_batch=32, **more
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_question_gives_a_report_with_an_answer(name):
    report = QUESTIONS[name]()
    assert report.status == "completed"
    assert report.command.replace("-", "_") == name
    assert report.answers
    assert report.checked
    assert report.to_dict()["schema_version"] == "1.0"


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_unknown_setting_says_what_was_meant(name):
    with pytest.raises(nndiag.UsageError, match="has no setting 'max_secnds'") as caught:
        QUESTIONS[name](max_secnds=3)
    assert "max_seconds" in caught.value.hint


def test_sick_things_are_found():
    assert "DRP105" in {item.rule.code for item in QUESTIONS["check_dropout"]().findings}
    assert "NRM001" in {item.rule.code for item in QUESTIONS["check_normalization"]().findings}
    assert "EMB001" in {item.rule.code for item in QUESTIONS["embedding_cost"]().findings}
    assert "MGL001" in {item.rule.code for item in QUESTIONS["multigpu_lr"]().findings}
    assert "SYM001" in {item.rule.code for item in nndiag.init_symmetry(net(sick=True), select="SYM0").findings}


def test_raise_for_findings_carries_the_report():
    with pytest.raises(nndiag.DiagnosisError, match="DRP105") as caught:
        QUESTIONS["check_dropout"]().raise_for_findings()
    assert caught.value.report.command == "check-dropout"
    assert QUESTIONS["init_symmetry"]().raise_for_findings().command == "init-symmetry"


def test_a_severity_can_be_changed_and_a_rule_left_out():
    report = QUESTIONS["check_dropout"](severity={"DRP105": "note"}, ignore="DRP001")
    levels = {item.rule.code: item.severity.word for item in report.findings}
    assert levels["DRP105"] == "note"
    assert "DRP001" not in levels
    assert report.exit_code == 0


@pytest.mark.parametrize("name", ["check_dropout", "init_symmetry", "check_normalization"])
def test_model_data_and_random_state_leave_as_they_came(name):
    model = net(sick=True)
    model.train()
    model[0].eval()
    model(X).sum().backward()
    x, y = X.clone(), Y.clone()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    rng, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    getattr(nndiag, name)(model, (x, y), max_seconds=10)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert torch.equal(rng, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        {"x": X, "y": Y},
        torch.utils.data.TensorDataset(X, Y),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 32),
        [(X[:64], Y[:64]), (X[64:], Y[64:])],
        (X.numpy(), Y.numpy()),
        lambda: (X, Y),
    ],
    ids=["pair", "dict", "dataset", "loader", "batches", "arrays", "factory"],
)
def test_data_comes_in_every_shape(data):
    report = nndiag.check_dropout(net(sick=True), data)
    assert "DRP105" in {item.rule.code for item in report.findings}


def test_a_factory_or_a_class_will_do_for_a_model():
    for model in (net, lambda: net(sick=True), Tagger):
        data = (IDS, torch.zeros(64).long()) if model is Tagger else (X, Y)
        assert nndiag.init_symmetry(model, data, select="SYM0").checked


def test_data_alone_can_be_normalised():
    assert nndiag.check_normalization(None, (X * 1e4 + 5, Y)).findings
    assert nndiag.check_normalization(X).command == "check-normalization"
    with pytest.raises(nndiag.UsageError, match="no data"):
        nndiag.check_normalization(net())


def test_tokens_are_taken_as_arrays():
    report = nndiag.embedding_cost(vocab=500, dim=8, tokens=IDS)
    assert report.command == "embedding-cost"
    with pytest.raises(nndiag.UsageError, match="not whole numbers"):
        nndiag.embedding_cost(vocab=500, dim=8, tokens=[0.5])


def test_loss_functions_and_optimizer_classes_are_taken_as_objects():
    report = nndiag.init_symmetry(
        net(sick=True), (X, Y), loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD, lr=0.1
    )
    assert report.status == "completed"


def test_the_same_call_gives_the_same_report():
    first, second = (QUESTIONS["check_dropout"]().to_dict() for _ in range(2))
    for document in (first, second):
        document["run"].pop("timing")
    assert first == second


def test_a_broken_model_is_an_error_about_the_target():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no luck")

    with pytest.raises(nndiag.NndiagError, match="no luck"):
        nndiag.check_dropout(Broken(), (X, Y))


def test_notebooks_get_a_page_in_a_frame_and_consoles_the_text():
    report = QUESTIONS["multigpu_lr"]()
    frame = report._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert "<script" not in frame
    assert "&lt;!DOCTYPE html&gt;" in frame
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - never read
    console.print(report)
    assert "MGL001" in console.export_text()
    console.file.close()


def test_importing_the_package_imports_no_torch():
    program = "import sys, nndiag; dir(nndiag); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names_exist():
    for name in nndiag.__all__:
        assert getattr(nndiag, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'luck'"):
        nndiag.luck  # noqa: B018 - the access is the test
