"""Arrays in bounded chunks equal what NumPy and safetensors read at once; damaged ones say so."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nndiag.core.errors import NndiagError, UsageError
from nndiag.load.arrays import open_arrays, pick
from nndiag.load.chunked import from_array


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", "|b1", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_chunks_join_to_the_array(tmp_path, dtype, order):
    array = np.asarray(np.random.RandomState(0).rand(1000, 7) * 9, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    source = open_arrays(str(tmp_path / "a.npy"))[""]
    blocks = list(source.chunks(300))
    assert [len(block) for block in blocks] == [300, 300, 300, 100]
    assert np.array_equal(np.concatenate(blocks), array)
    assert source.shape == (1000, 7)


def test_a_large_fortran_array_is_read_column_by_column(tmp_path):
    array = np.asfortranarray(np.random.RandomState(0).rand(900_000, 10))
    np.save(tmp_path / "a.npy", array)
    blocks = [(block[0].copy(), block[-1].copy()) for block in open_arrays(str(tmp_path / "a.npy"))[""].chunks(400_000)]
    assert np.array_equal(blocks[2][0], array[800_000])
    assert np.array_equal(blocks[2][1], array[-1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members_are_read_lazily_and_repeatedly(tmp_path, save):
    save(tmp_path / "a.npz", x=np.arange(12.0).reshape(4, 3), y=np.array([0, 1, 2, 1]))
    arrays = open_arrays(str(tmp_path / "a.npz"))
    assert list(arrays) == ["x", "y"]
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(arrays["y"].chunks(3))), [0, 1, 2, 1])
    assert np.array_equal(arrays["x"].whole(), np.arange(12.0).reshape(4, 3))


def test_safetensors_are_read_without_torch_and_bfloat16_exactly(tmp_path):
    tensors = {"y": torch.rand(50, 3).bfloat16(), "z": torch.arange(5)}
    save_file(tensors, tmp_path / "a.safetensors")
    arrays = open_arrays(str(tmp_path / "a.safetensors"))
    assert arrays["y"].dtype == "bfloat16"
    assert np.array_equal(arrays["y"].whole(), tensors["y"].float().numpy())
    assert np.array_equal(np.concatenate(list(arrays["z"].chunks(2))), np.arange(5))


def test_a_truncated_npy_says_how_much_is_missing(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(NndiagError, match="declares 8000 bytes of data and holds 7992"):
        open_arrays(str(path))


def test_a_header_that_claims_400_gigabytes_allocates_nothing(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(4))
    path.write_bytes(path.read_bytes().replace(b"(4,), }          ", b"(99999999999,), }"))
    with pytest.raises(NndiagError, match="declares"):
        open_arrays(str(path))


def test_a_damaged_npz_member_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, y=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(NndiagError, match="damaged"):
        open_arrays(str(path))["y"].whole()


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.array([{"a": 1}], dtype=object), "Python objects"),
        (np.array(["cat", "dog"]), "text"),
        (np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), "structured"),
        (np.array([1j]), "complex"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, array, word):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(NndiagError, match=word):
        open_arrays(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    "content", [b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00garbage", b"\x93NUMPY\x09\x09" + b"x" * 50]
)
def test_a_damaged_npy_header_is_two_lines(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(NndiagError, match="damaged"):
        open_arrays(str(tmp_path / "a.npy"))


def _safetensors(header, data):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        _safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
        _safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8),
        _safetensors(
            {
                "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
                "b": {"dtype": "U8", "shape": [8], "data_offsets": [4, 12]},
            },
            b"\0" * 12,
        ),
        _safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"\0",
        ),
        _safetensors({"a": 3}, b""),
        struct.pack("<Q", 10**6) + b'{"a": 1}',
    ],
    ids=["past the end", "wrong size", "overlap", "named twice", "no entry", "header past the end"],
)
def test_a_lying_safetensors_header_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(NndiagError):
        open_arrays(str(tmp_path / "a.safetensors"))


def test_an_unknown_array_name_lists_those_that_exist(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2), target=np.zeros(2))
    arrays = open_arrays(str(tmp_path / "a.npz"))
    with pytest.raises(UsageError) as caught:
        pick(arrays, "targets", "a.npz")
    assert "target" in caught.value.hint
    assert pick(arrays, None, "a.npz", prefer=("y", "target")) is arrays["target"]


def test_more_than_the_limit_is_not_held_in_memory():
    with pytest.raises(NndiagError, match="larger than"):
        from_array(np.zeros((1 << 18, 2))).whole(limit=1 << 20)


def test_a_zip_without_arrays_says_what_was_wanted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(NndiagError):
        open_arrays(str(tmp_path / "a.npz"))
