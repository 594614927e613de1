"""Any batch reaches any forward, and the answer is found in whatever comes back."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.forward import batch_rows, call, in_precision, main_input, main_output, move, rows_of, take, tensors_in


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, scale=1.0):
        return self.layer(x) * scale


class WholeDict(nn.Module):
    def forward(self, batch):
        return batch["a"] + batch["b"]


class WholeList(nn.Module):
    def forward(self, parts):
        return torch.stack(parts).sum(0)


class Anything(nn.Module):
    def forward(self, **given):
        return torch.stack([given[key] for key in sorted(given)])


@dataclass
class Answer:
    hidden: torch.Tensor
    logits: torch.Tensor
    note: str = ""


def test_an_array_becomes_a_tensor_of_the_models_type():
    assert call(nn.Linear(3, 2), np.ones((4, 3))).dtype is torch.float32
    assert call(nn.Linear(3, 2).double(), torch.ones(4, 3)).dtype is torch.float64
    assert call(nn.Linear(3, 2).to(torch.bfloat16), torch.ones(4, 3)).dtype is torch.bfloat16


def test_a_tuple_is_spread_over_positional_arguments():
    x = torch.ones(4, 3)
    assert torch.equal(call(Named(), (x, 0.0)), torch.zeros(4, 2))


def test_a_list_is_passed_whole_to_a_forward_that_takes_one_argument():
    assert torch.equal(call(WholeList(), [torch.ones(2), torch.ones(2)]), torch.full((2,), 2.0))


def test_unknown_keys_of_a_mapping_are_left_out():
    model, x = Named(), torch.ones(4, 3)
    assert torch.equal(call(model, {"x": x, "token_type_ids": x}), model(x))
    assert torch.equal(call(model, UserDict({"x": x, "scale": 2.0})), model(x) * 2)


def test_a_mapping_that_the_forward_knows_no_key_of_is_passed_whole():
    assert torch.equal(call(WholeDict(), {"a": torch.ones(2), "b": torch.ones(2)}), torch.full((2,), 2.0))


def test_a_forward_with_open_keywords_gets_every_key():
    assert call(Anything(), {"a": torch.ones(2), "b": torch.zeros(2)}).shape == (2, 2)


def test_a_batch_encoding_reaches_a_hugging_face_model():
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"x": torch.ones(4, 3)})
    assert call(Named(), encoding).shape == (4, 2)
    assert isinstance(take(encoding, 2), transformers.BatchEncoding)


def test_a_compiled_model_is_seen_through():
    compiled = torch.compile(Named(), backend="eager")
    assert call(compiled, {"x": torch.ones(4, 3), "other": 1}).shape == (4, 2)


@pytest.mark.parametrize(
    ("layer", "x", "words"),
    [
        (nn.Linear(784, 2), torch.ones(4, 1, 28, 28), "(N, …, 784), the data give it (4, 1, 28, 28): flatten the rows"),
        (nn.Linear(7, 2), torch.ones(4, 5), "(N, …, 7), the data give it (4, 5)"),
        (nn.Conv2d(3, 2, 3), torch.ones(4, 9, 9, 3), "(N, 3, H, W), the data give it (4, 9, 9, 3): its channels stand"),
        (nn.Conv2d(3, 2, 3), torch.ones(4, 1, 9, 9), "(4, 1, 9, 9): axis 1 counts 1, the layer reads 3 channels"),
        (nn.Conv1d(1, 2, 3), torch.ones(4, 9), "the channel axis is missing"),
        (nn.Embedding(9, 2), torch.ones(4, 5), "whole-number ids below 9, the data give it float32 (4, 5)"),
        (nn.Embedding(9, 2), torch.full((4, 5), 30), "ids from 0 to 8, the data give it 30 to 30"),
        (nn.LSTM(6, 2), torch.ones(4, 5, 7), "(N, T, 6), the data give it (4, 5, 7)"),
        (nn.LayerNorm(6), torch.ones(4, 7), "(…, 6), the data give it (4, 7)"),
        (nn.BatchNorm1d(6), torch.ones(4, 7), "(N, 6), the data give it (4, 7)"),
    ],
)
def test_a_layer_that_cannot_take_the_data_says_which_shape_it_wants(layer, x, words):
    with pytest.raises(NndiagError) as caught:
        call(nn.Sequential(nn.Identity(), layer), x)
    assert caught.value.hint.startswith(f"'1' ({type(layer).__name__}) wants ")
    assert words in caught.value.hint


def test_a_failing_forward_names_the_users_line():
    class Broken(nn.Module):
        def forward(self, x):
            return x @ torch.ones(5, 5)

    with pytest.raises(NndiagError, match=r"the forward of Broken raised RuntimeError.*test_forward\.py:\d+"):
        call(Broken(), torch.ones(2, 3))


@pytest.mark.parametrize(
    "output",
    [
        torch.ones(2),
        (torch.tensor([1, 2]), torch.ones(2)),
        {"loss": torch.tensor(0.5), "logits": torch.ones(2)},
        Answer(torch.zeros(2), torch.ones(2)),
        (torch.tensor(0.5), torch.ones(2)),
        namedtuple("Out", "loss pred")(torch.tensor(0.0), torch.ones(2)),  # noqa: PYI024 - as people write it
        [[torch.ones(2)]],
        {"anything": {"deep": torch.ones(2)}},
    ],
)
def test_the_main_output_is_found(output):
    assert torch.equal(main_output(output), torch.ones(2))


def test_the_main_output_of_a_hugging_face_output_is_its_logits():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    made = outputs.SequenceClassifierOutput(loss=torch.tensor(1.0), logits=torch.ones(2))
    assert torch.equal(main_output(made), torch.ones(2))


def test_an_output_without_numbers_is_an_error():
    with pytest.raises(NndiagError, match="without a floating-point tensor"):
        main_output({"ids": torch.tensor([1])})


def test_a_list_that_contains_itself_ends():
    loop = [torch.ones(1)]
    loop.append(loop)
    assert len(tensors_in(loop)) == 1


def test_rows_are_taken_from_everything_that_has_them():
    batch = Batch({"x": torch.arange(6.0).reshape(3, 2), "table": torch.zeros(5, 2)}, torch.arange(3))
    assert batch_rows(batch) == 3
    cut = take(batch, 2)
    assert (cut.inputs["x"].shape, cut.inputs["table"].shape, cut.targets.tolist()) == ((2, 2), (5, 2), [0, 1])
    assert rows_of(batch, 1, 3).targets.tolist() == [1, 2]
    assert take(batch, 9) is batch


def test_moving_changes_the_type_of_floating_tensors_only():
    moved = move(Batch((torch.ones(2), torch.tensor([1])), np.array([0.5])), "cpu", torch.float64)
    assert [item.dtype for item in tensors_in([moved.inputs, moved.targets])] == [
        torch.float64, torch.int64, torch.float64,
    ]  # fmt: skip


def test_a_change_of_precision_keeps_both_parts_of_complex_numbers():
    layer = torch.nn.Linear(2, 2)
    layer.spectrum = torch.nn.Parameter(torch.tensor([1 + 2j], dtype=torch.complex64))
    turned = in_precision(layer, torch.float64)
    assert turned.weight.dtype == torch.float64
    assert turned.spectrum.dtype == torch.complex128
    assert turned.spectrum.item() == 1 + 2j


def test_the_main_input_is_no_label():
    assert torch.equal(main_input({"labels": torch.ones(2), "ids": torch.tensor([4])}), torch.tensor([4]))


def test_a_forward_that_was_called_with_too_little_is_named_with_its_line():
    class Two(nn.Module):
        def forward(self, x, mask):
            return x * mask

    line = Two.forward.__code__.co_firstlineno
    with pytest.raises(
        NndiagError, match=rf"missing 1 required positional argument: 'mask' \(.*test_forward.py:{line}\)"
    ):
        call(Two(), torch.ones(2, 3))
