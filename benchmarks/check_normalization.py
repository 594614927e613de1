"""How fast is one pass over a large .npy, against a chunked numpy sum and scikit-learn's StandardScaler?

    python benchmarks/check_normalization.py [--gigabytes 10] [--features 784] [--folder /tmp]

All three read the same file in the same chunks, one after the other, in processes of their own; the file is read once
before, so that all find it in the page cache as far as that reaches. Prints GB/s, ratios, and peak memory above import.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CHUNK = 1 << 20  # bytes, what nndiag's reader takes


def write(path, gigabytes, features):
    import numpy as np

    rows = int(gigabytes * 1e9) // (4 * features)
    block = np.random.default_rng(0).random((4096, features), dtype=np.float32)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, features))
    for start in range(0, rows, 4096):
        array[start : start + 4096] = block[: rows - start]
    array.flush()


def chunks(path):
    """Read the file as plainly as numpy can: into one buffer, again and again."""
    import numpy as np

    array = np.load(path, mmap_mode="r")
    rows, (total, features) = max(1, CHUNK // (4 * array.shape[1])), array.shape
    with path.open("rb", buffering=0) as file:
        file.seek(array.offset)
        buffer = np.empty((rows, features), np.float32)
        for start in range(0, total, rows):
            part = buffer[: min(rows, total - start)]
            file.readinto(part.data.cast("B"))
            yield part


def sums(path):
    import numpy as np

    return float(np.sum([part.sum(dtype=np.float64) for part in chunks(path)]))


def mapped_sums(path):
    """The usual loop: a memory map, 64 MiB at a time."""
    import numpy as np

    array = np.load(path, mmap_mode="r")
    rows = max(1, (64 << 20) // (4 * array.shape[1]))
    return float(np.sum([array[start : start + rows].sum(dtype=np.float64) for start in range(0, len(array), rows)]))


def column_sums(path):
    import numpy as np

    return float(sum(part.sum(axis=0, dtype=np.float64) for part in chunks(path)).sum())


def sklearn_scaler(path):
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for part in chunks(path):
        scaler.partial_fit(part)
    return float(scaler.mean_.sum())


def ours(path):
    from nndiag.lab.scale import look
    from nndiag.load.data import load_data

    return float(look(load_data(str(path))).inputs.moments.mean.sum())


READERS = {
    "numpy sum": sums,
    "numpy sum, memory-mapped": mapped_sums,
    "numpy sum per column": column_sums,
    "StandardScaler.partial_fit": sklearn_scaler,
    "nndiag": ours,
}


def measure(name, path):
    """One reader in this process: imports first, then the pass."""
    import numpy as np

    tiny = path.with_name("tiny.npy")
    np.save(tiny, np.random.default_rng(0).random((256, 4), dtype=np.float32))
    READERS[name](tiny)
    before, peak, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident())

    threading.Thread(target=watch, daemon=True).start()
    begun = time.perf_counter()
    READERS[name](path)
    seconds = time.perf_counter() - begun
    done.set()
    print(json.dumps({"seconds": seconds, "mib": peak[0] - before}))


def resident():
    """MiB of this process's own memory, without pages of mapped files."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return (int(pages[1]) - int(pages[2])) * resource.getpagesize() / 2**20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], Path(options.one[1]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "x.npy"
        write(path, options.gigabytes, options.features)
        size = path.stat().st_size / 1e9
        sums(path)
        results = {}
        for name in READERS:
            runs = []
            for _ in range(options.repeat):
                out = subprocess.run(
                    [sys.executable, __file__, "--one", name, str(path)], check=True, capture_output=True
                )
                runs.append(json.loads(out.stdout))
            results[name] = min(runs, key=lambda run: run["seconds"])
        for name, run in results.items():
            ratio = results["numpy sum"]["seconds"] / run["seconds"]
            speed = f"{size / run['seconds']:6.2f} GB/s   {ratio:5.0%} of numpy sum"
            print(f"{name:28s} {speed}   {run['mib']:6.0f} MiB above import")


if __name__ == "__main__":
    main()
