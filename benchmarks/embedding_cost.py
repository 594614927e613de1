"""Predicted step against measured step of a table, single-threaded.

Every configuration is predicted from smaller tables (T = a + bV over three sizes, none above 64 MiB where the gradient
is dense) and run at its true size. The four sizes take turns, so that what else the machine does hits all of them; both
sides are lowest tenths, as in the command. Says whether the target (median error at most 15 %, worst at most 40 %, at
least 24 configurations) is met.

Run: OMP_NUM_THREADS=1 python benchmarks/embedding_cost.py [--quick]    (--quick: every second configuration)
"""

import statistics
import sys
import time

import torch
from torch import optim

from nndiag.lab.embedding.ids import ZipfIds
from nndiag.lab.embedding.look import Trial
from nndiag.lab.embedding.step import Forecast, sizes_to_try, time_sizes

OPTIMIZERS = {  # name: maker, sparse, table-sized tensors alive at once
    "Adam for-loop": (lambda p: optim.Adam(p, foreach=False), False, 6),
    "Adam fused": (lambda p: optim.Adam(p, fused=True), False, 4),
    "AdamW foreach": (lambda p: optim.AdamW(p, foreach=True), False, 5),
    "Adagrad": (lambda p: optim.Adagrad(p, foreach=False), False, 4),
    "SGD": (lambda p: optim.SGD(p, lr=0.1), False, 2),
    "SparseAdam": (optim.SparseAdam, True, 3),
    "SGD sparse": (lambda p: optim.SGD(p, lr=0.1), True, 1),
}
SHAPES = [
    (10_000, 16, 512), (100_000, 16, 4096), (30_000, 128, 8192), (200_000, 64, 4096),
    (200_000, 256, 2048), (500_000, 64, 65536), (1_000_000, 32, 8192), (2_000_000, 64, 4096),
]  # fmt: skip
SHOWN = ("Adam for-loop", "SparseAdam")
LIMIT = 3.2e9  # bytes of the largest true run


def judged(errors):
    """Say how far the errors are from the target, met or not."""
    middle, worst = 100 * statistics.median(errors), 100 * max(errors)
    met = len(errors) >= 24 and middle <= 15 and worst <= 40
    return (
        f"{len(errors)} configurations, median error {middle:.1f} % (target 15), worst {worst:.1f} % (target 40): "
        f"{'met' if met else 'NOT met'}"
    )


def main():
    torch.set_num_threads(1)
    errors, big = [], {}
    quick = "--quick" in sys.argv[1:]
    print(
        f"{'rows':>9} {'dim':>4} {'ids':>6}  {'optimizer':14} {'predicted, 95 % interval':>31} "
        f"{'measured, fastest – slowest':>32}   error"
    )
    for place, (rows, dim, lookups) in enumerate(SHAPES):
        for index, (name, (make, sparse, copies)) in enumerate(OPTIMIZERS.items()):
            wanted = not quick or (place + index) % 2 == 0 or (rows == 2_000_000 and name in SHOWN)
            if rows * dim * 4 * copies > LIMIT or not wanted:
                continue
            trial = Trial(dim, make, ZipfIds(lookups), sparse=sparse)
            sizes = sizes_to_try(rows, 4 * dim, copies, sparse=sparse)
            *small, full = time_sizes(trial, [*sizes, rows], repeats=30, seconds=3.0)
            found = Forecast(trial, rows, tuple(trial.load(item.rows) for item in small), tuple(small))
            measured = full.total
            error = found.seconds / measured.typical - 1
            errors.append(abs(error))
            low, high = (1e3 * value for value in found.interval)
            print(
                f"{rows:9,} {dim:4} {lookups:6}  {name:14} {1e3 * found.seconds:8.2f} ms {low:8.2f} – {high:8.2f} "
                f"{1e3 * measured.typical:8.2f} ms {1e3 * measured.low:8.2f} – {1e3 * measured.high:8.2f} "
                f"{100 * error:+7.1f}%",
                flush=True,
            )
            if rows == 2_000_000:
                big[name] = measured.typical
    print(judged(errors))
    if set(SHOWN) <= big.keys():
        print(f"2M x 64: SparseAdam is {big['Adam for-loop'] / big['SparseAdam']:.0f}x faster than Adam")
    return 0


if __name__ == "__main__":
    begun = time.perf_counter()
    code = main()
    print(f"{time.perf_counter() - begun:.0f} s")
    sys.exit(code)
