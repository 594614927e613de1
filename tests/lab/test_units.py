"""Weights read as units, whatever the layer keeps them in."""

import torch
from torch import nn
from torch.nn.utils import prune

from nndiag.lab.units import unit_views
from nndiag.lab.units_named import plan, reader_of
from nndiag.lab.units_use import uses_of


def table(model):
    return dict(model.named_parameters())


def test_every_layer_of_torch_shows_one_row_per_unit():
    model = nn.Sequential(
        nn.Linear(5, 7), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose1d(4, 6, 3), nn.Embedding(11, 4),
        nn.Bilinear(2, 3, 5), nn.LSTM(3, 8), nn.GRUCell(2, 3), nn.MultiheadAttention(8, 2),
    )  # fmt: skip
    shown = {view.label: view.units for view in unit_views(model)}
    assert shown == {
        "0": 7, "1": 6, "2": 6, "3": 4, "4": 5, "5": 8, "6": 3, "7 q": 8, "7 k": 8, "7 v": 8, "7.out_proj": 8,
    }  # fmt: skip


def test_a_transposed_convolution_is_read_by_output_channel():
    layer = nn.ConvTranspose1d(4, 6, 3, groups=2)
    (view,) = unit_views(layer)
    rows = view.rows(table(layer))
    for unit in range(6):
        group, inner = divmod(unit, 3)
        expected = layer.weight[2 * group : 2 * group + 2, inner].detach().reshape(-1).double().numpy()
        assert (rows[unit] == expected).all()


def test_exchanging_two_lstm_units_exchanges_two_rows():
    layer = nn.LSTM(3, 4)
    (view,) = unit_views(layer)
    before = view.rows(table(layer), bias=True)
    order = torch.tensor([0, 3, 2, 1])
    with torch.no_grad():
        for name, item in layer.named_parameters():
            gates = item.view(4, 4, *item.shape[1:])[:, order]
            item.copy_(gates.reshape(item.shape))
            if name.startswith("weight_hh"):
                item.copy_(item[:, order].clone())
    assert (view.rows(table(layer), bias=True) == before[order.numpy()]).all()


def test_a_bare_parameter_is_turned_as_it_is_used():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.right = nn.Parameter(torch.randn(5, 7))
            self.left = nn.Parameter(torch.randn(9, 7))
            self.heads = nn.Parameter(torch.randn(3, 9, 4))
            self.added = nn.Parameter(torch.zeros(5, 7))

        def forward(self, x):
            h = (x @ self.right + self.added[0]) @ self.left.T
            return torch.einsum("nd,edh->neh", h, self.heads)

    model = Bare()
    views = unit_views(model, uses_of(model, lambda: model(torch.randn(2, 5))))
    assert {view.part: view.units for view in views} == {"right": 7, "left": 9, "heads": 12}


def test_tied_weights_are_one_layer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 4)
            self.head = nn.Linear(4, 11, bias=False)
            self.head.weight = self.table.weight

    assert [view.module for view in unit_views(Tied())] == ["table"]


def test_pruned_and_weight_normed_layers_are_read_by_what_is_trained():
    pruned = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert unit_views(pruned)[0].weights == ("weight_orig",)
    assert unit_views(normed)[0].weights == ("parametrizations.weight.original1",)


def test_names_and_shapes_alone_tell_which_axis_counts_units():
    layers = {
        layer.weight: layer
        for layer in plan({
            "h.0.mlp.c_fc.weight": (8, 32), "h.0.mlp.c_fc.bias": (32,), "h.0.mlp.c_proj.weight": (32, 8),
            "wte.weight": (99, 8), "conv.weight": (6, 3, 3, 3), "dw.weight": (6, 1, 3, 3), "norm.weight": (8,),
            "rnn.weight_ih_l0": (16, 3), "rnn.weight_hh_l0": (16, 4),
        })
    }  # fmt: skip
    assert {name: layer.units for name, layer in layers.items()} == {
        "h.0.mlp.c_fc.weight": 32, "h.0.mlp.c_proj.weight": 8, "wte.weight": 8, "conv.weight": 6, "rnn.weight_ih_l0": 4,
    }  # fmt: skip
    assert reader_of(layers["h.0.mlp.c_fc.weight"], list(layers.values())).module == "h.0.mlp.c_proj"
