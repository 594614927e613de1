"""Gradients of shards against the whole batch's: closed forms, autograd's own sums, and what no sum explains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch, Training
from nndiag.lab import gradients
from nndiag.lab.objective import resolve_objective

EXACT = 1e-9


class Rows(nn.Module):
    """One weight per sample: the gradient of sample i is the i-th unit vector over the batch size."""

    def __init__(self, samples):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(samples, dtype=torch.float64))

    def forward(self, x):
        return x @ self.w


def own_mean(output, _targets):
    return output.mean()


def shards_of(sizes):
    total = sum(sizes)
    batch = Batch(torch.eye(total, dtype=torch.float64), torch.zeros(total))
    model = Rows(total)
    objective = resolve_objective(Training(loss=own_mean), model, batch)
    whole = gradients.gradient_of(model, batch, objective)
    parts = torch.stack(list(gradients.shard_gradients(model, gradients.split_rows(batch, sizes), objective)))
    return parts, whole


def network(width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 3)).double()


def classes(rows=32):
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.randn(rows, 8, generator=generator, dtype=torch.float64), torch.randint(3, (rows,), generator=generator)
    )


@pytest.mark.parametrize("sizes", [(4, 4, 2), (10,), (5, 5), (1, 9)])
def test_orthogonal_samples_make_the_error_of_a_mean_of_means_a_closed_form(sizes):
    # weights 1/(W n_k) instead of 1/N: (relative error)² = N/N_eff - 1, cosine² = N_eff/N
    parts, whole = shards_of(sizes)
    error, cosine = gradients.relative(parts.mean(0), whole)
    effective = 1 / (sum(1 / size for size in sizes) / len(sizes) ** 2)
    assert error == pytest.approx(math.sqrt(sum(sizes) / effective - 1), abs=1e-9)
    assert cosine == pytest.approx(math.sqrt(effective / sum(sizes)))


def test_unequal_shards_are_weighted_by_their_counts():
    parts, whole = shards_of((4, 4, 2))
    found = gradients.explain_sum(parts, whole, [[4.0, 4.0, 2.0]], EXACT)
    assert found.weights.tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert not found.uniform


def test_equal_shards_of_a_mean_need_equal_weights():
    batch, model = classes(), network()
    objective = resolve_objective(Training(), model, batch)
    whole = gradients.gradient_of(model, batch, objective)
    parts = torch.stack(list(gradients.shard_gradients(model, gradients.split_rows(batch, [8] * 4), objective)))
    found = gradients.explain_sum(parts, whole, [], EXACT)
    assert found.uniform
    assert found.weights.tolist() == pytest.approx([0.25] * 4)
    assert found.residual < 1e-14


def test_a_summed_loss_needs_weights_of_one():
    batch, model = classes(), network()
    summed = Training(loss=lambda output, target: functional.cross_entropy(output, target, reduction="sum"))
    objective = resolve_objective(summed, model, batch)
    whole = gradients.gradient_of(model, batch, objective)
    parts = torch.stack(list(gradients.shard_gradients(model, gradients.split_rows(batch, [8] * 4), objective)))
    assert gradients.explain_sum(parts, whole, [], EXACT).weights.tolist() == pytest.approx([1.0] * 4)


def test_a_mean_over_tokens_is_weighted_by_the_tokens_that_count():
    lengths = [64, 60, 50, 8, 4, 4, 2, 2]
    torch.manual_seed(0)
    model = nn.Linear(8, 5).double()
    targets = torch.randint(5, (8, 64))
    for row, length in enumerate(lengths):
        targets[row, length:] = -100
    batch = Batch(torch.randn(8, 64, 8, dtype=torch.float64), targets)

    def mean_over_tokens(output, target):
        return functional.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=-100)

    objective = resolve_objective(Training(loss=mean_over_tokens), model, batch)
    shards = gradients.split_rows(batch, [1] * 8)
    counts = [float(gradients.token_counts(shard)) for shard in shards]
    assert counts == lengths
    whole = gradients.gradient_of(model, batch, objective)
    parts = torch.stack(list(gradients.shard_gradients(model, shards, objective)))
    found = gradients.explain_sum(parts, whole, [counts], EXACT)
    assert found.weights.tolist() == pytest.approx([length / 194 for length in lengths])
    assert gradients.relative(parts.mean(0), whole)[0] > 0.5


def test_a_loss_between_samples_is_no_sum_of_its_shards():
    batch, model = classes(), network()

    def contrastive(output, _target):
        unit = functional.normalize(output, dim=1)
        return functional.cross_entropy(5 * unit @ unit.T, torch.arange(len(unit)))

    objective = resolve_objective(Training(loss=contrastive), model, batch)
    whole = gradients.gradient_of(model, batch, objective)
    parts = torch.stack(list(gradients.shard_gradients(model, gradients.split_rows(batch, [8] * 4), objective)))
    found = gradients.explain_sum(parts, whole, [], EXACT)
    assert found.weights is None
    assert found.residual > 0.01


def test_a_gradient_of_zero_explains_nothing():
    assert gradients.explain_sum(torch.zeros(2, 8), torch.zeros(8), [], EXACT).weights is None


def test_a_sketch_is_linear_and_keeps_inner_products_without_bias():
    def sketched(seed):
        model = nn.Linear(300, 40, bias=False)
        generator = torch.Generator().manual_seed(seed)
        grad = torch.randn(40, 300, generator=generator) + 0.3
        model.weight.grad = grad
        return gradients.flat_gradient(model, sketch=1000), grad.double().flatten()

    (a, full_a), (b, full_b) = sketched(1), sketched(2)
    model = nn.Linear(300, 40, bias=False)
    model.weight.grad = (full_a + 2 * full_b).float().view(40, 300)
    assert torch.allclose(gradients.flat_gradient(model, sketch=1000), a + 2 * b, atol=1e-4)
    assert float(a @ b) == pytest.approx(
        float(full_a @ full_b), abs=5 * float(full_a.norm() * full_b.norm()) / 1000**0.5
    )


def test_a_gradient_is_read_without_leaving_one_behind():
    batch, model = classes(), network()
    found = gradients.gradient_of(model, batch, resolve_objective(Training(), model, batch))
    functional.cross_entropy(model(batch.inputs), batch.targets).backward()
    expected = torch.cat([item.grad.flatten() for item in model.parameters()])
    assert torch.equal(found, expected)


def test_frozen_and_unused_parameters_have_their_place():
    model = network()
    model[0].weight.requires_grad_(requires_grad=False)
    model.spare = nn.Linear(2, 2).double()
    batch = classes()
    objective = resolve_objective(Training(loss="cross_entropy"), model[:3], batch)
    found = gradients.gradient_of(model[:3], batch, objective)
    assert len(found) == sum(item.numel() for item in model[:3].parameters() if item.requires_grad)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda output, target: output.detach().mean(), "does not depend"),
        (lambda output, target: output.mean() * float("nan"), "nan"),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss, words):
    batch, model = classes(), network()
    with pytest.raises(NndiagError, match=words):
        gradients.gradient_of(model, batch, resolve_objective(Training(loss=loss), model, batch))


def test_batches_of_one_make_are_joined_and_others_are_not():
    class Source:
        name, synthetic = "source", False

        def __init__(self, lengths):
            self.lengths = lengths

        def batches(self, size=None):
            for length in self.lengths:
                yield Batch({"x": torch.ones(4, length)}, torch.zeros(4, dtype=torch.long))

    assert gradients.whole_batch(Source([5, 5, 5]), 10).inputs["x"].shape == (10, 5)
    assert gradients.whole_batch(Source([5, 6]), 10).inputs["x"].shape == (4, 5)
    assert gradients.whole_batch(Source([]), 10) is None


def test_stillness_leaves_batch_norms_alone_unless_asked():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    assert not any(module.training for module in gradients.still(model).modules())
    assert [type(m).__name__ for m in gradients.still(model, batchnorm=True) if m.training] == ["BatchNorm1d"]


def test_reading_a_sketch_leaves_an_accumulating_gradient_alone():
    model = nn.Linear(300, 40).double()
    model(torch.ones(2, 300, dtype=torch.float64)).sum().backward()
    before = model.weight.grad.clone()
    gradients.flat_gradient(model, sketch=1000)
    assert torch.equal(model.weight.grad, before)


def test_unrest_tells_a_random_forward_from_a_still_one():
    batch = classes()
    noisy = nn.Sequential(network(), nn.Dropout(0.5))
    objective = resolve_objective(Training(loss="cross_entropy"), noisy, batch)
    assert gradients.unrest(noisy.train(), batch, objective) > 0
    assert gradients.unrest(noisy.eval(), batch, objective) == 0
    assert gradients.unrest(HushedNoise(), batch, objective) > 0  # the gradient of its zero gain is what is drawn


class HushedNoise(nn.Module):
    """Noise times a gain that starts at zero, as in StyleGAN: the loss is still, the gradient is not."""

    def __init__(self):
        super().__init__()
        self.body, self.gain = network(), nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        return self.body(x) + self.gain * torch.randn(len(x), 3, dtype=x.dtype)
