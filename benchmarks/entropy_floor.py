"""entropy-floor against scipy.stats.entropy, in time and in memory, and the whole command on a small file.

    python benchmarks/entropy_floor.py [--rows 2000000]

Single-threaded. Ratios are medians over rounds in which both sides run one after the other; the spread is the range.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

PEAK = """
import json, sys
def high_water():  # of this process alone: ru_maxrss would remember the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
bare = high_water()
from nndiag.cli.app import main
code = main(["entropy-floor", sys.argv[1], "-q", "--isolated"])
peak = high_water()
print(json.dumps({"code": code, "above_mb": (peak - bare) / 1024, "torch": "torch" in sys.modules}), file=sys.stderr)
"""


def summary(values):
    return f"{statistics.median(values):.3g} (range {min(values):.3g} to {max(values):.3g}, n = {len(values)})"


def timed(work):
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def against_scipy(path, rounds):
    """File to floor in chunks, against SciPy on the array that is already in memory."""
    import numpy as np
    from scipy.stats import entropy

    from nndiag.checks.entropy_floor.layout import as_source
    from nndiag.checks.entropy_floor.measure import Recipe, measure
    from nndiag.load.arrays import open_arrays

    loaded = np.load(path)
    ratios, ours, theirs = [], [], []
    for _ in range(rounds):
        mine, found = timed(lambda: measure(as_source(open_arrays(str(path))[""], "labels"), None, "", Recipe()))
        other, mean = timed(lambda: entropy(loaded, axis=1).mean())
        if abs(found.labels.floor.mean - float(mean)) > 1e-5:
            raise SystemExit("the two do not agree")
        ours.append(mine)
        theirs.append(other)
        ratios.append(other / mine)
    print(f"2. floor, prior, validity, quantiles from the file: {summary(ours)} s")
    print(f"   scipy.stats.entropy(x, axis=1).mean() on the loaded array: {summary(theirs)} s")
    print(f"   times faster: {summary(ratios)} (wanted: 2)")


def peak_memory(path):
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    print(
        f"1. peak above the bare interpreter: {json.loads(done.stderr.splitlines()[-1])} (wanted: <= 200 MB, no torch)"
    )


def whole_command(folder, rounds):
    path = folder / "labels.csv"
    path.write_text("".join(f"0.{i % 8 + 1},0.{9 - i % 8 - 1 + 0}\n" for i in range(200)))
    command = [sys.executable, "-m", "nndiag"]
    # as an installed program runs: its modules compiled once, not at every start
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    installed = {**bare, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    for title, arguments in (
        ("3. nndiag entropy-floor small.csv", ["entropy-floor", str(path), "--isolated", "-q", "--fail-on", "never"]),
        ("4. nndiag --help", ["--help"]),
    ):
        wall, cpu = [], []

        def run(arguments=arguments):
            return subprocess.run([*command, *arguments], capture_output=True, check=True, env=installed)

        run()
        for _ in range(rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds, _done = timed(run)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            wall.append(seconds)
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        print(f"{title}: wall {summary(wall)} s, processor {summary(cpu)} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    import numpy as np

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "labels.npy"
        rows = np.random.default_rng(0).dirichlet(np.full(10, 0.3), size=options.rows).astype(np.float32)
        np.save(path, rows)
        del rows
        print(f"{options.rows} x 10 float32, one thread")
        peak_memory(path)
        against_scipy(path, options.rounds)
        whole_command(folder, options.rounds)


if __name__ == "__main__":
    main()
