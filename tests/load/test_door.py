"""The one door: what is let in, what is refused, and how it says so."""

import io
import os
import socket
import sys
import zipfile

import numpy as np
import pytest

from nndiag.core.errors import NndiagError, NothingApplicableError, UsageError
from nndiag.load.door import inspect, open_zip, require, shown, split_column


def test_a_missing_file_is_a_usage_error_that_names_its_neighbour(tmp_path):
    (tmp_path / "labels.npy").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        inspect(str(tmp_path / "label.npy"))
    assert caught.value.exit_code == 2
    assert "labels.npy" in caught.value.hint


def test_an_empty_file_has_nothing_to_judge(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(NothingApplicableError):
        inspect(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "socket"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    target = "/dev/zero" if kind == "device" else str(path)
    with pytest.raises(NndiagError) as caught:
        inspect(target)
    assert caught.value.exit_code == 3


def test_a_path_with_a_null_byte_is_a_usage_error():
    with pytest.raises(UsageError):
        inspect("a\0b")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x93NUMPY\x01\x00", "npy"),
        (b"PAR1....", "parquet"),
        (b'{"loss": 1}\n', "json"),
        (b" [1, 2]\n", "json"),
        (b"a,b\n1,2\n", "text"),
        (b"\xff\xfea\x00", "text"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x01\x00\x02", "binary"),
        (b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\0\0\0\0\0\0\xd8A\x1a\rbrain.Event:2", "events"),
    ],
)
def test_content_decides_the_kind_whatever_the_suffix(tmp_path, content, kind):
    path = tmp_path / "data.wrong"
    path.write_bytes(content)
    assert inspect(str(path)).kind == kind


def test_zip_files_are_told_apart_by_what_they_hold(tmp_path):
    np.savez(tmp_path / "a.bin", x=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "b.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert inspect(str(tmp_path / "a.bin.npz")).kind == "npz"
    assert inspect(str(tmp_path / "b.bin")).kind == "torch"


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("y.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(NndiagError, match="unpacks from"):
        open_zip(inspect(str(path)))


def test_a_truncated_zip_says_that_it_is_damaged(tmp_path):
    path = tmp_path / "y.npz"
    np.savez(path, y=np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(NndiagError, match="damaged"):
        open_zip(inspect(str(path)))


def test_the_column_is_split_at_the_last_colon_when_the_file_exists(tmp_path):
    path = tmp_path / "run:1.csv"
    path.write_text("a\n1\n")
    assert split_column(f"{path}:train_loss") == (str(path), "train_loss")
    assert split_column(str(path)) == (str(path), None)
    assert split_column("-:loss") == ("-", "loss")


def test_a_missing_extra_says_how_to_install_it():
    with pytest.raises(NndiagError) as caught:
        require("no_such_module_at_all", "data", "reading Parquet")
    assert caught.value.hint == "pip install 'nndiag[data]'"


def test_outside_text_is_made_printable():
    assert shown("a\x1b[31m\n") == "a\\x1b[31m\\n"


def test_stdin_is_sniffed_without_losing_a_byte(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"1\n2\n"))))
    opened = inspect("-")
    assert opened.kind == "text"
    assert sys.stdin.buffer.read() == b"1\n2\n"
