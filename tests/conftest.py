"""What all tests share: `--update` rewrites golden files; one thread, so that equal runs are equal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="rewrite golden files with what is rendered now")


@pytest.fixture
def golden(request):
    """Compare a text with a golden file, or rewrite the file with --update."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing: run pytest --update, then read the diff"
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture
def clean_environment(monkeypatch, tmp_path):
    """An empty working folder and no variable that nndiag listens to."""
    for name in list(os.environ):
        if name.startswith("NNDIAG_") or name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
