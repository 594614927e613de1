"""Tables: headers, separators, columns by name, and errors that name the line and the column."""

import io
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
from nndiag.load.tables import open_table


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def numbers(path, columns=None):
    return open_table(path).select(columns).whole()


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n3,4\n", "a\tb\n1\t2\n3\t4\n", "a;b\n1;2\n3;4\n", "1 2\n3 4\n", "1,2\r\n3,4\r\n", '"a","b"\n"1","2"\n3,4\n',
     "# made by hand\na,b\n1,2\n3,4", "1,2\n\n3,4\n\n"],
)  # fmt: skip
def test_separators_headers_quotes_and_comments_are_understood(tmp_path, text):
    assert np.array_equal(numbers(write(tmp_path, text)), [[1, 2], [3, 4]])


def test_pandas_integer_headers_and_its_row_numbers_are_no_data(tmp_path):
    source = open_table(write(tmp_path, ",0,1,2\n0,0.2,0.3,0.5\n1,0.1,0.1,0.8\n")).select()
    assert np.array_equal(source.whole(), [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    assert source.left_out == ("(row number)",)


def test_a_one_hot_first_row_is_data(tmp_path):
    assert len(numbers(write(tmp_path, "0,1\n1,0\n0,1\n"))) == 3


def test_columns_of_text_are_left_out_and_named(tmp_path):
    source = open_table(write(tmp_path, "file,p0,p1\na.png,0.5,0.5\nb.png,0.1,0.9\n")).select()
    assert source.left_out == ("file",)
    assert source.columns == ("p0", "p1")
    assert np.array_equal(source.whole(), [[0.5, 0.5], [0.1, 0.9]])


def test_text_in_a_column_of_numbers_names_line_and_column(tmp_path):
    path = write(tmp_path, "p0,p1\n0.5,0.5\n0.1,oops\n")
    with pytest.raises(NndiagError, match=r"line 3 of .*t.csv, column 'p1': 'oops'"):
        numbers(path)


def test_a_line_with_too_few_cells_is_named(tmp_path):
    with pytest.raises(NndiagError, match=r"line 3 of .* has 1 cells, the first has 2"):
        numbers(write(tmp_path, "a,b\n1,2\n3\n"))


def test_empty_cells_are_nan(tmp_path):
    assert np.isnan(numbers(write(tmp_path, "a,b\n1,\n3,4\n"), ["b"])[0, 0])


def test_a_missing_column_lists_those_that_exist(tmp_path):
    with pytest.raises(UsageError) as caught:
        numbers(write(tmp_path, "step,train_loss\n1,2\n"), ["loss"])
    assert "step, train_loss" in caught.value.hint


@pytest.mark.parametrize("text", ["a,b\n", "\n\n", "# only this\n"])
def test_a_table_without_rows_has_nothing_to_judge(tmp_path, text):
    with pytest.raises(NothingApplicableError):
        open_table(write(tmp_path, text))


def test_line_numbers_count_through_blocks(tmp_path):
    path = write(tmp_path, "a\n" + "1\n" * 70_000 + "x\n")
    with pytest.raises(NndiagError, match="line 70002 "):
        list(open_table(path).select().chunks(1000))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3\n1\n", [[3], [1]]),
        ("[0.5, 0.5]\n[0.1, 0.9]\n", [[0.5, 0.5], [0.1, 0.9]]),
        ('{"p": [0.5, 0.5], "id": 7}\n{"p": [0.1, 0.9], "id": 8}\n', [[0.5, 0.5], [0.1, 0.9]]),
        ("[[0.5, 0.5], [0.1, 0.9]]", [[0.5, 0.5], [0.1, 0.9]]),
        ("[\n [0.5, 0.5],\n [0.1, 0.9]\n]\n", [[0.5, 0.5], [0.1, 0.9]]),
    ],
)
def test_json_lines_and_documents_give_rows(tmp_path, text, expected):
    columns = ["p"] if '"p"' in text else None
    assert np.array_equal(numbers(write(tmp_path, text, "t.json"), columns), expected)


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n{"a": \n', "[" * 100_000, '{"a": 1}\n[2]\n', '{"a": 1}\n{"b": 2}\n', "[1,2]\n[1]\n"]
)
def test_broken_json_is_two_lines(tmp_path, text):
    with pytest.raises(NndiagError):
        numbers(write(tmp_path, text, "t.jsonl"))


def test_parquet_gives_numbers_and_lists(tmp_path):
    parquet.write_table(pa.table({"y": [0, 1], "p": [[0.5, 0.5], [0.1, 0.9]], "s": ["a", "b"]}), tmp_path / "t.parquet")
    assert np.array_equal(numbers(str(tmp_path / "t.parquet"), ["p"]), [[0.5, 0.5], [0.1, 0.9]])
    assert open_table(str(tmp_path / "t.parquet")).select(["y"]).whole().tolist() == [[0], [1]]
    parquet.write_table(pa.table({"a": pa.array([0.1, 2], pa.float32()), "b": [1.0, 2.0]}), tmp_path / "f.parquet")
    single, mixed = (open_table(str(tmp_path / "f.parquet")).select(names) for names in (["a"], None))
    assert (single.dtype, single.whole().dtype) == ("float32", np.float32)
    assert (mixed.dtype, mixed.whole().dtype) == ("float64", np.float64)
    with pytest.raises(NndiagError, match="text"):
        numbers(str(tmp_path / "t.parquet"), ["s"])


def test_a_truncated_parquet_is_damaged(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"y": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NndiagError, match="damaged"):
        open_table(str(path))


@pytest.mark.parametrize("text", ["p0,p1\n" + "0.5,0.5\n" * 5000, "[0.5, 0.5]\n" * 5000])
def test_stdin_is_read_once_and_whole(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode()))))
    source = open_table("-").select()
    assert source.once
    assert sum(len(block) for block in source.chunks(100)) == 5000


def test_the_written_precision_is_known(tmp_path):
    assert open_table(write(tmp_path, "0.33,0.67\n0.125,0.875\n")).decimals == 3
    assert open_table(write(tmp_path, "3.3e-01,6.7e-01\n")).decimals == 2
