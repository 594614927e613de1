"""The model's side: ceiling, initial loss, batch-norm statistics, micro-training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from checks.normalization_bench import cnn, codes, linear, look, mlp, number, strokes, the, trained

RAW, Y = strokes()
UNIT = RAW / 255
STD = (RAW - RAW.mean()) / RAW.std()
MODEL = {"NRM101", "NRM102", "NRM103", "NRM104", "NRM105"}


class Divides(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return self.inner(x / 255.0)


def begins_with(layer):
    return lambda: nn.Sequential(layer(), *mlp())


@pytest.mark.parametrize("model", [linear, mlp])
def test_raw_pixels_at_a_learning_rate_for_unit_inputs(model):
    report = look(RAW, Y, model=model, optimizer="sgd", lr=0.1)
    assert {"NRM101", "NRM201"} <= codes(report, "error")
    assert {"NRM001", "NRM105"} <= codes(report, "note")  # one cause, one headline
    assert "NRM001 names the cause" in the(report, "NRM201").means
    ceiling = number(report, "learning_rate_ceiling")
    assert ceiling < 0.01
    assert f"{ceiling:.2g}" in report.answers[0]
    assert "x above it; divide by 255" in report.answers[0]


@pytest.mark.parametrize("model", [linear, mlp, cnn])
@pytest.mark.parametrize("scale", ["unit", "standardised"])
def test_the_same_models_on_sane_inputs_get_notes_at_most(model, scale):
    report = look(UNIT if scale == "unit" else STD, Y, model=model, optimizer="sgd", lr=0.1)
    assert not codes(report, "error") | codes(report, "warning")


def test_the_ceiling_of_a_linear_model_is_the_closed_form():
    from nndiag.science.conditioning import step_ceiling, top_eigenvalue

    def zeroed():
        model = linear()
        nn.init.zeros_(model[1].weight)
        nn.init.zeros_(model[1].bias)
        return model

    x = STD[:64]
    expected = step_ceiling(top_eigenvalue(x.flatten(1).numpy()) / 10, momentum=0.9)
    report = look(x, Y[:64], model=zeroed, optimizer="sgd", lr=0.1, optimizer_args={"momentum": 0.9}, train=False)
    assert number(report, "learning_rate_ceiling") == pytest.approx(expected, rel=0.01)


def test_without_a_learning_rate_the_ceiling_is_measured_and_not_judged():
    report = look(UNIT, Y, model=mlp, train=False)
    assert number(report, "learning_rate_ceiling") > 0
    assert "no learning rate" in next(skip.reason for skip in report.skipped if skip.code == "NRM101")


@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm2d(1), lambda: nn.LayerNorm([1, 12, 12])])
def test_a_first_normaliser_makes_raw_pixels_harmless(layer):
    report = look(RAW, Y, model=begins_with(layer))
    assert not codes(report) & {"NRM001", "NRM105", "NRM201"}
    assert "scale-free" in " ".join(report.context)


def test_a_rescaling_in_the_forward_is_what_the_first_layer_sees():
    report = look(RAW, Y, model=Divides, optimizer="sgd", lr=0.1)
    assert not codes(report, "error") | codes(report, "warning")


def test_raw_pixels_before_a_convolution_with_batch_norm_are_a_note():
    report = look(RAW, Y, model=cnn, optimizer="sgd", lr=0.05)
    assert the(report, "NRM001").severity.word == "note"


def test_an_embedding_reads_ids():
    tokens = torch.randint(0, 500, (64, 12))
    report = look(
        tokens,
        torch.randint(0, 2, (64,)),
        model=lambda: nn.Sequential(nn.Embedding(500, 8), nn.Flatten(), nn.Linear(96, 2)),
    )
    assert not codes(report)


def test_the_gradient_and_loss_of_255_fold_inputs():
    unit = number(look(UNIT, Y, model=linear, train=False), "gradient_norm_at_start")
    report = look(RAW, Y, model=linear, train=False)
    assert number(report, "gradient_norm_at_start") / unit > 255
    assert number(report, "loss_at_start") > 10 * np.log(10)


def test_what_happens_when_one_scale_is_trained_and_the_other_served():
    report = look(UNIT, Y, model=mlp, optimizer="adam", lr=0.01)
    rows = next(table for table in report.tables if table.title.startswith("trained on one scale")).rows
    assert [row[:2] for row in rows] == [("x/255", "x/255"), ("x/255", "x"), ("x", "x"), ("x", "x/255")]
    logits, sure = ([row[k] for row in rows] for k in (3, 5))
    assert logits[1] > 20 * logits[0]
    assert logits[2] > 20 * logits[3]
    assert sure[1] > 0.9 > sure[0]
    assert all(0 <= share <= 1 for row in rows for share in (row[2], row[4], row[5]))


def test_unscaled_targets_are_standardised_with_the_inputs():
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    y = (1e5 + 3e4 * x[:, :1]).astype(np.float32)
    report = look(x, y, model=lambda: nn.Linear(8, 1), optimizer="adam", lr=0.01)
    assert {"NRM011", "NRM201"} <= codes(report)
    assert "(and targets)" in the(report, "NRM201").message


class Bumps(nn.Module):
    """Radial basis functions: inputs of a thousand are far from every centre."""

    def __init__(self):
        super().__init__()
        self.centres, self.head = nn.Parameter(torch.randn(20, 8)), nn.Linear(20, 2)

    def forward(self, x):
        return self.head(torch.exp(-(torch.cdist(x, self.centres) ** 2 / 16)))


@pytest.mark.parametrize(("scale", "loud"), [(1.0, False), (1000.0, True)])
def test_data_that_nothing_is_left_of_at_the_first_weights(scale, loud):
    x = np.random.default_rng(0).normal(size=(128, 8)).astype(np.float32)
    report = look(x * scale, (x[:, 0] > 0).astype(int), model=Bumps, optimizer="adam", lr=0.01, steps=20)
    assert ("NRM001" in codes(report)) == loud


def correlation(outputs, targets):
    a, b = (one - one.mean() for one in (outputs, targets))
    return -(a * b).sum() / (a.norm() * b.norm())


def relative(outputs, targets):
    return ((outputs - targets).abs() / targets.abs()).mean()


@pytest.mark.parametrize(
    ("offset", "loss", "scale", "away"),
    [
        (0.0, "mse", 1.0, True),
        (128.0, "mse", 1.0, False),
        (0.0, correlation, 1.0, False),
        (0.0, correlation, 1e-6, False),
        (0.0, relative, 1.0, True),
        (0.0, "mse", 1e-6, True),
        (1e4, "mse", 1e-6, True),
    ],
)
def test_the_distance_to_the_targets_is_that_of_the_models_own_start_where_the_loss_has_a_scale(
    offset, loss, scale, away
):
    class Adding(nn.Linear):
        def forward(self, x):
            return super().forward(x) + offset

    x = np.random.default_rng(0).normal(size=(128, 8)).astype(np.float32)
    y = (scale * (128 + 40 * x[:, :1])).astype(np.float32)
    assert ("NRM011" in codes(look(x, y, model=lambda: Adding(8, 1), loss=loss, train=False))) == away


class Tokens(nn.Module):
    """FT-Transformer: every number becomes a token, times a vector of its own."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(8, 16) / 4), nn.Linear(16, 2)

    def forward(self, x):
        return self.head((self.weight * x[..., None]).mean(1))


@pytest.mark.parametrize(("column", "code"), [(1.0, None), (1e5, "NRM003")])
def test_columns_that_a_tokenizer_spreads_over_all_features_are_named(column, code):
    x = np.random.default_rng(0).normal(size=(128, 8)).astype(np.float32)
    x[:, 3] *= column
    report = look(x, (x[:, 0] > 0).astype(int), model=Tokens, train=False)
    assert codes(report) & {"NRM001", "NRM003"} == ({code} if code else set())
    assert code is None or the(report, code).where.module == "feature 3"


class KeyAndQuery(nn.Module):
    """MoCo: the key encoder starts as a frozen copy, so that a fresh model tells positives at once."""

    def __init__(self):
        super().__init__()
        self.query = nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.query(torch.as_tensor(UNIT[:4], dtype=torch.float32))
        self.query[2].reset_running_stats()
        self.key = copy.deepcopy(self.query).requires_grad_(requires_grad=False)
        self.register_buffer("queue", nn.functional.normalize(torch.randn(64, 16), dim=1))

    def forward(self, x):
        q, k = (nn.functional.normalize(part(x), dim=1) for part in (self.query, self.key))
        return torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.t()], 1) / 0.02


def test_a_fresh_contrastive_model_is_never_trained_however_low_its_loss():
    report = look(UNIT, np.zeros(len(UNIT), dtype=np.int64), model=KeyAndQuery, train=False)
    assert "NRM102" not in codes(report)


def test_whole_numbers_under_a_users_loss_are_ids():
    ids = np.random.default_rng(0).integers(0, 900, (200, 6))

    def nll(outputs, targets):
        return nn.functional.cross_entropy(outputs.transpose(1, 2), targets)

    def model():
        return nn.Sequential(nn.Linear(8, 60), nn.Unflatten(1, (6, 10)), nn.Linear(10, 900))

    report = look(
        np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32), ids, model=model, loss=nll, train=False
    )
    assert "NRM011" not in codes(report)


def test_a_momentum_of_zero_is_found_before_any_training():
    def model():
        norms = nn.BatchNorm1d(32, momentum=0.0), nn.BatchNorm1d(32)
        first = nn.Linear(UNIT[0].numel(), 32)
        return nn.Sequential(nn.Flatten(), first, norms[0], nn.ReLU(), nn.Linear(32, 32), norms[1], nn.Linear(32, 10))

    report = look(UNIT, Y, model=model, train=False)
    assert the(report, "NRM102").where.module == "2"
    assert "momentum is 0" in the(report, "NRM102").message


def test_a_never_trained_batch_norm_is_skipped():
    report = look(UNIT, Y, model=cnn, train=False)
    assert "never trained" in next(skip.reason for skip in report.skipped if skip.code == "NRM102")


@pytest.mark.parametrize(
    ("momentum", "steps", "frozen", "words"),
    [(0.1, 10, False, "10 updates"), (0.0, 200, False, "momentum is 0"), (0.1, 150, True, "never updated")],
)
def test_stale_statistics_and_their_cause(momentum, steps, frozen, words):
    shifted = 3 * STD + 5
    model = trained(cnn(momentum), shifted, Y, steps, frozen=frozen)
    report = look(shifted, Y, model=model, train=False)
    found = the(report, "NRM102")
    assert words in found.message
    assert found.where.module == "1"


def test_a_trained_model_on_its_data_and_on_held_out_data_is_quiet():
    model = trained(cnn(), STD[:300], Y[:300], 300)
    assert not codes(look(STD[:300], Y[:300], model=model, train=False))
    assert not codes(look(STD[300:], Y[300:], model=model, train=False))


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [(UNIT, RAW, "divided by 255"), (RAW, UNIT, "multiplied by 255"), (UNIT, 2 * UNIT - 1, "(x + 1) / 2")],
    ids=["fed raw", "fed unit", "fed [-1, 1]"],
)
def test_a_checkpoint_knows_how_its_training_data_were_scaled(was, now, words):
    model = trained(cnn(), was, Y, 300)
    report = look(now, Y, model=model, train=False)
    assert codes(report) & MODEL == {"NRM104"}
    assert words in the(report, "NRM104").message


def test_batch_norm_after_ten_updates_is_one_sigma_off():
    def model(updates):
        torch.manual_seed(0)
        made = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
        nn.init.normal_(made[0].weight, 1, 0.1)
        for _ in range(updates):
            made[0](3.1 + torch.randn(256, 4))
        return made.eval()

    x, y = 3.1 + torch.randn(512, 4, generator=torch.Generator().manual_seed(0)), torch.arange(512) % 2
    report = look(x, y, model=model(10), train=False)
    # mean and variance of the start are left to .9^10 = .349: |m - .651 m| / sd = 1.08 sd
    assert "35%" in the(report, "NRM102").message
    assert "1.1 sd" in the(report, "NRM102").message
    assert "NRM102" not in codes(look(x, y, model=model(300), train=False))


@pytest.mark.parametrize("size", [1, 2])
def test_tiny_batches(size):
    assert "NRM103" in codes(look(STD, Y, model=cnn, batch_size=size, train=False))
    loader = DataLoader(TensorDataset(STD[:64], Y[:64]), batch_size=size)
    assert "NRM103" in codes(look(loader, model=cnn, train=False))


def test_a_last_batch_of_one_counts_and_a_sane_batch_does_not():
    assert "last batch" in the(look(STD[:65], Y[:65], model=cnn, batch_size=32, train=False), "NRM103").message
    assert "NRM103" not in codes(look(STD, Y, model=cnn, batch_size=32, train=False))
    assert "NRM103" not in codes(look(STD, Y, model=cnn, train=False))


def test_the_users_model_comes_back_bit_for_bit():
    from nndiag.lab.borrow import fingerprint

    model = trained(cnn(), STD, Y, 5)
    before, twin = fingerprint(model), copy.deepcopy(model)
    look(STD, Y, model=model, optimizer="sgd", lr=0.1)
    assert fingerprint(model) == before
    assert torch.equal(next(model.parameters()), next(twin.parameters()))


def test_equal_runs_give_equal_reports():
    from nndiag.core.serial import to_dict

    first, second = (to_dict(look(RAW, Y, model=mlp, optimizer="sgd", lr=0.1)) for _ in range(2))
    for document in (first, second):
        document["run"].pop("timing", None)
    assert first == second


@pytest.mark.parametrize("given", [UNIT, STD], ids=["unit", "standardised"])
def test_a_model_that_divides_what_was_divided_is_told_so(given):
    report = look(given, Y, model=Divides)
    finding = the(report, "NRM008")
    assert finding.where.module == "inner.1"
    assert "normalised already" in finding.message
    assert "NRM002" not in codes(report)


def test_a_model_that_divides_raw_pixels_itself_is_left_alone():
    report = look(RAW, Y, model=Divides)
    assert not codes(report, "error") | codes(report, "warning")


def test_a_rate_that_blows_up_standardised_inputs_is_above_the_ceiling():
    report = look(STD, Y, model=mlp, optimizer="sgd", lr=300.0)
    assert "NRM101" in codes(report, "error")


def test_the_exact_cure_is_spelled_out_once():
    report = look(RAW, Y, model=mlp, optimizer="sgd", lr=0.1)
    spelled = [item for item in report.findings if "Keras" in item.fix]
    assert len(spelled) == 1
    assert sum(f"under {spelled[0].rule.code}" in item.fix for item in report.findings) >= 2
    assert len(report.answers[0]) < 200


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_file_of_weights_alone_knows_how_its_training_data_were_scaled(kind, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / f"w.{kind}"
    state = trained(cnn(), UNIT, Y, 100).state_dict()
    if kind == "pt":
        torch.save(state, path)
    else:
        save_file({name: item.contiguous() for name, item in state.items()}, path)
    found = the(look(RAW, Y, model=str(path)), "NRM104")
    assert "divided by 255" in found.message
    assert found.evidence.interval[0] < found.evidence.value < found.evidence.interval[1]
    assert not codes(look(UNIT, Y, model=str(path)))


def test_strong_dropout_before_the_head_does_not_inflate_the_start():
    def model():
        return nn.Sequential(*mlp()[:-1], nn.Dropout(0.999), nn.Linear(64, 10))

    assert "NRM105" not in codes(look(UNIT, Y, model=model, train=False))


def test_answers_that_compare_rows_with_one_another_are_no_classes():
    class Contrastive(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(144, 16), nn.Linear(144, 16)

        def forward(self, x):
            return 100 * self.left(x.flatten(1)) @ self.right(x.flatten(1)).T

    batches = [(UNIT[k : k + 16], torch.arange(16)) for k in range(0, 64, 16)]
    report = look(batches, model=Contrastive, train=False)
    assert "classification only" in next(skip.reason for skip in report.skipped if skip.code == "NRM105")
