"""The loss that training code would have used."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.subject import Batch, Training
from nndiag.lab.borrow import fingerprint
from nndiag.lab.objective import Objective, loss_of, resolve_objective

AUTO = Training()


def fixed(output):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return output + self.shift

    return Fixed()


def infer(output, targets, inputs=None):
    return resolve_objective(
        AUTO, fixed(output), Batch(torch.ones(len(output), 1) if inputs is None else inputs, targets)
    )


def test_class_ids_mean_cross_entropy():
    logits, aims = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    found = infer(logits, aims)
    assert (found.name, found.how) == ("cross_entropy", "inferred from integer targets")
    torch.testing.assert_close(found(logits, aims), functional.cross_entropy(logits, aims))
    torch.testing.assert_close(found(logits, aims[:, None]), functional.cross_entropy(logits, aims))


def test_class_ids_that_came_through_a_float_table_mean_cross_entropy():
    logits, aims = torch.randn(4, 3), torch.tensor([0.0, 1.0, 2.0, 0.0])
    torch.testing.assert_close(infer(logits, aims)(logits, aims), functional.cross_entropy(logits, aims.long()))


def test_one_id_per_token_means_cross_entropy_over_the_last_axis():
    logits, aims = torch.randn(2, 6, 6), torch.randint(0, 6, (2, 6))
    found = infer(logits, aims, inputs=torch.zeros(2, 6, dtype=torch.long))
    torch.testing.assert_close(found(logits, aims), functional.cross_entropy(logits.flatten(0, 1), aims.flatten()))


def test_one_id_per_pixel_means_cross_entropy_over_channels():
    logits, aims = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    torch.testing.assert_close(infer(logits, aims)(logits, aims), functional.cross_entropy(logits, aims))


def test_ignored_tokens_stay_ignored():
    logits, aims = torch.randn(1, 3, 5), torch.tensor([[1, -100, 2]])
    found = infer(logits, aims, inputs=torch.zeros(1, 3, dtype=torch.long))
    torch.testing.assert_close(found(logits, aims), functional.cross_entropy(logits[0], aims[0]))


@pytest.mark.parametrize(
    "aims", [torch.tensor([0, 1, 1]), torch.tensor([0.0, 1.0, 1.0]), torch.tensor([False, True, True])]
)
def test_zeros_and_ones_against_one_output_mean_binary_cross_entropy(aims):
    logits = torch.randn(3, 1)
    found = infer(logits, aims)
    assert found.name == "bce"
    torch.testing.assert_close(
        found(logits, aims), functional.binary_cross_entropy_with_logits(logits[:, 0], aims.float())
    )


def test_many_labels_at_once_mean_binary_cross_entropy():
    logits, aims = torch.randn(3, 4), torch.tensor([[0, 1, 0, 1]] * 3)
    assert infer(logits, aims).name == "bce"


def test_a_sigmoid_at_the_end_is_not_applied_twice():
    model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    batch = Batch(torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0]))
    found = resolve_objective(AUTO, model, batch)
    share = model(batch.inputs)
    assert "sigmoid" in found.how
    torch.testing.assert_close(
        found(share, batch.targets), functional.binary_cross_entropy(share[:, 0], batch.targets.float())
    )


def test_a_softmax_at_the_end_is_not_applied_twice():
    model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1))
    batch = Batch(torch.randn(6, 2), torch.tensor([0, 1, 2, 1, 1, 0]))
    found = resolve_objective(AUTO, model, batch)
    torch.testing.assert_close(
        found(model(batch.inputs), batch.targets), functional.nll_loss(model(batch.inputs).log(), batch.targets)
    )


def test_a_column_against_a_vector_is_compared_element_by_element():
    output, aims = torch.randn(5, 1), torch.randn(5)
    found = infer(output, aims)
    assert found.name == "mse"
    torch.testing.assert_close(found(output, aims), ((output[:, 0] - aims) ** 2).mean())


def test_rows_of_probabilities_mean_soft_cross_entropy():
    logits, aims = torch.randn(5, 3), torch.rand(5, 3).softmax(1)
    torch.testing.assert_close(infer(logits, aims)(logits, aims), functional.cross_entropy(logits, aims))


def test_a_model_that_computes_its_loss_is_asked_for_it():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x, labels=None):
            y = self.layer(x)
            return {"loss": None if labels is None else ((y - labels) ** 2).sum(), "logits": y}

    model, x, y = Own(), torch.randn(4, 2), torch.randn(4, 1)
    batch = Batch({"x": x, "labels": y}, y)
    found = resolve_objective(AUTO, model, batch)
    assert found.name == "own"
    torch.testing.assert_close(loss_of(model, batch, found)[0], ((model.layer(x) - y) ** 2).sum())


def test_a_causal_model_of_hugging_face_predicts_the_next_token():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=1, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.randint(0, 11, (2, 6))
    found = resolve_objective(AUTO, model, Batch({"input_ids": tokens}, tokens))
    assert "one token ahead" in found.how
    torch.testing.assert_close(found(model(tokens), tokens), model(tokens, labels=tokens).loss)


def test_the_users_function_gets_what_the_model_returned():
    def loss(outputs, targets):
        return (outputs["a"] - targets).abs()

    found = resolve_objective(Training(loss=loss), nn.Identity(), Batch(torch.ones(2)))
    assert isinstance(found, Objective)
    assert found.name == "loss"
    assert found({"a": torch.ones(4)}, torch.zeros(4)).shape == ()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss])
def test_a_loss_of_torch_serves_as_function_also_on_wrapped_logits(loss):
    found = resolve_objective(Training(loss=loss), nn.Identity(), Batch(torch.ones(2)))
    logits, aims = torch.randn(3, 2), torch.tensor([0, 1, 1])
    torch.testing.assert_close(found({"logits": logits}, aims), functional.cross_entropy(logits, aims))


def test_a_failing_loss_of_the_user_names_his_line():
    def loss(outputs, targets):
        return outputs - missing  # noqa: F821 - the user's mistake

    found = resolve_objective(Training(loss=loss), nn.Identity(), Batch(torch.ones(2)))
    with pytest.raises(NndiagError, match=r"the loss loss raised NameError.*test_objective\.py:\d+"):
        found(torch.ones(1), torch.ones(1))


def test_an_unknown_name_is_a_usage_error_with_a_suggestion():
    with pytest.raises(UsageError) as caught:
        resolve_objective(Training(loss="cross-entropie"), nn.Identity(), Batch(torch.ones(2)))
    assert "cross_entropy" in caught.value.hint


def test_targets_that_fit_nothing_are_an_error_that_names_both_shapes():
    with pytest.raises(NndiagError, match=r"outputs \(4, 3\) and targets \(4, 7\)"):
        infer(torch.randn(4, 3), torch.randn(4, 7))


def test_inferring_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout())
    before = fingerprint(model)
    resolve_objective(AUTO, model, Batch(torch.randn(4, 2), torch.tensor([0, 1, 2, 0])))
    assert fingerprint(model) == before
