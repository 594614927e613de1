"""What ran, in call order, and what feeds what."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.lab.borrow import fingerprint
from nndiag.lab.watch.built import class_name, locate, recording_construction
from nndiag.lab.watch.roles import WEIGHTED
from nndiag.lab.watch.sites import trace
from zoo import healthy


def names(calls):
    return [call.name for call in calls]


def line_of(source, text):
    lines, first = inspect.getsourcelines(source)
    return first + next(number for number, line in enumerate(lines) if text in line)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.same = nn.Identity()
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        h = functional.relu(self.norm(self.first(x)), inplace=True)
        h = self.same(self.drop(h))
        h = functional.dropout(h, 0.3)
        h += x
        return {"logits": self.first(h).view(-1), "hidden": h}


@pytest.fixture(scope="module")
def everything():
    with recording_construction():
        model = Everything()
    return model, trace(model, torch.randn(5, 4), training=False)


def test_modules_and_functions_are_listed_in_call_order(everything):
    _, seen = everything
    assert names(seen.steps) == ["first", "norm", "relu", "drop", "same", "dropout", "add_", "first", "view"]


def test_a_module_called_twice_appears_twice_and_one_never_called_is_named(everything):
    _, seen = everything
    assert [call.repeat for call in seen.of("first")] == [0, 1]
    assert seen.never_ran == ("spare",)


def test_consumers_and_producers_are_next_to_each_other(everything):
    _, seen = everything
    add = seen.functions("add")[0]
    assert names(seen.producers(add)) == ["dropout"]
    assert names(seen.consumers(seen.of("drop")[0])) == ["same"]
    assert names(seen.after(seen.of("norm")[0])) == ["relu"]
    assert seen.reads_input(seen.of("first")[0])
    assert seen.reads_input(add)
    assert seen.is_output(seen.functions("view")[0])
    assert seen.is_output(add)
    assert seen.reaches_output(seen.of("first")[1])


def test_steps_that_do_nothing_in_eval_are_still_steps(everything):
    _, seen = everything
    assert names(seen.consumers(seen.functions("relu")[0])) == ["drop"]
    assert names(seen.producers(seen.functions("dropout")[-1])) == ["same"]


def test_a_function_call_knows_its_line_owner_and_arguments(everything):
    _, seen = everything
    call = next(call for call in seen.functions("dropout") if call.owner == "")
    assert call.where.file.endswith("test_sites.py")
    assert call.where.line == line_of(Everything.forward, "functional.dropout")
    assert (call.target, call.argument(1, "p"), call.argument(2, "training", "absent")) == (
        "torch.nn.functional.dropout", 0.3, True,
    )  # fmt: skip


def test_a_module_knows_the_line_that_built_it(everything):
    model, seen = everything
    assert seen.of("drop")[0].place.line == line_of(Everything.__init__, "nn.Dropout")
    place = locate(model.drop, "drop")
    assert (place.module, place.cls, place.line) == (
        "drop",
        "torch.nn.Dropout",
        line_of(Everything.__init__, "nn.Dropout"),
    )


def test_inside_a_sequential_each_layer_has_its_own_line():
    with recording_construction():
        model = nn.Sequential(
            nn.Linear(2, 2),
            nn.Dropout(0.5),
        )
    lines = [locate(layer).line for layer in model]
    assert lines[1] == lines[0] + 1


def test_calls_inside_torchs_layers_are_listed_but_no_steps(everything):
    _, seen = everything
    linear = seen.functions("linear")[0]
    assert linear.owner == "first"
    assert linear.hidden
    assert linear.parameters == ("first.weight", "first.bias")
    assert linear not in seen.steps


def test_the_mode_is_that_which_was_asked_for_and_frozen_modules_keep_theirs():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    model[1].eval()
    seen = trace(model, torch.randn(4, 3), training=True)
    assert [call.training for call in seen.steps] == [True, False, True]
    assert [call.training for call in trace(model, torch.randn(4, 3), training=False).steps] == [False] * 3


def test_writing_through_a_view_is_followed():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 3)

        def forward(self, x):
            h = self.a(x).clone()
            h[:, :1] = self.b(x)
            view = h[:, 1:]
            view.mul_(2)
            return self.c(h)

    model = Writes()
    seen = trace(model, torch.randn(2, 3), training=False)
    assert {"a", "b"} <= set(names(seen.upstream(seen.of("c")[0])))
    assert "c" in names(seen.downstream(seen.functions("mul")[0]))


def test_a_custom_autograd_function_is_bridged():
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.detach().numpy() ** 2)

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.b(Hidden.apply(self.a(x)))

    seen = trace(Uses(), torch.randn(2, 3), training=False)
    assert "a" in names(seen.upstream(seen.of("b")[0]))


def test_a_residual_has_two_producers_and_the_walk_passes_dropout():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.drop, self.down, self.head = (
                nn.Linear(4, 8),
                nn.Dropout(0.1),
                nn.Linear(8, 4),
                nn.Linear(4, 2),
            )

        def forward(self, x):
            return self.head(x + self.down(self.drop(torch.tanh(self.up(x)))))

    seen = trace(Residual(), torch.randn(2, 4), training=True)
    assert names(seen.after(seen.of("up")[0])) == ["tanh"]
    assert names(seen.after(seen.functions("tanh")[0])) == ["down"]
    assert [call.role for call in seen.after(seen.of("down")[0])] == ["add"]
    assert names(seen.before(seen.of("down")[0])) == ["tanh"]


def test_attention_of_torch_is_one_step_and_its_fast_path_is_off():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    seen = trace(layer, torch.randn(2, 3, 8), training=False)
    assert names(seen.steps) == [
        "self_attn", "dropout1", "add", "norm1", "linear1", "relu", "dropout", "linear2", "dropout2", "add", "norm2",
    ]  # fmt: skip
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_fused_attention_with_dropout_shows_its_rate():
    class Attends(nn.Module):
        def forward(self, x):
            return functional.scaled_dot_product_attention(x, x, x, dropout_p=0.25)

    call = trace(Attends(), torch.randn(2, 2, 3, 4), training=False).functions("scaled_dot_product_attention")[0]
    assert call.argument(4, "dropout_p") == 0.25


def test_weight_norm_is_seen_as_one_linear_layer():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU())
    seen = trace(model, torch.randn(2, 3), training=False)
    assert [call.role for call in seen.steps] == ["affine", "activation"]


def test_a_layer_around_a_layer_is_told_by_its_calls():
    class Lora(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.a, self.b = nn.Parameter(torch.ones(1, 3)), nn.Parameter(torch.zeros(3, 1))

        def forward(self, x):
            return super().forward(x) + functional.linear(functional.linear(x, self.a), self.b)

    seen = trace(Lora(), torch.randn(2, 3), training=False)
    assert [call.role for call in seen.steps] == ["affine", "affine", "affine", "add"]


def test_a_compiled_model_is_traced_uncompiled_under_its_own_names():
    seen = trace(
        torch.compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), backend="eager"), torch.randn(2, 3), training=False
    )
    assert names(seen.steps) == ["0", "1"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_part_is_one_step_and_that_is_said():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    seen = trace(nn.Sequential(scripted, nn.Tanh()), torch.randn(2, 3), training=False)
    assert names(seen.consumers(seen.of("0")[0])) == ["1"]
    assert seen.notes


def test_tensors_are_kept_only_when_asked():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3)
    assert not trace(model, x, training=False).values
    kept = trace(model, x, training=False, keep=True)
    torch.testing.assert_close(kept.values[kept.of("0")[0].outputs[0]], model[0](x))
    torch.testing.assert_close(kept.output, model(x))


def test_an_observer_sees_every_call_with_its_tensors():
    model, x, seen = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3), []

    def look(call, read, made):
        seen.append((call.name, made[0].clone()))

    trace(model, x, training=False, on_call=look)
    assert [name for name, _ in seen] == ["linear", "0", "relu", "1", ""]
    torch.testing.assert_close(dict(seen)["1"], model(x))


def test_tracing_draws_the_same_masks_at_the_same_seed_and_disturbs_nothing():
    model, x = nn.Dropout(0.5), torch.ones(1000)
    state = torch.get_rng_state()
    first, again = (trace(model, x, training=True, keep=True, seed=4).output for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


def test_a_failing_forward_leaves_no_hook_behind():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x) @ torch.ones(9, 9)

    model = Fails()
    before = fingerprint(model)
    with pytest.raises(NndiagError, match="Fails"):
        trace(model, torch.randn(2, 3), training=True)
    assert fingerprint(model) == before
    assert not model.layer._forward_hooks


def test_dict_inputs_tuple_outputs_and_models_without_parameters_are_traced():
    class Plain(nn.Module):
        def forward(self, a, b):
            return torch.sin(a), (b * 2,)

    seen = trace(Plain(), Batch({"a": torch.ones(2), "b": torch.ones(2)}), training=False)
    assert names(seen.steps) == ["sin", "mul"]
    assert len(seen.outputs) == 2


def test_public_names_are_used():
    assert class_name(nn.Dropout()) == "torch.nn.Dropout"
    assert class_name(Everything()).endswith("test_sites.Everything")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("found", list(healthy())[::4], ids=lambda found: found.name)
def test_in_every_healthy_model_each_weighted_step_leads_to_the_output(found):
    seen = trace(found.make(), found.batch, training=True)
    for call in seen.steps:
        if call.role in WEIGHTED:
            assert seen.is_output(call) or any(seen.is_output(later) for later in seen.downstream(call)), call.name
    assert not seen.notes
