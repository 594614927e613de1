"""Inputs for models that came without data: what their forwards were seen to take."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.subject import Training
from nndiag.lab.borrow import fingerprint
from nndiag.lab.forward import call, main_output
from nndiag.load.invented.invent import invent
from nndiag.load.invented.repairs import other_shapes


class TwoTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items, self.score = nn.Embedding(5, 4), nn.Embedding(7, 4), nn.Linear(4 + 4 + 3, 1)

    def forward(self, user, item, context):
        return self.score(torch.cat([self.users(user), self.items(item), context], -1)).squeeze(-1)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.eye, self.body, self.policy = nn.Conv2d(3, 4, 3), nn.Linear(6, 4), nn.Linear(8, 2)

    def forward(self, obs):
        seen = self.eye(obs["image"].permute(0, 3, 1, 2)).mean((2, 3))
        return self.policy(torch.cat([seen, self.body(obs["vector"])], -1))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.time, self.text = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(16, 8), nn.Linear(5, 8)

    def forward(self, x, t, *, context):
        angle = t.float()[:, None] * torch.ones(8)[None]
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        return self.enter(x) + (time + self.text(context).mean(1))[:, :, None, None]


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(9, 4)), nn.Linear(4, 2)

    def forward(self, data):
        x, (source, target) = data.x @ self.weight, data.edge_index
        return self.head(torch.zeros_like(x).index_add(0, target, x[source]))


class Columns(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 2) for size in (3, 50, 4))
        self.head = nn.Linear(6 + 2, 1)

    def forward(self, dense, sparse):
        return self.head(torch.cat([dense, *(table(sparse[:, i]) for i, table in enumerate(self.tables))], 1))


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, 2)

    def forward(self, *, ids, mask):
        return self.head((self.table(ids) * mask[..., None]).sum(1))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts, self.head = nn.ModuleList(nn.Linear(size, 4) for size in (3, 5)), nn.Linear(8, 2)

    def forward(self, xs):
        return self.head(torch.cat([part(x) for part, x in zip(self.parts, xs, strict=True)], 1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 8), nn.Linear(8, 2)

    def forward(self, x, state):
        state = self.cell(x, state)
        return self.head(state), state


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.positions, self.head = nn.Embedding(9, 4), nn.Parameter(torch.zeros(1, 21, 4)), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.head((self.table(tokens) + self.positions).mean(1))


class Choice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(17 + 6, 1)

    def forward(self, state, action):
        return self.body(torch.cat([state, action], -1))


SHAPES = {
    TwoTower: {"user": (), "item": (), "context": (3,)},
    Agent: {"image": (32, 32, 3), "vector": (6,)},
    Denoiser: {"x": (3, 32, 32), "t": (), "context": (16, 5)},
    Columns: {"dense": (2,), "sparse": (3,)},
    Keywords: {"ids": (16,), "mask": (16,)},
    Recurrent: {"x": (6,), "state": (8,)},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_argument_gets_what_the_layer_behind_it_reads(kind):
    data = invent(kind(), Training()).data
    inputs = next(data.batches(8)).inputs
    assert {name: tuple(value.shape[1:]) for name, value in inputs.items()} == SHAPES[kind]
    assert main_output(call(kind(), inputs)).isfinite().all()


def test_every_table_gets_ids_of_its_own():
    inputs = next(invent(Columns(), Training()).data.batches(256)).inputs
    assert [int(column.max()) for column in inputs["sparse"].T] == [2, pytest.approx(49, abs=3), 3]


def test_a_graph_is_nodes_and_edges_that_belong_together():
    batch = next(invent(Graph(), Training()).data.batches(8))
    assert batch.whole
    assert batch.inputs.x.shape == (8, 9)
    assert batch.inputs.edge_index.shape[0] == 2
    assert int(batch.inputs.edge_index.max()) < 8


def test_lists_have_an_item_for_each_part():
    inputs = next(invent(Lists(), Training()).data.batches(8)).inputs
    assert [tuple(item.shape) for item in inputs] == [(8, 3), (8, 5)]


def test_joined_arguments_share_the_width_of_the_layer_that_reads_them():
    inputs = next(invent(Choice(), Training()).data.batches(8)).inputs
    assert inputs["state"].shape[1] + inputs["action"].shape[1] == 23


def test_sequences_are_as_long_as_the_table_of_positions():
    assert next(invent(Positions(), Training()).data.batches(8)).inputs.shape == (8, 21)


@pytest.mark.parametrize(("side", "kernel"), [(28, 5), (32, 3), (84, 4), (100, 7), (224, 32)])
def test_images_get_the_size_that_the_flattened_layer_wants(side, kernel):
    stem = nn.Sequential(nn.Conv2d(1, 4, kernel), nn.ReLU(), nn.MaxPool2d(2))
    width = stem(torch.ones(1, 1, side, side)).numel()
    model = nn.Sequential(*stem, nn.Flatten(), nn.Linear(width, 3))
    inputs = next(invent(model, Training()).data.batches(2)).inputs
    assert model(inputs).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripted_layers_still_tell_their_sizes():
    model = torch.jit.script(nn.Sequential(nn.Linear(11, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert next(invent(model, Training()).data.batches(8)).inputs.shape == (8, 11)


def test_a_decoder_is_taught_the_next_of_its_own_tokens():
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target, self.head = nn.Embedding(9, 8), nn.Embedding(13, 8), nn.Linear(8, 13)

        def forward(self, src, tgt):
            return self.head(self.target(tgt) + self.source(src).mean(1, keepdim=True))

    batch = next(invent(Translator(), Training()).data.batches(8))
    assert torch.equal(batch.targets[:, :-1], batch.inputs["tgt"][:, 1:])


def test_reading_a_forward_changes_nothing():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.layer = 0, nn.Linear(5, 2)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen += 1
            self.kept = x
            return functional.dropout(self.layer(x), 0.5, self.training)

    model = Counting()
    before, drawn = fingerprint(model), torch.get_rng_state()
    assert invent(model, Training()).data is not None
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (model.calls, hasattr(model, "kept")) == (0, False)


def test_the_reason_for_having_no_inputs_is_that_of_the_guess_that_came_furthest():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.deep = nn.Embedding(9, 4), nn.Linear(4, 4)

        def forward(self, ids):
            h = self.deep(self.deep(self.table(ids)))
            return h @ torch.ones(5, 1) @ torch.ones(3, 1)

    found = invent(Picky(), Training())
    assert found.data is None
    assert "give DATA" in found.why
    assert "16 ids below 9 came furthest" in found.why


def test_a_wrong_guess_never_takes_gigabytes():
    class Enlarging(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x):
            if x.shape[-1] == 16:
                return self.layer(x.repeat(1 << 12, 1 << 12)[:4, :16])
            raise RuntimeError("no")

    assert "GiB" in invent(Enlarging(), Training()).why


@pytest.mark.parametrize(
    ("sample", "said", "first"),
    [
        ((3, 32, 32), "mat1 and mat2 shapes cannot be multiplied (4x4096 and 3136x10)", (3, 28, 28)),
        ((3, 32, 32), "The size of tensor a (5) must match the size of tensor b (197) at dimension 1", (3, 224, 224)),
        ((20,), "mat1 and mat2 shapes cannot be multiplied (4x20 and 30x10)", (30,)),
        ((1, 28, 28), "expected input[4, 1, 28, 28] to have 3 channels, but got 1 channels instead", (3, 28, 28)),
        ((3, 64, 64), "Input height (64) doesn't match model (224).", (3, 224, 224)),
        ((2, 16), "Calculated padded input size: (16). Kernel size can't be greater than actual", (2, 32)),
    ],
)
def test_errors_that_compare_two_sizes_tell_the_right_one(sample, said, first):
    assert next(other_shapes(sample, said)) == first
