"""Predicted step against measured step of a table, single-threaded.

Every configuration is predicted from smaller tables (T = a + bV over three sizes, none above 64 MiB) and then
run at its true size. Both sides take the fastest of their repetitions: what else runs on the machine only ever
adds time. Prints the table, the median and the worst error, and the speed of SparseAdam on 2M x 64.

Run: OMP_NUM_THREADS=1 python benchmarks/embedding_cost.py
"""

import statistics
import sys
import time

import torch
from torch import optim

from nndiag.lab.embedding_step import Trial, forecast, time_table, zipf_batches
from nndiag.science.roofline import fit_line

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
LIMIT = 3.2e9  # bytes of the largest true run


def main():
    torch.set_num_threads(1)
    errors, big = [], {}
    print(
        f"{'rows':>9} {'dim':>4} {'ids':>6}  {'optimizer':14} {'predicted, 95 % interval':>31} {'measured':>10}   error"
    )
    for rows, dim, lookups in SHAPES:
        for name, (make, sparse, copies) in OPTIMIZERS.items():
            if rows * dim * 4 * copies > LIMIT:
                continue
            trial = Trial(dim, make, zipf_batches(lookups), sparse=sparse)
            tried = forecast(trial, rows, copies=copies, seconds=1.8, repeats=25).tried
            line = fit_line([item.rows for item in tried], [item.total.low for item in tried])
            predicted = line.at(rows)
            measured = time_table(trial, rows, repeats=15, seconds=1.2).total.low
            error = predicted / measured - 1
            errors.append(abs(error))
            low, high = (1e3 * value for value in line.interval(rows))
            print(
                f"{rows:9,} {dim:4} {lookups:6}  {name:14} {1e3 * predicted:8.2f} ms {low:8.2f} – {high:8.2f} "
                f"{1e3 * measured:7.2f} ms {100 * error:+6.1f}%",
                flush=True,
            )
            if rows == 2_000_000:
                big[name] = measured
    middle, worst = 100 * statistics.median(errors), 100 * max(errors)
    print(f"{len(errors)} configurations: median error {middle:.1f} %, worst {worst:.1f} %")
    if {"Adam for-loop", "SparseAdam"} <= big.keys():
        print(f"2M x 64: SparseAdam is {big['Adam for-loop'] / big['SparseAdam']:.0f}x faster than Adam")
    return 0


if __name__ == "__main__":
    begun = time.perf_counter()
    code = main()
    print(f"{time.perf_counter() - begun:.0f} s")
    sys.exit(code)
