"""Ids in every format that is promised, and what is refused."""

import numpy as np
import pytest

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
from nndiag.load.tokens import load_tokens


def all_of(spec):
    tokens = load_tokens(str(spec))
    return tokens.kind, np.concatenate(list(tokens.chunks())).tolist()


def test_integer_arrays_are_ids(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]], dtype=np.int32))
    assert all_of(tmp_path / "a.npy") == ("ids", [1, 2, 3, 4])


def test_tables_and_their_columns_are_ids(tmp_path):
    (tmp_path / "a.csv").write_text("other,input_ids\n0.5,3\n0.25,4\n")
    assert all_of(tmp_path / "a.csv") == ("ids", [3, 4])


def test_parquet_with_lists_of_ids(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"input_ids": [[1, 2], [3]], "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert all_of(tmp_path / "a.parquet") == ("ids", [1, 2, 3])


def test_text_of_whole_numbers_is_ids(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3\n4,5\n-1\n")
    assert all_of(tmp_path / "a.txt") == ("ids", [1, 2, 3, 4, 5, -1])


def test_running_text_is_numbered_in_order_of_appearance(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\non the mat\n", encoding="utf-8")
    assert all_of(tmp_path / "a.txt") == ("words", [0, 1, 2, 3, 0, 4])


def test_a_stream_can_be_read_twice(tmp_path):
    (tmp_path / "a.txt").write_text("5 6 7\n")
    tokens = load_tokens(str(tmp_path / "a.txt"))
    assert [list(part) for part in tokens.chunks()] == [list(part) for part in tokens.chunks()]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("empty.txt", b"", NothingApplicableError),
        ("blank.txt", b"  \n \n", NothingApplicableError),
        ("latin.txt", "déjà vu".encode("latin1"), NndiagError),
        ("fractions.txt", b"1.5 2.5 3", NndiagError),
        ("mixed.txt", b"1 2 3 " * 40 + b"four", NndiagError),
        ("image.png", b"\x89PNG\r\n\x1a\n0000", NndiagError),
    ],
)
def test_what_holds_no_ids_is_refused(tmp_path, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        list(load_tokens(str(tmp_path / name)).chunks())


def test_floating_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(4))
    with pytest.raises(NndiagError, match="whole numbers"):
        load_tokens(str(tmp_path / "a.npy"))


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        load_tokens(str(tmp_path / "nothing.npy"))
