"""One pass over batches or chunks gives the same picture."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from nndiag.core.errors import NndiagError
from nndiag.lab.scale import look
from nndiag.load.data import data_of, load_data

RNG = np.random.default_rng(0)
X, Y = RNG.normal(2, 3, (500, 6)).astype(np.float32), RNG.integers(0, 3, 500)


def test_files_tensors_and_loaders_agree(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=32)
    seen = [look(load_data(str(tmp_path / "a.npz"))), look(data_of((X, Y))), look(data_of(loader))]
    for one in seen:
        assert one.inputs.rows == 500
        assert one.inputs.moments.mean == pytest.approx(X.mean(0, dtype=np.float64), rel=1e-6)
        assert (one.inputs.sample == seen[0].inputs.sample).all()
        assert one.targets.counts == tuple(np.bincount(Y))
    assert [one.batch_size for one in seen] == [None, None, 32]
    assert seen[2].last_batch == 500 % 32


def test_of_several_inputs_the_floating_one_is_looked_at():
    ids = torch.zeros(9, 4, dtype=torch.long)
    seen = look(data_of([({"input_ids": ids, "pixels": torch.rand(9, 3, 4, 4)}, torch.zeros(9))]))
    assert seen.key == "pixels"
    assert seen.others == ("input_ids",)


def test_rows_of_another_width_are_refused():
    with pytest.raises(NndiagError, match="another width"):
        look(data_of([torch.rand(4, 5), torch.rand(4, 5), torch.rand(4, 6)]))


def test_a_budget_that_is_spent_ends_the_pass():
    seen = look(data_of(torch.rand(61 * 300, 2)), seconds=lambda: 0.0)
    assert not seen.complete
    assert seen.inputs.rows < 61 * 300
