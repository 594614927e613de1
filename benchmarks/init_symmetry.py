"""Duplicate rows against numpy and the memory; a billion parameters against reading the file; a whole run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nndiag.science.orbits import identical

MODEL = """
from torch import nn
def build():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
"""


def best(work, repeats=3):
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def duplicates():
    table = np.random.default_rng(0).standard_normal((50257, 768), dtype=np.float32)
    table[40_000] = table[3]
    read = best(table.sum)
    ours = best(lambda: identical(table))
    constant = np.full_like(table, 0.01)
    same = best(lambda: identical(constant))
    unique = best(lambda: np.unique(table, axis=0), 1)
    print(
        f"50257 x 768 float32: {1e3 * ours:.1f} ms ({1e3 * same:.1f} ms where all rows are equal); reading once "
        f"{1e3 * read:.1f} ms, so {ours / read:.2f}x (target 3x); np.unique {1e3 * unique:.0f} ms, "
        f"{unique / ours:.0f}x slower (target 10x)"
    )


def write_safetensors(path, layers, width):
    """Write `layers` square float32 matrices without holding them."""
    header, end = {}, 0
    for index in range(layers):
        size = 4 * width * width
        header[f"h.{index}.weight"] = {"dtype": "F32", "shape": [width, width], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    block = rng.standard_normal((width, width), dtype=np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(layers):
            file.write(np.roll(block, rng.integers(1, width)).tobytes())


def reading(path):
    buffer = bytearray(64 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def billion(folder, layers=60, width=4096):
    path = folder / "big.safetensors"
    write_safetensors(path, layers, width)
    size = path.stat().st_size
    reading(path)  # into the page cache, for both
    read = best(lambda: reading(path), 2)
    script = (
        "import time, sys; import torch; from nndiag.load.subject import load_subject;"
        "from nndiag.core.check import diagnose; from nndiag.checks.init_symmetry import InitSymmetry;"
        "begun = time.perf_counter();"
        f"report = diagnose(InitSymmetry(), load_subject({str(path)!r}, need_data=False));"
        "print(time.perf_counter() - begun, len(report.findings))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(
        f"{layers * width * width / 1e9:.2f} billion float32 parameters, {size / 1e9:.1f} GB: {float(out[0]):.2f} s "
        f"against {read:.2f} s for reading, {float(out[0]) / read:.2f}x (target 2x); peak {peak:.2f} GB (target 1)"
    )


def whole_run(folder):
    (folder / "model.py").write_text(MODEL)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*words):
        subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=True)

    load = best(lambda: run("-c", "import torch"))
    ours = best(lambda: run("-m", "nndiag", "init-symmetry", "model.py:build"))
    print(f"whole dynamic run, 2-layer MLP: {ours:.2f} s; import torch {load:.2f} s (target: 1 s more)")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        duplicates()
        billion(Path(name))
        whole_run(Path(name))
