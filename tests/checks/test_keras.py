"""A Keras model gets the verdicts and the numbers that its torch twin gets; faults planted in Keras are found."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from nndiag.cli.app import main  # noqa: E402 - after the backend is chosen

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras talks about its own future

L = keras.layers

TWIN = """
import numpy, torch
from collections import OrderedDict
from torch import nn

def build():
    held = numpy.load("twin.npz")
    model = nn.Sequential(OrderedDict([
        ("hidden", nn.Linear(16, 32)), ("hidden/relu", nn.ReLU()), ("drop", nn.Dropout(0.5)),
        ("norm", nn.BatchNorm1d(32, eps=1e-3, momentum=0.01)), ("second", nn.Linear(32, 32)), ("act", nn.Tanh()),
        ("head", nn.Linear(32, 3)),
    ]))
    model.load_state_dict({key: torch.as_tensor(held[key]) for key in held.files}, strict=False)
    return model
"""


def small():
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((16,)),
            L.Dense(32, activation="relu", name="hidden"),
            L.Dropout(0.5, name="drop"),
            L.BatchNormalization(name="norm"),
            L.Dense(32, name="second"),
            L.Activation("tanh", name="act"),
            L.Dense(3, name="head"),
        ]
    )


def examined(arguments, capfd):
    """Run a command and return its document."""
    capfd.readouterr()
    code = main([*arguments, "-f", "json", "--no-progress"])
    out, err = capfd.readouterr()
    assert code in (0, 1), err
    return json.loads(out)


def parts(document, key):
    """Return all records under a key, wherever the document keeps them."""
    if isinstance(document, dict):
        own = document[key] if isinstance(document.get(key), list) else []
        return own + [item for name, value in document.items() if name != key for item in parts(value, key)]
    return [item for value in document for item in parts(value, key)] if isinstance(document, list) else []


def found(document):
    return {(item["code"], (item.get("where") or {}).get("module")) for item in parts(document, "findings")}


def numbers(document):
    return [(item["name"], item.get("where"), item["value"]) for item in parts(document, "measurements")]


@pytest.fixture
def data(clean_environment):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(512, 16)).astype("float32")
    np.savez("train.npz", x=x, y=(x @ generator.normal(size=(16, 3))).argmax(1))
    return "train.npz"


@pytest.mark.parametrize(
    "command", [["check-dropout"], ["init-symmetry"], ["check-normalization", "--lr", "0.01"]], ids=lambda item: item[0]
)
def test_the_twin_gets_the_same_verdicts_and_numbers(command, data, clean_environment, capfd):
    model = small()
    model.save("model.keras")
    held = {}
    for name in ("hidden", "second", "head"):
        kernel, bias = model.get_layer(name).get_weights()
        held |= {f"{name}.weight": kernel.T, f"{name}.bias": bias}
    np.savez("twin.npz", **held)
    (clean_environment / "twin.py").write_text(TWIN)
    theirs = examined([command[0], "model.keras", data, *command[1:]], capfd)
    mine = examined([command[0], "twin.py:build", data, *command[1:]], capfd)
    assert found(theirs) == found(mine)
    assert len(numbers(theirs)) == len(numbers(mine)) > 0
    for left, right in zip(numbers(theirs), numbers(mine), strict=True):
        assert left[:2] == right[:2]
        if left[2] != right[2]:
            assert left[2] == pytest.approx(right[2], rel=1e-4, abs=1e-4)


def test_dropout_before_batch_norm_is_found(clean_environment, capfd):
    small().save("model.keras")
    document = examined(["check-dropout", "model.keras"], capfd)
    assert ("DRP105", "drop") in found(document)


def test_dropout_behind_batch_norm_is_quiet(clean_environment, capfd):
    keras.Sequential(
        [keras.Input((16,)), L.Dense(32), L.BatchNormalization(), L.ReLU(), L.Dropout(0.3), L.Dense(3)]
    ).save("model.keras")
    document = examined(["check-dropout", "model.keras"], capfd)
    assert not {code for code, _ in found(document)} & {"DRP101", "DRP102", "DRP105"}


def test_hard_wired_dropout_is_found(clean_environment, capfd):
    given = keras.Input((16,))
    x = L.Dropout(0.3, name="stuck")(L.Dense(32, activation="relu")(given), training=True)
    keras.Model(given, L.Dense(3)(x)).save("model.keras")
    assert ("DRP101", "stuck") in found(examined(["check-dropout", "model.keras"], capfd))


def test_zero_kernels_are_found(clean_environment, capfd):
    keras.Sequential(
        [
            keras.Input((16,)),
            L.Dense(32, activation="tanh", kernel_initializer="zeros", name="hidden"),
            L.Dense(3, kernel_initializer="zeros", name="head"),
        ]
    ).save("model.keras")
    sick = found(examined(["init-symmetry", "model.keras"], capfd))
    assert any(code.startswith("SYM") and module in {"hidden", "head"} for code, module in sick)


def test_equal_units_of_a_dense_layer_are_found(clean_environment, capfd):
    ones = {"kernel_initializer": keras.initializers.Constant(0.1)}
    keras.Sequential(
        [
            keras.Input((16,)),
            L.Dense(32, activation="tanh", name="hidden", **ones),
            L.Dense(3, name="head", **ones),
        ]
    ).save("model.keras")
    sick = found(examined(["init-symmetry", "model.keras"], capfd))
    assert any(code.startswith("SYM") and module == "hidden" for code, module in sick)


@pytest.mark.parametrize("kind", ["dense", "image", "words"])
def test_healthy_models_start_with_different_units(kind, clean_environment, capfd):
    keras.utils.set_random_seed(1)
    layers = {
        "dense": [keras.Input((16,)), L.Dense(32, activation="relu"), L.Dense(3)],
        "image": [keras.Input((12, 12, 3)), L.Conv2D(8, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(),
                  L.Dense(3)],
        "words": [keras.Input((12,), dtype="int32"), L.Embedding(50, 16), L.LSTM(8), L.Dense(2)],
    }  # fmt: skip
    keras.Sequential(layers[kind]).save("model.keras")
    errors = [item for item in parts(examined(["init-symmetry", "model.keras"], capfd), "findings")
              if item["severity"] == "error"]  # fmt: skip
    assert not errors


def test_unscaled_inputs_are_found(clean_environment, capfd):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (512, 16)).astype("float32")
    np.savez("pixels.npz", x=pixels, y=generator.integers(0, 3, 512))
    keras.Sequential([keras.Input((16,)), L.Dense(32, activation="relu"), L.Dense(3)]).save("raw.keras")
    keras.Sequential([keras.Input((16,)), L.Rescaling(1 / 127.5, -1), L.Dense(32, activation="relu"), L.Dense(3)]).save(
        "scaled.keras"
    )
    raw = found(examined(["check-normalization", "raw.keras", "pixels.npz", "--lr", "0.1"], capfd))
    scaled = found(examined(["check-normalization", "scaled.keras", "pixels.npz", "--lr", "0.1"], capfd))
    assert {code for code, _ in raw} - {code for code, _ in scaled}


def test_an_embedding_is_named(clean_environment, capfd):
    keras.Sequential(
        [keras.Input((12,)), L.Embedding(5000, 16, name="words"), L.GlobalAveragePooling1D(), L.Dense(2)]
    ).save("model.keras")
    document = examined(["embedding-cost", "model.keras", "--max-seconds", "1"], capfd)
    assert "words" in json.dumps(document)


def test_a_factory_of_a_keras_model_is_examined(clean_environment, capfd):
    (clean_environment / "net.py").write_text(
        "import keras\n"
        "def build():\n"
        "    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(64, activation='relu'),\n"
        "        keras.layers.Dropout(0.8, name='drop'), keras.layers.BatchNormalization(), keras.layers.Dense(3)])\n"
    )
    assert ("DRP105", "drop") in found(examined(["check-dropout", "net.py:build"], capfd))


def test_a_finding_points_at_the_line_that_built_the_layer(clean_environment, capfd):
    (clean_environment / "net.py").write_text(
        "import keras\n"
        "from keras import layers\n"
        "class Net(keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.hidden = layers.Dense(64, activation='relu')\n"
        "        self.drop = layers.Dropout(0.8)\n"
        "        self.norm = layers.BatchNormalization()\n"
        "        self.head = layers.Dense(3)\n"
        "    def call(self, x, training=None):\n"
        "        x = self.drop(self.hidden(x), training=training)\n"
        "        return self.head(self.norm(x, training=training))\n"
    )
    np.save("x.npy", np.random.default_rng(0).normal(size=(256, 16)).astype("float32"))
    document = examined(["check-dropout", "net.py:Net", "x.npy"], capfd)
    (where,) = [item["where"] for item in parts(document, "findings") if item["code"] == "DRP105"]
    assert (where["file"], where["line"], where["module"]) == ("net.py", 7, "drop")
