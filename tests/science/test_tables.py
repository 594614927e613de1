"""Passes are counted on torch itself; planner terms and parameter counts are published figures."""

import numpy as np
import pytest
import torch
from torch import nn

from nndiag.lab.traffic import TrafficCounter
from nndiag.science import tables, tables_layers, tables_rows
from nndiag.science.tables import OptimizerOptions, optimizer_cost

KIND = {"momentum": "SGD", "nesterov": "SGD", "sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "adagrad": "Adagrad",
        "rmsprop": "RMSprop", "nadam": "NAdam", "adamax": "Adamax", "adadelta": "Adadelta", "radam": "RAdam",
        "adafactor": "Adafactor"}  # fmt: skip
CASES = [
    (name, implementation, extra)
    for name, extras in {
        "sgd": [{}, {"weight_decay": 0.1}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
        "adam": [{}, {"weight_decay": 0.1}, {"amsgrad": True}, {"amsgrad": True, "weight_decay": 0.1}],
        "adamw": [{"weight_decay": 0.01}, {"weight_decay": 0.0}],
        "adagrad": [{}, {"weight_decay": 0.1}],
        "rmsprop": [{}, {"momentum": 0.9}, {"centered": True}, {"momentum": 0.9, "centered": True}],
        "nadam": [{}],
        "adamax": [{}],
        "adadelta": [{}],
        "radam": [{}],
        "adafactor": [{"weight_decay": 0.0}],
    }.items()
    for extra in extras
    for implementation in (["for-loop", "foreach", "fused"] if tables.has_fused(name) else ["for-loop", "foreach"])
]


@pytest.mark.parametrize(("name", "implementation", "extra"), CASES)
def test_passes_agree_with_the_operations_that_torch_dispatches(name, implementation, extra):
    flag = {"fused": True} if implementation == "fused" else {"foreach": implementation == "foreach"}
    table = nn.Parameter(torch.randn(32, 8))
    optimizer = getattr(torch.optim, KIND[name])([table], lr=1e-3, **extra, **flag)
    for _ in range(8):  # RAdam rectifies from its sixth step on
        table.grad = torch.randn(32, 8)
        counter = TrafficCounter(table.numel())
        with counter, torch.no_grad():
            optimizer.step()
    cost = optimizer_cost(OptimizerOptions(name, implementation, **extra))
    assert cost.passes == sum(op.passes for op in counter.ops)
    assert cost.fresh == sum(op.fresh for op in counter.ops)


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        (OptimizerOptions("adam"), 18),
        (OptimizerOptions("adam", "foreach"), 18),
        (OptimizerOptions("adam", "fused"), 7),
        (OptimizerOptions("adam", "fused", grad_scale=True), 8),
        (OptimizerOptions("adamw", weight_decay=0.01), 20),
        (OptimizerOptions("adagrad"), 11),
        (OptimizerOptions("sgd"), 3),
        (OptimizerOptions("momentum"), 8),
        (OptimizerOptions("sgd", momentum=0.9, nesterov=True, weight_decay=0.1), 14),
        (OptimizerOptions("rmsprop"), 13),
        (OptimizerOptions("nadam"), 22),
        (OptimizerOptions("adamax"), 16),
        (OptimizerOptions("adam", amsgrad=True), 21),
    ],
)
def test_passes_are_those_of_the_reference(options, passes):
    assert optimizer_cost(options).passes == passes


def test_an_unknown_optimizer_has_no_word():
    assert tables.canonical("adan") is None
    assert tables.canonical("torch.optim.SparseAdam") == "sparse_adam"


@pytest.mark.parametrize(("dim", "hidden", "count"), [(128, 256, 395264), (300, 512, 1667072), (17, 5, None)])
def test_lstm_parameters_are_torchs(dim, hidden, count):
    real = sum(p.numel() for p in nn.LSTM(dim, hidden).parameters())
    assert tables_layers.lstm_parameters(dim, hidden) == real
    assert count in (None, real)


def test_projected_lstm_and_gru_parameters_are_torchs():
    assert tables_layers.lstm_parameters(12, 20, projection=7) == sum(
        p.numel() for p in nn.LSTM(12, 20, proj_size=7).parameters()
    )
    assert tables_layers.gru_parameters(12, 20) == sum(p.numel() for p in nn.GRU(12, 20).parameters())


def test_transformer_parameters_are_torchs():
    layer = nn.TransformerEncoderLayer(24, 2, 96)
    assert tables_layers.transformer_parameters(24) == sum(p.numel() for p in layer.parameters())


def test_the_published_planner_is_reproduced():
    terms = tables_layers.data_parallel_terms(100, 10, 512, 2)
    assert terms.forward == pytest.approx(9.356002212235228e-05, rel=1e-12)
    assert terms.backward == pytest.approx(1.8712004424470456e-04, rel=1e-12)
    assert terms.communication == pytest.approx(2.25593945387348e-04, rel=1e-9)


def test_surroundings_add_their_passes():
    plain = tables.extra_passes(tables.Surroundings())
    full = tables.extra_passes(
        tables.Surroundings(set_to_none=False, clip=True, scaler=True, buckets=True, accumulation=2, master_copy=True)
    )
    assert sum(extra.passes for extra in plain) == 1  # zero-fill
    assert sum(extra.passes for extra in full) == 2 + 1 + 6 + 2 + 3 + 2 + 4


def test_ring_all_reduce_of_the_reference_table():
    assert tables.ring_all_reduce_bytes(1e6 * 128 * 4, 8) == pytest.approx(896e6)


@pytest.mark.parametrize(("step", "move"), [(0, 6.0), (1000, 25.3), (5000, 31.6)])
def test_a_row_seen_once_moves_as_simulated_adam_moves_it(step, move):
    """Against torch.optim.Adam itself in float64, a gradient at one step only."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=1.0, eps=0.0)
    state = optimizer.state[weight]
    state |= {"step": torch.tensor(float(step)), "exp_avg": torch.zeros(1, dtype=torch.float64),
              "exp_avg_sq": torch.zeros(1, dtype=torch.float64)}  # fmt: skip
    for k in range(400):
        weight.grad = torch.full((1,), 3.0 if k == 0 else 0.0, dtype=torch.float64)
        optimizer.step()
    predicted = tables_rows.adam_once_seen_move(step)
    assert predicted == pytest.approx(-weight.item(), rel=1e-9)
    assert predicted == pytest.approx(move, abs=0.1)


def test_late_moves_of_adam_and_sparse_adam():
    assert tables_rows.adam_once_seen_move(10**6) == pytest.approx(tables_rows.adam_late_move(), rel=1e-6)
    assert tables_rows.adam_late_move() == pytest.approx(31.77, abs=0.005)
    assert tables_rows.adam_late_move() / tables_rows.sparse_adam_late_move() == pytest.approx(10.05, abs=0.005)


@pytest.mark.parametrize("step", [0, 1000, 5000])
def test_a_row_seen_once_moves_as_sparse_adam_moves_it(step):
    weight = nn.Parameter(torch.zeros(3, 1, dtype=torch.float64))
    optimizer = torch.optim.SparseAdam([weight], lr=1.0, eps=1e-300)
    optimizer.state[weight] |= {"step": step, "exp_avg": torch.zeros(3, 1, dtype=torch.float64),
                                "exp_avg_sq": torch.zeros(3, 1, dtype=torch.float64)}  # fmt: skip
    for row in (1, 2, 2):
        weight.grad = torch.sparse_coo_tensor([[row]], torch.full((1, 1), 3.0, dtype=torch.float64), (3, 1),
                                              check_invariants=False)  # fmt: skip
        optimizer.step()
    assert tables_rows.sparse_adam_once_seen_move(step) == pytest.approx(-weight[1].item(), rel=1e-9)


def test_adamw_shrinks_unseen_rows():
    assert tables_rows.unseen_shrinkage(1e-3, 0.1, 10_000) == pytest.approx(0.3678, abs=1e-4)
    assert tables_rows.unseen_shrinkage(3e-4, 0.1, 100_000) == pytest.approx(0.0498, abs=1e-4)
    assert tables_rows.unseen_shrinkage(1e-3, 0.1, 7) == pytest.approx(np.prod([1 - 1e-4] * 7))
