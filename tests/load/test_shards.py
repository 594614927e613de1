"""Tar files of samples: what is the input, what the target, and what is refused."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
from nndiag.load.data import load_data


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def png(color, size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "png")
    return buffer.getvalue()


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return str(path)


def test_arrays_with_classes_are_batches(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    members = [
        part for i, row in enumerate(rows) for part in ((f"{i:04}.npy", npy(row)), (f"{i:04}.cls", b"%d" % (i % 3)))
    ]
    batches = list(load_data(tar(tmp_path / "a.tar", members), batch_size=3).batches())
    assert [len(batch.inputs) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), torch.from_numpy(rows))
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("part", "raw"),
    [
        ("txt", b"2\n"),
        ("json", json.dumps({"caption": "a dog", "label": 2}).encode()),
        ("json", b"2"),
        ("y.npy", npy(2)),
    ],
)
def test_images_in_compressed_shards_with_targets_of_several_kinds(tmp_path, part, raw):
    for shard in range(2):
        members = [(f"dir/{i}.png", png((255, 0, 51), (6 + shard, 4))) for i in range(2)]
        members = [item for i, image in enumerate(members) for item in (image, (f"dir/{i}.{part}", raw))]
        tar(tmp_path / f"t-{shard:02}.tar.gz", members, "w:gz")
    (batch,) = load_data(str(tmp_path / "t-{00..01}.tar.gz"), batch_size=8).batches()
    assert batch.inputs.shape == (4, 3, 4, 6)
    assert batch.inputs[:, :, 0, 0].tolist() == [pytest.approx([1.0, 0.0, 0.2])] * 4
    assert batch.targets.tolist() == [2, 2, 2, 2]


def test_a_caption_is_no_target(tmp_path):
    data = load_data(tar(tmp_path / "a.tar", [("0.npy", npy(np.zeros(3))), ("0.txt", b"a dog"), ("0.pkl", b"x")]))
    (batch,) = data.batches()
    assert batch.targets is None


class Bomb:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_is_unpickled(tmp_path, capsys):
    array = npy(np.array([Bomb()], dtype=object))
    with pytest.raises(NndiagError, match="no readable array"):
        list(load_data(tar(tmp_path / "a.tar", [("0.npy", array)])).batches())
    with pytest.raises(NndiagError, match="no input that is read"):
        load_data(tar(tmp_path / "b.tar", [("0.pkl", pickle.dumps(Bomb()))]))
    assert capsys.readouterr().out == ""


def test_bad_shards_are_two_lines(tmp_path):
    whole = tar(tmp_path / "a.tar", [(f"{i}.npy", npy(np.zeros(2000))) for i in range(3)])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:20_000])
    with pytest.raises(NndiagError, match="is damaged"):
        list(load_data(str(tmp_path / "cut.tar")).batches())
    (tmp_path / "junk.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(NndiagError, match="is damaged"):
        load_data(str(tmp_path / "junk.tar"))
    with pytest.raises(NothingApplicableError, match="holds no sample"):
        load_data(tar(tmp_path / "empty.tar", [("README", b"x")]))
    with pytest.raises(UsageError, match="there is no file"):
        load_data(whole.replace("a.tar", "b-{0..3}.tar"))
    lacking = tar(tmp_path / "l.tar", [("0.npy", npy(np.zeros(2))), ("0.cls", b"1"), ("1.npy", npy(np.zeros(2)))])
    with pytest.raises(NndiagError, match=r"l\.tar: 1 has no \.cls"):
        list(load_data(lacking).batches())
    ragged = tar(tmp_path / "r.tar", [("0.npy", npy(np.zeros(2))), ("1.npy", npy(np.zeros(3)))])
    with pytest.raises(NndiagError, match=r"shapes \(2,\) and \(3,\)"):
        list(load_data(ragged).batches())
