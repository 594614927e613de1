"""Finding tables without allocating them, watching lookups, shrinking, and what torch does with sparse gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.findings import Where
from nndiag.core.subject import Batch, Training
from nndiag.lab.embedding import tables as embedding
from nndiag.lab.embedding.bags import BagInstead
from nndiag.lab.embedding.cures import Patient, RowWiseAdagrad, rebuilt, run_bag
from nndiag.lab.embedding.ids import ZipfIds
from nndiag.lab.embedding.look import Looked, Trial
from nndiag.lab.embedding.model import build
from nndiag.lab.embedding.optim import route, try_dense, try_sparse
from nndiag.lab.embedding.step import forecast, sizes_to_try, time_table
from nndiag.lab.embedding.uses import watch_forward
from nndiag.lab.ranks import group_of_one
from nndiag.load.sources import BuiltModel

HUGE = 10**9


class Model(nn.Module):
    def __init__(self, rows=1000, tied=False, sparse=False):
        super().__init__()
        self.words = nn.Embedding(rows, 8, sparse=sparse, padding_idx=0)
        self.positions = nn.Embedding(64, 8)
        self.head = nn.Linear(8, rows if tied else 3)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device)))


def source(build_it):
    return BuiltModel("model", Where(), build_it, 0, "cpu")


def test_tables_of_half_a_terabyte_are_found_without_memory():
    model = embedding.skeleton(source(lambda: Model(HUGE)))
    words = embedding.take_inventory(model).tables[0]
    assert (words.name, words.rows, words.dim) == ("words", HUGE, 8)
    assert embedding.is_bare(model)


def test_a_tied_table_counts_once_and_names_its_other_use():
    inventory = embedding.take_inventory(Model(tied=True))
    assert inventory.tables[0].tied == ("head",)
    assert inventory.parameters == 1000 * 8 + 64 * 8 + 1000


def test_lookups_are_counted_on_shapes_alone():
    model = embedding.skeleton(source(lambda: Model(HUGE)))
    watch = watch_forward(model, torch.randint(0, 50, (4, 16)))
    assert {name: use.lookups for name, use in watch.uses.items()} == {"words.weight": 64, "positions.weight": 16}


@pytest.mark.parametrize("meta", [True, False])
def test_ids_outside_are_counted_and_do_not_stop_the_forward(meta):
    model = embedding.skeleton(source(Model)) if meta else Model()
    use = watch_forward(model, torch.tensor([[1, 2, 1000, -1]])).uses["words.weight"]
    assert (use.below, use.above, use.offenders) == (1, 1, (1000, -1))


def test_a_weight_that_is_also_multiplied_is_seen():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(100, 8)

        def forward(self, ids):
            return self.words(ids) @ self.words.weight.t()

    assert watch_forward(Tied(), torch.zeros(2, 3, dtype=torch.long)).uses["words.weight"].as_matrix


def test_one_hot_products_are_seen_through_casts():
    class Hot(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(300, 8)

        def forward(self, ids):
            return self.project(functional.one_hot(ids, 300).float())

    (hot,) = watch_forward(Hot(), torch.zeros(2, 3, dtype=torch.long)).one_hot
    assert (hot.weight, hot.classes, hot.outputs, hot.lookups) == ("project.weight", 300, 8, 6)


def test_a_model_is_built_with_fewer_rows_and_stays_tied():
    model = build(source(lambda: Model(HUGE, tied=True)), {HUGE: 50})
    assert model.words.num_embeddings == 50
    assert model.head.weight is model.words.weight
    assert nn.Embedding(7, 2).num_embeddings == 7  # the constructors are given back


SPARSE = {
    "adamw": (torch.optim.AdamW, {}, "refused"),
    "rmsprop": (torch.optim.RMSprop, {}, "refused"),
    "decayed sgd": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}, "refused"),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, "growing"),
    "sgd": (torch.optim.SGD, {"lr": 0.1}, ""),
    "adagrad": (torch.optim.Adagrad, {}, ""),
    "sparse adam": (torch.optim.SparseAdam, {}, ""),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients_are_tried(name):
    kind, options, fate = SPARSE[name]
    trial = try_sparse(lambda params: kind(params, **options))
    assert bool(trial.refused) == (fate == "refused")
    assert bool(trial.growing) == (fate == "growing")


def test_clipping_sparse_gradients_raises():
    assert "NotImplementedError" in try_sparse(torch.optim.SparseAdam, clip=1.0).clip_refused


def test_sparse_adam_refuses_dense_gradients():
    assert "dense" in try_dense(torch.optim.SparseAdam)
    assert try_dense(torch.optim.AdamW) == ""


def test_several_optimizers_of_a_function_are_kept():
    def split(model):
        return [torch.optim.SparseAdam([model.words.weight]), torch.optim.AdamW(model.head.parameters())]

    model = Model(sparse=True)
    routing = route(Training(optimizer=split), model)
    assert type(routing.of(id(model.words.weight))[0]).__name__ == "SparseAdam"
    assert type(routing.of(id(model.head.weight))[0]).__name__ == "AdamW"
    assert routing.of(id(model.positions.weight)) is None


def test_row_wise_adagrad_agrees_with_a_loop():
    table = nn.Embedding(6, 3, sparse=True, _weight=torch.ones(6, 3))
    optimizer = RowWiseAdagrad([table.weight], lr=0.1)
    expected, accumulated = torch.ones(6, 3), torch.zeros(6)
    for ids in ([1, 1, 4], [4, 0, 2]):
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            (table(torch.tensor(ids)) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
            optimizer.step()
        optimizer.zero_grad()
        for row in set(ids):
            grad = ids.count(row) * torch.tensor([1.0, 2.0, 3.0])
            accumulated[row] += grad.square().mean()
            expected[row] -= 0.1 * grad / (accumulated[row].sqrt() + 1e-8)
    assert torch.allclose(table.weight, expected)


def test_sizes_to_try_stay_below_the_table_and_the_memory():
    sizes = sizes_to_try(2_000_000, 256, 6)
    assert len(sizes) == 3
    assert max(sizes) * 256 * 6 <= 2**30
    assert max(sizes_to_try(10, 64, 6)) < 10


def test_sparse_steps_do_not_grow_with_the_table_and_dense_ones_do():
    sparse = Trial(16, torch.optim.SparseAdam, ZipfIds(256), sparse=True)
    dense = Trial(16, torch.optim.Adam, ZipfIds(256))
    slow = forecast(dense, 400_000, copies=6, seconds=1.0)
    fast = forecast(sparse, 400_000, copies=3, seconds=0.5)
    assert slow.seconds > 5 * fast.seconds
    assert slow.interval[0] <= slow.seconds <= slow.interval[1]


class Averaged(nn.Module):
    def __init__(self, peeks=False):
        super().__init__()
        self.words, self.head, self.peeks = nn.Embedding(50, 8), nn.Linear(8, 3), peeks

    def forward(self, ids):
        vectors = self.words(ids)
        return self.head(vectors.mean(1)) + (vectors[:, 0, :3] if self.peeks else 0)


def patient(model, ids):
    optimizers = (torch.optim.Adam(model.parameters()),)
    return Patient(model, Batch((ids,), None), Training(), optimizers)


def test_a_bag_in_the_place_of_lookup_and_mean_gives_the_same_numbers():
    model, ids = Averaged(), torch.randint(50, (4, 6))
    expected = model(ids)
    expected.square().sum().backward()
    gradient = model.words.weight.grad.clone()
    model.zero_grad()
    with BagInstead(model.words.weight) as bags:
        bagged = model(ids)
    bagged.square().sum().backward()
    assert torch.allclose(bagged, expected, atol=1e-6)
    assert torch.allclose(model.words.weight.grad, gradient, atol=1e-6)
    assert bags.bags == 1


def test_a_bag_is_tried_in_the_model_and_refused_where_single_vectors_are_wanted():
    ids = torch.randint(50, (4, 6))
    ran = run_bag(patient(Averaged(), ids), "words.weight")
    assert (ran.refused, ran.seconds > 0) == ("", True)
    assert "wanted" in run_bag(patient(Averaged(peeks=True), ids), "words.weight").refused


def test_an_optimizer_is_rebuilt_with_its_options_and_without_some_parameters():
    model = Averaged()
    groups = [{"params": [model.words.weight], "lr": 0.5}, {"params": list(model.head.parameters())}]
    mine = torch.optim.AdamW(groups, lr=0.25, weight_decay=0.125, foreach=True)
    fused = rebuilt(mine, changes={"fused": True})
    assert [group["lr"] for group in fused.param_groups] == [0.5, 0.25]
    assert all(group["fused"] and not group["foreach"] for group in fused.param_groups)
    rest = rebuilt(mine, without=frozenset({id(model.words.weight)}))
    assert [len(group["params"]) for group in rest.param_groups] == [2]
    assert rest.param_groups[0]["weight_decay"] == 0.125
    assert rebuilt(mine, without=frozenset(map(id, model.parameters()))) is None


def test_gradients_go_through_the_buckets_of_a_group_of_one():
    trial = Trial(8, torch.optim.Adam, ZipfIds(32))
    with group_of_one():
        for buckets in ("copied", "view"):
            took = time_table(replace(trial, buckets=buckets), 500, repeats=2, seconds=0.05)
            assert took.total.typical > 0
    assert not torch.distributed.is_initialized()


def test_a_frozen_table_serves_all_but_the_trained_rows():
    looked = Looked(Trial(4, torch.optim.Adam, ZipfIds(8), frozen=100), 10)
    with torch.no_grad():
        looked.table.weight.fill_(1.0)
    assert looked(torch.tensor([3, 50])).sum(1).tolist() == [4.0, 0.0]


def test_a_factorised_table_is_widened_by_a_product():
    looked = Looked(Trial(4, torch.optim.Adam, ZipfIds(8), project=16), 10)
    assert looked(torch.tensor([3, 5])).shape == (2, 16)
