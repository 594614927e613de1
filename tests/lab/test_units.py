"""Weights read as units, whatever the layer keeps them in."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from nndiag.lab.units.layers import unit_views
from nndiag.lab.units.named import plan, reader_of
from nndiag.lab.units.use import uses_of


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


def test_a_recurrent_layer_may_train_one_of_its_biases_only():
    layer = nn.LSTM(3, 4)
    zeros = layer.bias_hh_l0.data
    del layer.bias_hh_l0
    layer.register_buffer("bias_hh_l0", zeros)  # as Keras has it: one bias per gate
    (view,) = unit_views(layer)
    assert view.biases == ("bias_ih_l0",)
    assert view.rows(table(layer), bias=True).shape == (4, 4 * 3 + 4 * 4 + 4)


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


def seen(forward, *x, **parameters):
    """Rows of each parameter that a forward multiplies with."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            for name, item in parameters.items():
                setattr(self, name, nn.Parameter(item))

        def forward(self, *inputs):
            return forward(self, *inputs)

    model = Bare()
    return {view.part: view.rows(table(model)) for view in unit_views(model, uses_of(model, lambda: model(*x)))}


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


W, X, MAPS = numbered(4, 3), torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 6, 5, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("forward", "rows"),
    [
        (lambda m, x: functional.linear(x, m.w * 1.4), W),
        (lambda m, x: x @ m.w.T, W),
        (lambda m, x: x @ m.w.reshape(4, 1, 3).permute(2, 1, 0).squeeze(1), W),
        (lambda m, x: torch.einsum("...i,oi->...o", x, m.w), W),
        (lambda m, x: torch.tensordot(x, m.w, ([1], [1])), W),
        (lambda m, x: (x[:, None] * m.w).sum(-1), W),
        (lambda m, x: functional.linear(x, m.w - m.w.mean(1, keepdim=True)), W),
        (lambda m, x: torch.vmap(lambda row: m.w @ row)(x), W),
        (lambda m, x: x @ torch.cat([part.t() for part in m.w.chunk(2)], 1), None),  # cut and joined: not followed
        (lambda m, x: x + m.w[0], None),
        (lambda m, _: m.w[torch.tensor([0, 2])], W.T),
    ],
)
def test_a_weight_is_followed_into_its_product(forward, rows):
    shown = seen(forward, X, w=W)
    assert (shown == {}) if rows is None else (shown["w"] == rows.numpy()).all()


def test_kernels_of_functional_convolutions_are_read_by_output_channel():
    plain, channels_last = numbered(8, 6, 3, 3), numbered(3, 3, 6, 8)
    grouped, turned = numbered(8, 3, 3, 3), numbered(6, 4, 2, 2)
    shown = seen(
        lambda m, x: (
            functional.conv2d(x, m.plain),
            functional.conv2d(x, m.last.permute(3, 2, 0, 1)),
            functional.conv2d(x, m.grouped, groups=2),
            functional.conv_transpose2d(x, m.turned, groups=2),
        ),
        MAPS, plain=plain, last=channels_last, grouped=grouped, turned=turned,
    )  # fmt: skip
    assert (shown["plain"] == plain.reshape(8, -1).numpy()).all()
    assert (shown["last"] == channels_last.permute(3, 0, 1, 2).reshape(8, -1).numpy()).all()
    assert (shown["grouped"] == grouped.reshape(8, -1).numpy()).all()
    expected = turned.reshape(2, 3, 4, -1).permute(0, 2, 1, 3).reshape(8, -1)
    assert (shown["turned"] == expected.numpy()).all()


def test_a_bias_goes_with_the_product_that_it_is_added_to():
    class Scratch(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.zeros(4))
            self.kernel, self.k = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return functional.conv1d((x @ self.w + self.b)[:, None], self.kernel, self.k)

    model = Scratch()
    views = unit_views(model, uses_of(model, lambda: model(torch.ones(2, 3))))
    assert [(view.label, view.biases) for view in views] == [("w", ("b",)), ("kernel", ("k",))]


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
