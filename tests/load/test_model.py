"""MODEL: code, weights, configs; a private and equal model at every call; two lines for whatever is wrong."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Run
from nndiag.lab.borrow import fingerprint
from nndiag.load.model import load_model, source_of
from nndiag.load.sources import WeightsFile
from nndiag.load.subject import load_subject
from nndiag.load.weights import load_weights

CODE = """
import torch
from torch import nn
from beside import WIDTH

def build(width=WIDTH, act="relu"):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU() if act == "relu" else nn.Tanh(), nn.Linear(width, 2))

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, x):
        return self.layer(x)

instance = build()
kept = build()

def same():
    return kept

draws = 0
def moody():
    global draws
    draws += 1
    return nn.Linear(2, draws)

def raises():
    raise ValueError("no weights today")

def number():
    return 3

def nothing():
    pass

class History(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.last = self.layer(torch.ones(2))

    def forward(self, x):
        return self.layer(x)

history = History()
state = build().state_dict()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    return tmp_path


@pytest.mark.parametrize(
    "target",
    ["models.py:build", "models.py:instance", "models.py:same", "models.py:moody", "models.py:history", "models:build"],
)
def test_every_make_gives_a_private_model_equal_to_the_first(folder, target):
    source = load_model(target)
    first, second, third = source.make(), source.make(), source.make()
    assert fingerprint(first) == fingerprint(second) == fingerprint(third)
    tensors = [id(item) for model in (first, second, third) for item in model.parameters()]
    assert len(set(tensors)) == len(tensors)
    with torch.no_grad():
        first.requires_grad_(requires_grad=False)
        [item.zero_() for item in first.parameters()]
    assert fingerprint(source.make()) == fingerprint(second)


def test_the_users_instance_is_never_handed_out():
    mine = nn.Linear(2, 2)
    before = fingerprint(mine)
    made = source_of(mine).make()
    made.weight.data.zero_()
    assert made is not mine
    assert fingerprint(mine) == before


def test_arguments_reach_the_factory_as_literals(folder):
    model = load_model("models.py:build", args=["width=16", "act=tanh"]).make()
    assert model[0].out_features == 16
    assert isinstance(model[1], nn.Tanh)
    assert load_model("models.py:Net", args={"width": 3}).make().layer.in_features == 3


def test_seeds_decide_the_weights_and_the_callers_draws_go_on(folder):
    state = torch.get_rng_state()
    zero, one = load_model("models.py:build", seed=0).make(), load_model("models.py:build", seed=1).make()
    assert fingerprint(zero) != fingerprint(one)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_is_written_beside_the_users_file(folder):
    load_model("models.py:build").make()
    assert sorted(path.name for path in folder.iterdir()) == ["beside.py", "models.py"]


def test_the_source_knows_file_and_line(folder):
    where = load_model("models.py:build").where
    assert (where.file, where.line) == ("models.py", 1 + CODE[: CODE.index("def build")].count("\n"))
    assert load_model("models.py:instance").where.line == 1 + CODE[: CODE.index("instance =")].count("\n")


@pytest.mark.parametrize(
    ("target", "kind", "said", "hint"),
    [
        ("models.py:buidl", NndiagError, "models.py has no 'buidl'", "did you mean 'build'?"),
        ("models.py", UsageError, "does not say which model", "models.py:build"),
        ("model.py:build", UsageError, "there is no file 'model.py'", "models.py"),
        ("nowhere.mod:build", NndiagError, "there is no module 'nowhere.mod'", "installed"),
        ("models.py:raises", NndiagError, r"raised ValueError: no weights today \(models\.py:\d+\)", "models.py:"),
        ("models.py:number", NndiagError, "returned an int, not a torch module", "return the model"),
        ("models.py:nothing", NndiagError, "returned nothing, not a torch module", "return the model"),
        ("models.py:Net", NndiagError, "needs arguments: width", "--model-arg width="),
        ("models.py:WIDTH", NndiagError, "is a int, not a model", "name a torch module"),
        ("missing", UsageError, "there is no model 'missing'", "file.py:attr"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_two_lines(folder, target, kind, said, hint):
    with pytest.raises(NndiagError, match=said) as caught:
        load_model(target).make()
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_an_unknown_argument_is_a_usage_error(folder):
    with pytest.raises(UsageError, match="takes no 'widht'") as caught:
        load_model("models.py:build", args=["widht=3"]).make()
    assert "width" in caught.value.hint


@pytest.mark.parametrize(("body", "said"), [("import sys; sys.exit(3)", "ended in sys.exit"), ("def f(:", r"SyntaxError.*bad\.py:1"), ("x = 1 / 0", r"ZeroDivisionError.*bad\.py:1"), ("import not_there_at_all", "ModuleNotFoundError")])  # fmt: skip
def test_a_file_that_cannot_be_imported_names_its_line(folder, body, said):
    Path("bad.py").write_text(body)
    with pytest.raises(NndiagError, match=said):
        load_model("bad.py:f")


# Weights.


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "ckpt"])
def test_weights_alone_are_read_tensor_by_tensor(folder, suffix):
    state = nn.Linear(3, 2).state_dict()
    path = f"w.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if suffix == "pt" else {"state_dict": state, "epoch": 3, "hyper_parameters": argparse.Namespace(a=Path("x"))}, path)  # fmt: skip
    found = load_model(path)
    assert isinstance(found, WeightsFile)
    assert found.shapes == {"weight": (2, 3), "bias": (2,)}
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.tensors())
    subject = load_subject(path)
    assert subject.model is None
    assert subject.weights.parameters == 8


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
)
def test_safetensors_of_every_type_come_back_bit_for_bit(folder, dtype):
    values = torch.randint(0, 2, (5, 3)).to(dtype)
    save_file({"a": values, "empty": torch.zeros(0, 3)}, "w.safetensors")
    read = dict(load_model("w.safetensors").tensors())
    assert torch.equal(read["a"].view(torch.uint8), values.view(torch.uint8))
    assert read["empty"].shape == (0, 3)


def test_shards_are_read_through_their_index_and_never_outside_the_folder(folder):
    save_file({"a": torch.ones(2)}, "one.safetensors")
    save_file({"b": torch.zeros(3)}, "two.safetensors")
    Path("model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    assert set(load_model("model.safetensors.index.json").shapes) == {"a", "b"}
    Path("model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(NndiagError, match="points outside"):
        load_model("model.safetensors.index.json")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
def test_weights_go_into_a_factorys_model_whatever_wrapped_it(folder, prefix):
    given = load_model("models.py:build", seed=5).make().state_dict()
    torch.save({"model": {prefix + key: value for key, value in given.items()}}, "w.pt")
    made = load_model("models.py:build", weights="w.pt").make()
    assert all(torch.equal(value, given[key]) for key, value in made.state_dict().items())


def test_weights_go_in_part_by_part_and_all_arrive(folder, monkeypatch):
    from safetensors.torch import save_file

    from nndiag.load import fitting

    layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)), nn.BatchNorm1d(64))
    save_file(layers.state_dict(), "w.safetensors")
    monkeypatch.setattr(fitting, "_AT_ONCE", 3 * 64 * 64 * 4)
    held = []
    load = nn.Module.load_state_dict
    monkeypatch.setattr(
        nn.Module, "load_state_dict", lambda self, state, **k: (held.append(len(state)), load(self, state, **k))
    )
    made = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)), nn.BatchNorm1d(64))
    fitting.fitted_weights(made, load_weights("w.safetensors"))
    assert len(held) > 1
    assert all(torch.equal(value, layers.state_dict()[name]) for name, value in made.state_dict().items())


def test_weights_that_do_not_fit_name_the_keys(folder):
    torch.save(
        {"0.weight": torch.ones(8, 5), "0.bias": torch.ones(8), "2.bias": torch.ones(2), "9.bias": torch.ones(1)},
        "w.pt",
    )
    with pytest.raises(NndiagError) as caught:
        load_model("models.py:build", weights="w.pt").make()
    for word in ("2.weight", "9.bias", "(8, 5)", "(8, 4)"):
        assert word in caught.value.message


def test_a_pickled_module_is_refused_with_what_it_holds_and_read_when_trusted(folder):
    torch.save(nn.Linear(2, 2), "m.pt")
    with pytest.raises(NndiagError, match=r"holds pickled objects.*torch\.nn\.modules\.linear\.Linear") as caught:
        load_model("m.pt")
    assert "2 tensors: weight 2x2, bias 2" in caught.value.message
    assert "--trust" in caught.value.hint
    assert load_model("m.pt", trust=True).make().in_features == 2


def test_code_in_a_pickle_does_not_run(folder):
    class Bomb:
        def __reduce__(self):
            return (open, ("burst", "w"))

    torch.save({"w": torch.ones(1), "x": Bomb()}, "m.pt")
    with pytest.raises(NndiagError, match="pickled objects"):
        load_model("m.pt")
    assert not Path("burst").exists()


def test_a_flipped_byte_is_found_by_its_checksum(folder):
    torch.save({"w": torch.arange(4096.0)}, "w.pt")
    raw = bytearray(Path("w.pt").read_bytes())
    with zipfile.ZipFile("w.pt") as archive:
        place = next(item.header_offset for item in archive.infolist() if item.filename.endswith("data/0"))
    raw[place + 4000] ^= 1
    Path("w.pt").write_bytes(raw)
    with pytest.raises(NndiagError, match="damaged"):
        load_model("w.pt")


def test_a_tensor_that_claims_more_than_it_holds_is_refused(folder):
    torch.save({"w": torch.zeros(1).expand(10**9)}, "w.pt")
    with pytest.raises(NndiagError, match="claims 4000000000 bytes"):
        load_model("w.pt")


@pytest.mark.parametrize(("name", "content"), [("w.pt", b"hello, no weights"), ("w.safetensors", b"\x10" + b"\0" * 7 + b"{}"), ("w.pth", b"PK\x03\x04broken"), ("w.ckpt", b"\x80\x02\x8a\nl")])  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_an_error_in_two_lines(folder, name, content):
    Path(name).write_bytes(content)
    with pytest.raises(NndiagError) as caught:
        load_model(name)
    assert name in caught.value.message
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_runs_only_when_trusted(folder):
    torch.jit.script(nn.Linear(2, 2)).save("s.pt")
    with pytest.raises(NndiagError, match="TorchScript") as caught:
        load_model("s.pt")
    assert "--trust" in caught.value.hint
    assert load_model("s.pt", trust=True).make()(torch.ones(1, 2)).shape == (1, 2)


# Hugging Face.


@pytest.mark.filterwarnings("ignore")
def test_a_config_gives_the_architecture_it_names_with_random_weights(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, architectures=["BertForSequenceClassification"])  # fmt: skip
    config.save_pretrained("bert")
    source = load_model("bert")
    assert type(source.make()).__name__ == "BertForSequenceClassification"
    assert fingerprint(source.make()) == fingerprint(source.make())
    assert source.note == "random weights"
    model = source.make()
    model.classifier.weight.data.fill_(7)
    model.save_pretrained("bert")
    assert load_model("bert").make().classifier.weight.unique().tolist() == [7.0]


def test_a_config_that_wants_its_own_code_is_refused(folder):
    pytest.importorskip("transformers")
    Path("odd").mkdir()
    Path("odd/config.json").write_text(json.dumps({"model_type": "odd", "auto_map": {"AutoModel": "modeling.Odd"}}))
    Path("odd/modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(NndiagError, match=r"wants its own code to run: modeling\.Odd") as caught:
        load_model("odd")
    assert "--trust" in caught.value.hint


# Inputs that are invented.


@pytest.mark.filterwarnings("ignore")
def test_a_lazy_model_takes_its_shapes_and_is_equal_at_every_make():
    subject = load_subject(lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), run=Run())
    assert subject.data.synthetic
    assert fingerprint(subject.model.make()) == fingerprint(subject.model.make())
    assert subject.model.make()(next(subject.data.batches()).inputs).shape[1] == 2


def test_shapes_without_numbers_take_weights_and_are_refused_without(folder):
    (folder / "bare.py").write_text(
        "import torch\nfrom torch import nn\n\ndef build():\n    with torch.device('meta'):\n"
        "        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))\n"
        "    model[1].weight = model[0].weight\n    return model\n"
    )
    with pytest.raises(NndiagError, match=r"is on the meta device: 0\.weight hold"):
        load_subject("bare.py:build")
    save_file({"0.weight": torch.eye(4)}, "w.safetensors")
    model = load_model("bare.py:build", weights="w.safetensors").make()
    assert model[1].weight is model[0].weight
    assert torch.equal(model[1].weight, torch.eye(4))


def test_weights_with_nan_are_refused_and_infinities_are_not():
    model = nn.Linear(4, 2)
    model.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)
    load_subject(model, torch.ones(4, 4))
    model.weight.data[0, 1] = torch.nan
    with pytest.raises(NndiagError, match="1 tensor of Linear with NaN: weight"):
        load_subject(model, torch.ones(4, 4))


def test_an_index_that_names_a_missing_shard_is_a_damaged_file(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    with pytest.raises(NndiagError, match=r"names one\.safetensors, which is not beside it") as caught:
        load_model("model.safetensors.index.json")
    assert caught.value.exit_code == 3


def test_a_trusted_pickled_module_is_a_model(folder):
    code = "import torch, models; torch.save({'model': models.build(), 'epoch': 3}, 'whole.pt')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    with pytest.raises(NndiagError, match="pickled objects"):
        load_model("whole.pt")
    assert load_model("whole.pt", trust=True).make()(torch.ones(1, 4)).shape == (1, 2)


def test_what_stands_in_a_file_decides_and_not_its_name(folder):
    torch.save(nn.Linear(2, 2).state_dict(), "named.safetensors")
    assert set(load_model("named.safetensors").shapes) == {"weight", "bias"}
