"""DATA: what training code would have got, batch by batch, the same at every reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
from nndiag.core.subject import Training
from nndiag.lab.forward import tensors_in
from nndiag.load.data import data_of, load_data
from nndiag.load.invented.invent import invent
from nndiag.load.subject import load_subject

X, Y = torch.arange(40.0).reshape(10, 4), torch.arange(10) % 3


class Items(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"x": X[index], "label": int(Y[index])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def generate():
    for start in (0, 5):
        yield X[start : start + 5], Y[start : start + 5]


KINDS = {
    "pair": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "columns": {"x": X, "y": Y},
    "data set": TensorDataset(X, Y),
    "items": Items(),
    "stream": Stream(),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=4),
    "batches": [(X[:5], Y[:5]), (X[5:], Y[5:])],
    "samples": [(X[i], int(Y[i])) for i in range(10)],
    "generator function": generate,
    "generator": generate(),
    "factory": lambda: DataLoader(TensorDataset(X, Y), batch_size=5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_rows_at_every_reading(kind):
    source = data_of(KINDS[kind], model=nn.Linear(4, 3), batch_size=5)
    for _ in range(2):
        batches = list(source.batches())
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), X)
        assert torch.equal(torch.cat([torch.as_tensor(batch.targets) for batch in batches]), Y)


def test_a_shuffling_loader_gives_the_same_order_at_every_reading_and_disturbs_no_draw():
    source = data_of(DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, generator=torch.Generator()))
    state = torch.get_rng_state()
    first, again = ([batch.targets.tolist() for batch in source.batches()] for _ in range(2))
    assert first == again
    assert torch.equal(state, torch.get_rng_state())


def test_a_forward_with_two_arguments_gets_both():
    pair = data_of([(X, X, Y)], model=nn.Bilinear(4, 4, 2))
    batch = next(pair.batches())
    assert len(batch.inputs) == 2
    assert torch.equal(batch.targets, Y)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["d.npz", "two.npz", "d.safetensors"])
def test_files_of_arrays_give_inputs_and_targets(folder, name):
    from safetensors.torch import save_file

    np.savez("d.npz", y=Y.numpy(), x=X.numpy())
    np.savez("two.npz", first=X.numpy(), second=Y.numpy())
    save_file({"x": X, "y": Y}, "d.safetensors")
    batches = list(load_data(name, batch_size=4).batches())
    assert [len(batch.inputs) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.targets for batch in batches]), Y)


def test_a_table_gives_its_target_column_as_class_ids(folder):
    rows = "\n".join(f"{a},{b},{label}" for (a, b), label in zip(X[:, :2].tolist(), Y.tolist(), strict=True))
    Path("d.csv").write_text(f"a,b,label\n{rows}\n")
    batch = next(load_data("d.csv").batches())
    assert torch.equal(batch.inputs, X[:, :2].double())
    assert torch.equal(batch.targets, Y)
    named = next(load_data("d.csv", column="b").batches())
    assert named.inputs.shape == (10, 2)
    with pytest.raises(UsageError, match="no column 'lable'"):
        load_data("d.csv", column="lable")


def test_an_image_folder_gives_scaled_images_by_class(folder):
    image = pytest.importorskip("PIL.Image")
    for name, value in (("cats", 255), ("dogs", 0)):
        Path("im", name).mkdir(parents=True)
        image.new("RGB", (6, 5), (value, 0, 0)).save(f"im/{name}/1.png")
    batch = next(load_data("im").batches())
    assert batch.inputs.shape == (2, 3, 5, 6)
    assert (batch.inputs.amax((1, 2, 3)).tolist(), batch.targets.tolist()) == ([1.0, 0.0], [0, 1])


def test_synthetic_data_are_what_they_say_at_every_reading():
    source = load_data("synthetic:normal,shape=3x8x8,classes=10,n=64", batch_size=16)
    first, again = (list(source.batches()) for _ in range(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors_in([b.inputs for b in first]), tensors_in([b.inputs for b in again]), strict=True)
    )
    assert first[0].inputs.shape == (16, 3, 8, 8)
    assert 0 <= first[0].targets.min() <= first[0].targets.max() < 10
    assert len(first) == 4


@pytest.mark.parametrize(
    "target", ["synthetic:nromal", "synthetic:normal,shpe=3", "synthetic:normal,shape=axb", "gone.npy"]
)
def test_a_target_that_does_not_exist_is_a_usage_error_with_a_hint(folder, target):
    with pytest.raises(UsageError) as caught:
        load_data(target)
    assert caught.value.hint


def test_empty_data_are_nothing_to_judge(folder):
    with pytest.raises(NothingApplicableError):
        list(data_of([]).batches())
    np.save("e.npy", np.zeros((0, 3)))
    with pytest.raises(NothingApplicableError):
        list(load_data("e.npy").batches())


def test_what_is_no_data_is_an_error():
    with pytest.raises(NndiagError, match="not data"):
        data_of(3)


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), torch.nn.ReLU, lambda: torch.nn.Linear(2, 2)])
def test_a_model_where_data_was_expected_is_said_to_be_one(thing):
    with pytest.raises(NndiagError, match="is a model where data was expected"):
        list(data_of(thing).batches())


def test_a_failing_data_set_names_the_users_line():
    class Broken(Items):
        def __getitem__(self, index):
            raise KeyError(index)

    with pytest.raises(NndiagError, match=r"KeyError.*test_data\.py:\d+"):
        list(data_of(Broken()).batches())


def test_data_that_the_model_does_not_take_is_an_error_with_both_sides():
    with pytest.raises(NndiagError, match="does not run on the data"):
        load_subject(nn.Linear(5, 2), (X, Y))


def test_integers_are_made_floats_where_the_model_takes_no_integers_and_that_is_said():
    subject = load_subject(nn.Linear(4, 3), (X.long(), Y))
    assert "integers as float32" in subject.data.name
    assert next(subject.data.batches()).inputs.is_floating_point()


def test_the_users_file_says_how_he_trains(folder):
    Path("mine.py").write_text(
        "from torch import nn\n"
        "lr, batch_size, steps = 0.3, 7, 11\n"
        "optimizer = {'name': 'adamw', 'weight-decay': 0.2}\n"
        "def loss(outputs, targets):\n    return nn.functional.cross_entropy(outputs, targets)\n"
        "def build():\n    return nn.Linear(4, 3)\n"
    )
    training = load_subject("mine.py:build").training
    assert (training.lr, training.batch_size, training.steps, training.optimizer) == (0.3, 7, 11, "adamw")
    assert training.optimizer_args == {"weight_decay": 0.2}
    assert training.loss.__name__ == "loss"
    asked = load_subject("mine.py:build", lr=0.1, loss="cross_entropy", optimizer="sgd").training
    assert (asked.lr, asked.loss, asked.optimizer) == (0.1, "cross_entropy", "sgd")


# Invented inputs.

MAKERS = {
    "a perceptron": (lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)), (20,)),
    "a convolution on 28 pixels": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 3)), (1, 28, 28)),
    "a recurrent net": (lambda: nn.LSTM(6, 4, batch_first=True), (16, 6)),
    "flattened images": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), (784,)),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_inputs_are_invented_from_the_layers_and_named(name):
    build, shape = MAKERS[name]
    subject = load_subject(build)
    assert subject.data.synthetic
    assert next(subject.data.batches()).inputs.shape[1:] == shape
    assert subject.data.name.startswith("invented inputs: ")


def test_a_forward_that_fails_for_its_own_reasons_is_an_error_and_one_that_fits_nothing_a_reason():
    class Typo(nn.Linear):
        def forward(self, x):
            return x + missing  # noqa: F821 - the user's mistake

    class Choosy(nn.Linear):
        def forward(self, x):
            return x @ torch.ones(99, 1) @ torch.ones(98, 1)

    class Refuses(nn.Linear):
        def forward(self, x):
            raise ValueError("boom")

    with pytest.raises(NndiagError, match="NameError"):
        load_subject(lambda: Typo(2, 2))
    with pytest.raises(NndiagError, match=r"ValueError: boom \(.*test_data\.py:\d+\)"):
        load_subject(lambda: Refuses(2, 2))
    subject = load_subject(lambda: Choosy(2, 2))
    assert subject.data is None
    assert "cannot be multiplied" in subject.no_data


@pytest.mark.filterwarnings("ignore")
def test_arguments_that_a_model_by_name_needs_beside_its_main_one_are_invented_too():
    transformers = pytest.importorskip("transformers")
    config = transformers.DecisionTransformerConfig(state_dim=5, act_dim=2, hidden_size=16, n_layer=1, n_head=1)
    data = invent(transformers.DecisionTransformerModel(config), Training()).data
    assert data is not None
    inputs = next(iter(data.batches())).inputs
    assert inputs["states"].shape[1:] == (16, 5)
    assert inputs["actions"].shape[1:] == (16, 2)
