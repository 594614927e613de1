"""check-dropout's closed forms: their time against two forward passes, their bias against 10,000 masks.

Limits (issue 4): 1.5 times two forward passes plus 50 ms; within 2 % of s of the masks, and 100 times faster.
"""

import statistics
import time

import torch
from torch import nn

from nndiag.core.subject import Batch
from nndiag.lab.dropout.bench import Bench
from nndiag.lab.dropout.expect import expected
from nndiag.lab.dropout.measure import SiteLab
from nndiag.lab.dropout.script import Script
from nndiag.lab.dropout.sites import Map
from nndiag.science.activation_moments import relu_mean
from nndiag.science.rescale import spread

FACTOR, FIXED, MASKS = 1.5, 0.050, 10_000


def mlp():
    hidden = [layer for _ in range(3) for layer in (nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.5))]
    return nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Dropout(0.2), *hidden, nn.Linear(1024, 10))


def vgg():
    blocks = [
        layer
        for a, b in ((3, 64), (64, 64), (64, 128), (128, 128))
        for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.2))
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10))


def encoder():
    layer = nn.TransformerEncoderLayer(256, 8, 1024, 0.1, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 4), nn.Linear(256, 10))


def timed(run, repeats=5):
    """Median seconds of a run."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def report_time(build, x):
    """Seconds of two forward passes, and of everything closed form."""
    model = build()
    bench = Bench(model, Batch(x, None), seed=0)
    sites = [s for s in Map(bench.play(Script(), training=True, seed=0).film).sites() if s.seen.dial.acts]

    def two():
        model.train()
        with torch.no_grad():
            model(x), model(x)

    def closed():
        lab = SiteLab(bench, sites, seed=0)
        lab.silent()
        for gauge in lab.gauges:
            if not isinstance(gauge.sums, str) and gauge.activation is not None and not gauge.site.direct:
                expected(gauge.sums, gauge.activation, gauge.site.p)

    two(), closed()
    return timed(two), timed(closed), len(sites)


def against_masks():
    """Root mean square difference in units of s, and how many times faster the closed form is."""
    torch.manual_seed(0)
    x = torch.relu(torch.randn(64, 256, dtype=torch.float64))
    w = torch.randn(128, 256, dtype=torch.float64) / 16

    def closed():
        mu = x @ w.T
        return relu_mean(mu, spread((x * x) @ (w * w).T, 0.5))

    begin = time.perf_counter()
    total = torch.zeros(64, 128, dtype=torch.float64)
    for _ in range(MASKS):
        total += torch.relu((x * (torch.rand_like(x) > 0.5) * 2) @ w.T)
    slow = time.perf_counter() - begin
    away = (closed() - total / MASKS) / spread((x * x) @ (w * w).T, 0.5)
    return float(away.square().mean().sqrt()), slow / timed(closed, 20)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for build, x in (
        (mlp, torch.randn(512, 256)), (vgg, torch.randn(32, 3, 32, 32)), (encoder, torch.randn(16, 64, 256)),
    ):  # fmt: skip
        forward, closed, sites = report_time(build, x)
        limit = FACTOR * forward + FIXED
        held = "held" if closed <= limit else "MISSED"
        print(
            f"{build.__name__}: two forwards {1e3 * forward:.0f} ms, closed forms of {sites} dropouts "
            f"{1e3 * closed:.0f} ms, limit {1e3 * limit:.0f} ms: {held}"
        )
    gap, faster = against_masks()
    print(f"bias against {MASKS} masks: {gap:.4f} s apart (limit 0.02), {faster:.0f}x faster (limit 100)")
