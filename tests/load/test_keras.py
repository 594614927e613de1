"""Keras models of every kind of layer become torch models that compute the same, under the same names."""

from __future__ import annotations

import os
import zipfile

import pytest
import torch
from torch import nn

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from nndiag.core.errors import NndiagError  # noqa: E402 - after the backend is chosen
from nndiag.lab.copying import private_copy as copied  # noqa: E402 - see above
from nndiag.lab.keras.translate import translated  # noqa: E402 - see above
from nndiag.load.keras_config import check_file, strangers  # noqa: E402 - see above
from nndiag.load.model import load_model, source_of  # noqa: E402 - see above

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras talks about its own future

L = keras.layers


def stack(shape, *layers, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def shaken(model):
    """Give every weight a value that shows when it lands in the wrong place."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.weights:
        if "int" in str(weight.dtype):
            continue
        value = 0.3 * torch.randn(tuple(weight.shape), generator=generator)
        weight.assign(value.abs() + 0.5 if "variance" in weight.path else value)
    return model


def dense():
    return stack(
        (8,), L.Dense(16, activation="relu"), L.Dropout(0.5), L.BatchNormalization(), L.Dense(3, activation="softmax")
    )


def image():
    return stack(
        (13, 12, 3), L.Rescaling(1 / 255, -0.5), L.Conv2D(4, 3, padding="same", activation="relu"),
        L.BatchNormalization(), L.MaxPooling2D(), L.SpatialDropout2D(0.2), L.Conv2D(6, 3, strides=2, padding="same"),
        L.PReLU(shared_axes=[1, 2]), L.DepthwiseConv2D(3, depth_multiplier=2), L.GroupNormalization(3), L.Flatten(),
        L.Dense(2),
    )  # fmt: skip


def separable():
    return stack(
        (13, 13, 3), L.SeparableConv2D(4, 3, strides=2, padding="same"), L.AveragePooling2D(3, 2, padding="same"),
        L.Conv2DTranspose(4, 3, strides=2, padding="same"), L.MaxPooling2D(2, padding="same"), L.UpSampling2D(),
        L.ZeroPadding2D(1), L.Cropping2D(((1, 0), (0, 2))), L.GlobalAveragePooling2D(),
    )  # fmt: skip


def words():
    return stack(
        (7,), L.Embedding(20, 6), L.SpatialDropout1D(0.1), L.LSTM(5, return_sequences=True), L.Bidirectional(L.GRU(4)),
        L.Dense(1, activation="sigmoid"),
    )  # fmt: skip


def series():
    return stack(
        (20, 3), L.Conv1D(4, 3, padding="causal", dilation_rate=2), L.LayerNormalization(),
        L.SimpleRNN(3, return_sequences=True, dropout=0.1), L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.TimeDistributed(L.Dense(2, activation="gelu")), L.GlobalMaxPooling1D(),
    )  # fmt: skip


def volume():
    return stack(
        (6, 6, 6, 1), L.Conv3D(2, 3, activation="elu"), L.MaxPooling3D(), L.BatchNormalization(), L.Reshape((4, 4)),
        L.Permute((2, 1)), L.Flatten(), L.RepeatVector(3), L.GaussianDropout(0.2), L.GaussianNoise(0.1),
        L.AlphaDropout(0.1), L.RMSNormalization(),
    )  # fmt: skip


def attention():
    given = keras.Input((5, 8))
    x = L.Add()([L.MultiHeadAttention(2, 4, dropout=0.1)(given, given), given])
    x = keras.ops.relu(L.LayerNormalization()(x)) * 2 + given
    return keras.Model(given, L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True))


def two_inputs():
    left, right = keras.Input((8,)), keras.Input((3,))
    x = L.Dropout(0.3)(L.Concatenate()([L.Dense(4)(left), right]), training=True)
    return keras.Model([left, right], [L.Dense(2)(x), L.Dense(1)(x)])


def nested():
    given = keras.Input((8,))
    return keras.Model(given, L.Dense(4)(dense()(given)))


KINDS = [dense, image, separable, words, series, volume, attention, two_inputs, nested]


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_translation_computes_the_same(build):
    model = shaken(build())
    graph, _ = translated(model, "x")
    inputs = graph.example_inputs
    for module in graph.modules():
        if type(module).__name__ == "HardwiredDropout":
            module.p = 0.0
    with torch.no_grad():
        mine = graph.eval()(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        theirs = model(list(inputs) if isinstance(inputs, tuple) else inputs, training=False)
    for left, right in zip(
        mine if isinstance(mine, list) else [mine], theirs if isinstance(theirs, list) else [theirs], strict=True
    ):
        torch.testing.assert_close(left, right.detach().cpu(), atol=1e-4, rtol=1e-4)


def test_modules_carry_the_names_of_the_layers():
    model = stack((8,), L.Dense(4, activation="relu", name="hidden"), L.Dropout(0.5, name="drop"))
    names = dict(translated(model, "x")[0].named_modules())
    assert isinstance(names["hidden"], nn.Linear)
    assert isinstance(names["hidden/relu"], nn.ReLU)
    assert isinstance(names["drop"], nn.Dropout)


def test_a_batch_norm_moves_its_averages_as_far_as_keras_does():
    model = stack((4,), L.BatchNormalization(momentum=0.8, name="bn"))
    graph, _ = translated(model, "x")
    x = 3 + 2 * torch.randn(4096, 4, generator=torch.Generator().manual_seed(0))
    graph.train()(x)
    model(x, training=True)
    norm, kept = graph.get_submodule("bn"), model.get_layer("bn")
    torch.testing.assert_close(norm.running_mean, kept.moving_mean.value.detach().cpu(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, kept.moving_variance.value.detach().cpu(), atol=1e-3, rtol=1e-3)


def test_train_switches_the_mode():
    graph, _ = translated(stack((64,), L.Dropout(0.5)), "x")
    x = torch.ones(2, 64)
    assert torch.equal(graph.eval()(x), x)
    assert not torch.equal(graph.train()(x), x)


def test_a_frozen_batch_norm_stays_in_inference_mode():
    model = stack((4,), L.BatchNormalization(name="bn", trainable=False))
    graph, _ = translated(model, "x")
    norm = graph.train().get_submodule("bn")
    assert not norm.training
    assert not norm.weight.requires_grad


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_are_read(tmp_path, suffix):
    model = shaken(dense())
    path = str(tmp_path / f"model{suffix}")
    model.save(path)
    source = load_model(path)
    x = torch.randn(3, 8)
    torch.testing.assert_close(source.make().eval()(x), model(x, training=False).detach().cpu(), atol=1e-5, rtol=1e-4)
    assert source.where.file == path


def test_a_live_model_is_left_alone():
    model = dense()
    before = [weight.numpy().copy() for weight in model.weights]
    made = source_of(model).make()
    made.train()(torch.randn(8, 8))
    assert all((old == new.numpy()).all() for old, new in zip(before, model.weights, strict=True))


def test_a_file_with_code_is_refused_until_trusted(tmp_path):
    path = str(tmp_path / "model.keras")
    stack((4,), L.Lambda(lambda x: x * 2, name="twice")).save(path)
    with pytest.raises(NndiagError, match="Lambda layer 'twice'") as refused:
        load_model(path)
    assert "--trust" in refused.value.hint
    x = torch.randn(2, 4)
    torch.testing.assert_close(load_model(path, trust=True).make()(x), x * 2)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    dense().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(NndiagError, match="damaged"):
        load_model(str(path))
    path.write_bytes(bytes(value ^ 0xFF if index == len(data) // 2 else value for index, value in enumerate(data)))
    with pytest.raises(NndiagError):
        load_model(str(path))


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(NndiagError, match=r"config\.json"):
        load_model(str(path))


def test_weights_alone_are_refused(tmp_path):
    path = str(tmp_path / "model.weights.h5")
    dense().save_weights(path)
    with pytest.raises(NndiagError, match="weights without a model"):
        load_model(path)


def test_a_layer_without_counterpart_is_run_by_keras():
    model = stack((5, 3), L.LSTM(4, recurrent_dropout=0.5, name="odd"), L.Dense(2))
    graph, notes = translated(model, "x")
    assert notes == ["'odd' is run by Keras (LSTM with recurrent_dropout)"]
    x = torch.randn(3, 5, 3)
    torch.testing.assert_close(graph.eval()(x), model(x, training=False).detach().cpu())
    assert not torch.equal(graph.train()(x), graph(x))
    graph(x).sum().backward()
    assert all(item.grad is not None for item in graph.parameters())


def test_a_model_without_shape_is_refused():
    with pytest.raises(NndiagError, match="no input shape"):
        translated(keras.Sequential([L.Dense(3)]), "x")


class Net(keras.Model):
    """A subclassed model; `hidden` and `drop` are found by their attributes."""

    def __init__(self):
        super().__init__()
        self.hidden = L.Dense(16, activation="relu")
        self.drop = L.Dropout(0.5)
        self.blocks = [L.Dense(16), L.Dense(16)]
        self.norm = L.BatchNormalization()
        self.head = L.Dense(3)

    def call(self, x, training=None):
        x = self.drop(self.hidden(x), training=training)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x, training=training))


def built(model, *shapes):
    """Call it once, as training does."""
    model(*(torch.zeros(shape) for shape in shapes))
    return shaken(model)


def test_a_subclassed_model_is_followed_through_its_code():
    model = built(Net(), (2, 8))
    before = {id(layer): len(layer._inbound_nodes) for layer in model._flatten_layers()}
    graph, notes = translated(model, "x")
    assert not notes
    assert {"hidden", "hidden/relu", "drop", "blocks/0", "blocks/1", "norm", "head"} == {
        name for name, _ in graph.named_children()
    }
    x = torch.randn(4, 8)
    torch.testing.assert_close(graph.eval()(x), model(x, training=False).detach().cpu(), atol=1e-5, rtol=1e-4)
    assert not torch.equal(graph.train()(x), graph(x))
    assert before == {id(layer): len(layer._inbound_nodes) for layer in model._flatten_layers()}


class Forced(Net):
    """Drops whatever the mode, and holds its batch norm still."""

    def call(self, x):
        return self.head(self.norm(self.drop(self.hidden(x), training=True), training=False))


def test_modes_written_into_the_code_are_kept():
    graph, _ = translated(built(Forced(), (2, 8)), "x")
    graph.eval()
    assert not torch.equal(graph(torch.ones(64, 8)), graph(torch.ones(64, 8)))
    assert not graph.train().get_submodule("norm").training


class Torchish(Net):
    """Computes outside Keras, which cannot be followed with symbols."""

    def call(self, x, training=None):
        return self.head(self.norm(self.drop(torch.relu(self.hidden(x)), training=training), training=training))


class Branching(Net):
    """Another forward in training."""

    def call(self, x, training=None):
        x = self.hidden(x)
        return self.head(2 * x if training else x)


@pytest.mark.parametrize("kind", [Torchish, Branching])
def test_code_that_cannot_be_followed_is_run_on_torch_layers(kind):
    model = built(kind(), (2, 8))
    graph, notes = translated(model, "x")
    assert notes == [f"the code of {kind.__name__} is run by Keras on torch's layers"]
    made = copied(graph)
    x = torch.randn(4, 8)
    torch.testing.assert_close(made.eval()(x), model(x, training=False).detach().cpu(), atol=1e-5, rtol=1e-4)
    assert not torch.equal(made.train()(x), made.eval()(x))
    assert any(name.endswith("hidden") and isinstance(item, nn.Linear) for name, item in made.named_modules())
    made.train()(x).sum().backward()
    assert all(item.grad is not None for name, item in made.named_parameters() if "head" in name or "hidden" in name)
    assert made.double()(x.double()).dtype == torch.float64
    with torch.no_grad():
        for item in made.parameters():
            item.zero_()
    assert model(x).abs().sum() > 0


class Stuck(Torchish):
    """Drops in every mode, in code that cannot be followed."""

    def call(self, x, training=None):
        return self.head(self.drop(torch.relu(self.hidden(x)), training=True))


def test_a_mode_written_into_code_that_is_run_as_it_is_is_kept():
    graph, _ = translated(built(Stuck(), (2, 8)), "x")
    assert not torch.equal(graph.eval()(torch.ones(64, 8)), graph(torch.ones(64, 8)))


class Sampling(Net):
    """Draws in every mode, from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return self.head(self.hidden(x) + keras.random.normal((16,), seed=self.seeds))


def test_draws_of_keras_follow_the_seed_of_torch():
    graph, _ = translated(built(Sampling(), (2, 8)), "x")
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(graph.eval()(torch.ones(2, 8)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


class Scale(L.Layer):
    """A layer of the user's own with a weight of its own."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * self.gain


class Counting(Scale):
    """Changes a variable in each forward."""

    def build(self, shape):
        super().build(shape)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return super().call(x)


@pytest.mark.parametrize(("kind", "calls"), [(Scale, None), (Counting, 0.0)])
def test_layers_of_ones_own_keep_their_weights_and_gradients(kind, calls):
    model = shaken(stack((8,), L.Dense(6), kind(name="mine"), L.Dense(2)))
    graph = copied(translated(model, "x")[0])
    x = torch.randn(4, 8)
    torch.testing.assert_close(graph.eval()(x), model(x, training=False).detach().cpu())
    graph(x).sum().backward()
    assert dict(graph.named_parameters())["mine.gain"].grad is not None
    assert calls is None or dict(graph.named_buffers())["mine.calls"] > calls


def test_build_alone_is_enough():
    model = Net()
    model.build((None, 8))
    assert dict(source_of(model).make().named_modules())["hidden"].in_features == 8
    assert not model.hidden.built


def test_a_model_that_was_never_built_takes_its_shapes_from_the_data():
    model = Net()
    made = source_of(model).make()
    made.eval()(torch.zeros(4, 11))
    assert dict(made.named_modules())["hidden"].in_features == 11
    assert not model.built


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Dense", "module": "keras.layers", "config": {}, "registered_name": "pkg>Dense"},
        {"class_name": "TorchModuleWrapper", "module": "keras.layers", "config": {}},
        {"class_name": "function", "module": "keras.utils", "config": "get_file"},
        {"class_name": "function", "module": "os", "config": "system"},
        {"class_name": "NewLayer", "module": "keras.layers", "config": {}},
        {"class_name": "Net", "module": "net", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "…"}},
        {"class_name": "Net", "config": {}},
        {"class_name": ["Dense"], "module": "keras.layers"},
    ],
)
def test_only_known_names_are_let_through(layer):
    assert list(strangers({"config": {"layers": [layer]}}))


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_every_common_layer_is_known(build, tmp_path):
    path = str(tmp_path / "model.keras")
    build().save(path)
    check_file(path, trust=False)


class Positions(L.Layer):
    """Looks something up that depends on no input: a constant to whoever follows it with symbols."""

    def __init__(self, **more):
        super().__init__(**more)
        self.table = L.Embedding(5, 8)

    def call(self, x):
        return x + self.table(keras.ops.arange(5))


def test_weights_that_no_input_reaches_are_still_trained():
    graph, _ = translated(stack((5, 8), Positions(name="mine"), L.Dense(2)), "x")
    graph(torch.randn(2, 5, 8)).sum().backward()
    assert all(item.grad is not None for item in graph.parameters())


class LayerOfLayers(keras.layers.Layer):
    """A layer of layers whose code cannot be followed, in a model that can."""

    def __init__(self, **more):
        super().__init__(**more)
        self.table = L.Embedding(50, 8)
        self.parts = [L.Dense(8, activation="relu"), L.Dropout(0.5)]

    def call(self, x, training=None):
        x = torch.mean(self.table(x), 1)
        for part in self.parts:
            x = part(x, training=training) if isinstance(part, L.Dropout) else part(x)
        return x


def test_a_layer_that_cannot_be_followed_is_looked_into():
    model = keras.Sequential([keras.Input((6,), dtype="int32"), LayerOfLayers(name="mine"), L.Dense(2)])
    graph, notes = translated(model, "x")
    assert notes == ["'mine' is run by Keras (LayerOfLayers is a class of its own), its layers on torch's"]
    kinds = [type(module) for module in graph.get_submodule("mine").modules()]
    assert {torch.nn.Embedding, torch.nn.Linear, torch.nn.Dropout} <= set(kinds)
    made, x = copied(graph), torch.randint(0, 50, (4, 6))
    torch.testing.assert_close(made.eval()(x), model(x, training=False).detach().cpu(), atol=1e-5, rtol=1e-4)
    assert not torch.equal(made.train()(x), made(x))
