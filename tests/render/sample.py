"""Hand-built reports of every shape a renderer meets: sick, healthy, skipped, failed, empty, and nasty names.

Numbers are typed in, not computed by nndiag, so that renderers are judged apart from the checks.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nndiag.core.findings import Evidence, Measurement, Series, Severity, Skip, Table, Where
from nndiag.core.report import Report, RunInfo
from nndiag.core.rules import found

VERSIONS = {"dtype": "float32", "torch": "2.13.0", "python": "3.11.7"}
NASTY = "[/nope]<script>alert(1)</script>|`x`\x1b[31m&\u202e"


def dropout() -> Report:
    """An error, a warning, a note and a suppressed finding; bars and histograms."""
    findings = (
        found(
            "DRP105",
            'variance entering "3" is 6.90x larger in training than in eval',
            where=Where(module="2", cls="torch.nn.Dropout", next="3", file="models.py", line=14),
            evidence=Evidence(
                value=6.9,
                unit="ratio",
                interval=(6.4, 7.4),
                threshold=1.5,
                n={"samples": 512, "masks": 16},
                seed=0,
                detail="median over 256 channels",
            ),
            means="running_var was learned under a distribution that eval never sees",
            fix="move Dropout after the last BatchNorm, or lower p (p = 0.2 would give 1.4x)",
        ),
        found(
            "DRP001",
            "p = 0.80 drops four of five activations; it looks like a keep probability",
            where=Where(module="2", cls="torch.nn.Dropout", file="models.py", line=14),
            evidence=Evidence(value=0.8, threshold=0.7),
            means="TensorFlow 1 took the keep probability here, PyTorch takes the drop probability",
            fix="write Dropout(p=0.2); in Keras Dropout(0.2)",
        ),
        found(
            "DRP107",
            'unit sums entering "6" rest on 3.1 effective contributions of 64',
            where=Where(module="5", cls="torch.nn.Dropout", next="6", file="models.py", line=19),
            evidence=Evidence(value=3.1, unit="units", interval=(2.7, 3.6), threshold=5, n={"samples": 512}),
            means="a few inputs carry the sum, so scaling by 1/(1-p) is right only on average",
            fix="use a smaller p in front of this layer",
        ),
    )
    accepted = found(
        "DRP006",
        "two dropouts in series keep 25 % of the activations",
        where=Where(module="8", cls="torch.nn.Dropout", file="models.py", line=27),
        evidence=Evidence(value=0.25, unit="share"),
        means="the effective keep rate is the product",
        fix="keep one of the two",
    )
    findings = (*findings, replace(accepted, suppressed="the paper does it this way"))
    sites = ("2", "5", "8")
    edges = tuple(-3 + 0.5 * step for step in range(13))
    return Report(
        command="check-dropout",
        status="completed",
        name="models.py:build_mlp",
        target={"model": "models.py:build_mlp", "parameters": 19722, "data": "digits", "samples": 512},
        context=("6 modules, 3 dropout sites", "data digits (512 samples)", "16 masks"),
        run=RunInfo(seed=0, device="cpu", total_s=0.61, versions=VERSIONS),
        settings={"max_variance_ratio": 1.5, "masks": 16},
        answers=('the 1/(1-p) of dropout "2" does not survive: variance entering batch norm "3" is 6.90x too large',),
        findings=findings,
        measurements=(
            Measurement("variance_ratio", 6.9, "ratio", "2", (6.4, 7.4)),
            Measurement("variance_ratio", 1.08, "ratio", "5", (1.01, 1.15)),
            Measurement("slope", 1.0, "ratio", "8"),
        ),
        series=(
            Series(
                "variance train/eval",
                x=(0, 1, 2),
                y=(6.9, 1.08, 1.21),
                unit="ratio",
                group="variance ratio by site",
                kind="bar",
                threshold=1.5,
                labels=sites,
            ),
            Series(
                "train",
                edges,
                tuple(math.exp(-(e**2) / 6) for e in edges[:-1]),
                "share",
                "pre-activation",
                'what enters "3"',
                "histogram",
            ),
            Series(
                "eval",
                edges,
                tuple(math.exp(-(e**2)) for e in edges[:-1]),
                "share",
                "pre-activation",
                'what enters "3"',
                "histogram",
            ),
        ),
        tables=(
            Table(
                "dropout sites",
                ("site", "p", "followed by", "var train/eval", "rule", "status"),
                (
                    ("2  Dropout", 0.8, "3 BatchNorm1d", 6.9, "DRP001 DRP105", "error"),
                    ("5  Dropout", 0.1, "6 Linear", 1.08, "DRP107", "note"),
                    ("8  Dropout", 0.5, "9 Dropout", 1.21, "", "ok"),
                    ("11 Dropout", None, None, math.nan, "DRP201", "skipped"),
                ),
                main=True,
            ),
            Table("channels of 3", ("channel", "train", "eval"), tuple((i, 6.9 + i / 7, 1.0) for i in range(40))),
        ),
        checked=("DRP001", "DRP002", "DRP003", "DRP004", "DRP005", "DRP006", "DRP101", "DRP105", "DRP107"),
        skipped=(
            Skip("DRP106", "no activation between dropout and loss"),
            Skip("DRP108", "no attention in this model"),
            Skip("DRP201", "needs --train"),
        ),
    )


def entropy() -> Report:
    """A note only; a loss curve with floor and prior."""
    steps = tuple(range(0, 1000, 10))
    curve = tuple(0.61 + 1.69 * math.exp(-step / 150) + 0.02 * math.sin(step) for step in steps)
    return Report(
        command="entropy-floor",
        status="completed",
        name="labels.csv",
        target={"labels": "labels.csv", "rows": 60000, "classes": 10},
        context=("60,000 labels, 10 classes", "label smoothing 0.1"),
        run=RunInfo(seed=0, device="cpu", total_s=0.2, versions=VERSIONS),
        settings={"label_smoothing": 0.1, "tail": 0.1},
        answers=("the loss stands at 0.612 nats, 0.002 above its floor of 0.610: it is done, not stuck",),
        findings=(
            found(
                "ENT002",
                "the loss ends 0.002 nats above the smallest value it can have (0.610)",
                where=Where(module="loss", file="log.csv"),
                evidence=Evidence(value=0.612, unit="nats", interval=(0.608, 0.616), threshold=0.61, n={"rows": 60000}),
                means="with these labels no model can do better: what is left is the entropy of the targets",
                fix="nothing to fix; compare runs by the gap to the floor",
            ),
        ),
        measurements=(
            Measurement("floor", 0.61, "nats"),
            Measurement("prior", 2.302585, "nats"),
            Measurement("gap", 0.002, "nats", interval=(-0.002, 0.006)),
        ),
        series=(
            Series("training loss", steps, curve, "nats", "step", "loss against its floor", "line"),
            Series("floor", (0, 990), (0.61, 0.61), "nats", "step", "loss against its floor", "line"),
            Series(
                "prior = ln 10",
                (0, 990),
                (2.302585, 2.302585),
                "nats",
                "step",
                "loss against its floor",
                "line",
            ),
        ),
        tables=(
            Table(
                "the floor and the loss",
                ("part", "nats", "bits", "status"),
                (
                    ("floor", 0.61, 0.88, "ok"),
                    ("loss", 0.612, 0.883, "note"),
                    ("prior", 2.302585, 3.3219, "ok"),
                ),
                main=True,
            ),
        ),
        checked=("ENT001", "ENT002", "ENT003", "ENT005", "ENT006", "ENT008", "ENT009"),
        skipped=(
            Skip("ENT004", "no dtype given"),
            Skip("ENT007", "no class weights"),
            Skip("ENT201", "no model"),
        ),
    )


def symmetry() -> Report:
    """Errors over several layers; lines over steps and a heat map."""
    size = 12
    heat = tuple(math.cos((row - column) / 3) ** 2 for row in range(size) for column in range(size))
    return Report(
        command="init-symmetry",
        status="truncated",
        name="net.py:Net",
        target={"model": "net.py:Net", "parameters": 1234567},
        context=("9 layers", "inputs synthetic (normal, 64 samples)"),
        run=RunInfo(seed=0, device="cpu", total_s=60.2, versions=VERSIONS),
        settings={"steps": 50, "tolerance": 1e-6, "layers": "*"},
        answers=("no: the 64 units of blocks.0.fc1 are one unit 64 times, and training keeps them equal",),
        findings=(
            found(
                "SYM201",
                '64 units of "blocks.0.fc1" stay 1.00 effective units after 50 steps',
                where=Where(module="blocks.0.fc1", cls="torch.nn.Linear", file="net.py", line=31),
                evidence=Evidence(value=1.0, unit="units", interval=(1.0, 1.0), threshold=2, n={"steps": 50}, seed=0),
                means="equal units get equal gradients: the layer has the capacity of one unit",
                fix="delete the constant initialisation; nn.init.kaiming_normal_(fc1.weight)",
            ),
            found(
                "NND902",
                "the budget of 60 s ended the experiments; 2 of 9 layers were not trained",
                evidence=Evidence(value=60, unit="s"),
                means="what was not finished is listed as skipped",
                fix="raise --max-seconds or choose --layers",
            ),
        ),
        measurements=(Measurement("effective_width", 1.0, "units", "blocks.0.fc1"),),
        series=(
            Series("blocks.0.fc1", tuple(range(51)), (1.0,) * 51, "units", "step", "effective width", "line", 2.0),
            Series(
                "blocks.1.fc1",
                tuple(range(51)),
                tuple(64 - 30 / (1 + step) for step in range(51)),
                "units",
                "step",
                "effective width",
                "line",
                2.0,
            ),
            Series(
                "|cos|",
                tuple(range(size)),
                heat,
                "cosine",
                "unit",
                "unit correlation of blocks.0.fc1",
                "heat",
            ),
        ),
        tables=(
            Table(
                "layers",
                ("layer", "units", "effective", "escape step", "status"),
                (("blocks.0.fc1", 64, 1.0, None, "error"), ("blocks.1.fc1", 64, 63.4, 0, "ok")),
                main=True,
            ),
        ),
        checked=("SYM001", "SYM002", "SYM003", "SYM101", "SYM102", "SYM103", "SYM201", "SYM202"),
        skipped=(Skip("SYM203", "stopped by the budget", "blocks.7.fc1"), Skip("SYM204", "no dropout")),
    )


def multigpu() -> Report:
    """A schedule as a step plot, intended against executed."""
    steps = tuple(range(0, 10001, 100))

    def rate(step: float, total: float) -> float:
        return 3e-4 * min(1.0, step / 500) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

    return Report(
        command="multigpu-lr",
        status="completed",
        name="nndiag.toml",
        target={"config": "nndiag.toml", "gpus": 8, "global_batch": 512},
        context=("8 GPUs × 32 × 2 = 512 per step", "base 64 at lr 0.0003"),
        run=RunInfo(seed=0, device="cpu", total_s=0.1, versions={"python": "3.11.7"}),
        settings={"rule": "linear"},
        answers=("no: the schedule ends after 1,250 optimizer steps, 8x early",),
        findings=(
            found(
                "MGL003",
                "the cosine schedule ends at step 1,250 of 10,000: 8.00x early",
                where=Where(module="schedule.total-steps", file="nndiag.toml", line=21),
                evidence=Evidence(value=8.0, unit="ratio", threshold=1.0),
                means="every process steps the shared schedule once, so it runs 8 times too fast",
                fix="step the scheduler once per update, or multiply total-steps by 8",
            ),
            found(
                "MGL001",
                "lr 0.0003 at batch 512 is the base rate of batch 64; the linear rule gives 0.0024",
                where=Where(module="lr", file="nndiag.toml", line=17),
                evidence=Evidence(value=3e-4, unit="1", threshold=2.4e-3),
                means="eight times fewer steps at an unchanged rate travel an eighth of the way",
                fix="lr = 0.0024 with warm-up, or say rule = 'none'",
            ),
        ),
        series=(
            Series(
                "intended",
                steps,
                tuple(rate(s, 10000) for s in steps),
                "lr",
                "optimizer step",
                "learning rate",
                "step",
            ),
            Series(
                "executed",
                steps,
                tuple(rate(s, 1250) for s in steps),
                "lr",
                "optimizer step",
                "learning rate",
                "step",
            ),
            Series(
                "noise-scale curve",
                tuple(2.0**k for k in range(4, 15)),
                tuple(2e-3 / (1 + 900 / 2**k) for k in range(4, 15)),
                "lr",
                "batch",
                "best lr against batch",
                "line",
            ),
        ),
        tables=(
            Table(
                "recipe",
                ("quantity", "declared", "scaled", "status"),
                (("learning rate", 3e-4, 2.4e-3, "warning"), ("schedule end", 10000, 1250, "error")),
                main=True,
            ),
        ),
        checked=tuple(f"MGL{number:03}" for number in range(1, 11)),
        skipped=(Skip("MGL101", "no model"), Skip("MGL102", "no model"), Skip("MGL201", "needs --train")),
    )


def embedding() -> Report:
    """Bytes per variant as bars of several series, and a time curve on logarithmic axes."""
    variants = ("dense Adam", "fused Adam", "SparseAdam", "SGD")
    vocabulary = tuple(10.0**k for k in range(3, 8))
    return Report(
        command="embedding-cost",
        status="completed",
        name="lm.py:Model",
        target={"model": "lm.py:Model", "vocabulary": 1000000, "dim": 256},
        context=("table 1,000,000 × 256 float32",),
        run=RunInfo(seed=0, device="cpu", total_s=2.5, versions=VERSIONS),
        settings={"measure": True},
        answers=("the optimizer moves 7.17 GB per step for 0.4 % of the rows: 88 % of the step",),
        findings=(
            found(
                "EMB001",
                "dense Adam moves 7.17 GB per step for 4,096 of 1,000,000 rows",
                where=Where(module="emb", cls="torch.nn.Embedding", file="lm.py", line=8),
                evidence=Evidence(value=7.168e9, unit="B", threshold=1e9, n={"ids": 4096}),
                means="weights, gradient and both moments of every row are read and written at each step",
                fix="Embedding(sparse=True) with SparseAdam; in Keras a smaller table",
                severity=Severity.ERROR,
            ),
        ),
        series=(
            *(
                Series(name, (0, 1, 2, 3), values, "GB", "", "bytes per step", "stack", None, variants)
                for name, values in (
                    ("weights", (2.05, 2.05, 0.01, 2.05)),
                    ("gradient", (2.05, 2.05, 0.01, 1.02)),
                    ("moments", (4.1, 3.07, 0.02, 0.0)),
                )
            ),
            Series(
                "step",
                vocabulary,
                tuple(v * 3e-6 + 2 for v in vocabulary),
                "ms",
                "rows",
                "step time",
                "line",
                50.0,
            ),
        ),
        tables=(
            Table(
                "variants",
                ("variant", "GB/step", "ms", "status"),
                (("dense Adam", 8.2, 310.5, "error"), ("SparseAdam", 0.04, 2.1, "ok")),
                main=True,
            ),
        ),
        measurements=(Measurement("bytes_per_step", 7.168e9, "B", "emb"),),
        checked=("EMB001", "EMB002", "EMB006", "EMB007", "EMB009", "EMB010", "EMB101"),
        skipped=(Skip("EMB003", "no token file"), Skip("EMB004", "no token file"), Skip("EMB012", "one GPU")),
    )


def healthy() -> Report:
    """Nothing found; one figure."""
    return Report(
        command="check-normalization",
        status="completed",
        name="net.py:Net",
        target={"model": "net.py:Net", "data": "x.npy"},
        context=("8 features", "data x.npy (1,024 samples)"),
        run=RunInfo(seed=0, device="cpu", total_s=0.3, versions=VERSIONS),
        settings={"feature_axis": 1},
        answers=("yes: every feature has a standard deviation between 0.93 and 1.06 and a mean within 0.05 of zero",),
        measurements=(Measurement("std", 1.0, "1", "x"), Measurement("condition", math.inf, "", "x")),
        series=(
            Series(
                "range",
                tuple(range(8)),
                (3.1, 2.9, 3.4, 2.8, 3.3, 3.0, 2.7, 3.2),
                "1",
                "",
                "spread by feature",
                "bar",
                None,
                tuple(f"feature_{i}" for i in range(8)),
            ),
        ),
        tables=(
            Table(
                "features",
                ("feature", "mean", "std", "status"),
                tuple((f"feature_{i}", 0.01 * i - 0.04, 1.0 + i / 200, "ok") for i in range(8)),
                main=True,
            ),
        ),
        checked=("NRM001", "NRM002", "NRM003", "NRM004", "NRM005"),
        skipped=(Skip("NRM006", "no --serve data"), Skip("NRM201", "needs --train")),
    )


def nasty() -> Report:
    """Names and texts that break naive renderers; numbers that are none."""
    return Report(
        command="check-dropout",
        status="completed",
        name=NASTY,
        target={"model": NASTY},
        context=(NASTY,),
        run=RunInfo(versions=VERSIONS),
        answers=(NASTY,),
        findings=(
            found(
                "DRP101",
                f"{NASTY} acts in eval\nsecond line, 100%: a=b",
                where=Where(module=NASTY, cls=NASTY, next=NASTY, file="dir with space/ü,:%.py", line=3),
                evidence=Evidence(value=math.nan, interval=(-math.inf, math.inf), unit=NASTY, n={NASTY: 1}),
                means=NASTY,
                fix=NASTY,
            ),
            found("DRP002", "no place at all", means="a finding without a source line", fix="nothing"),
        ),
        measurements=(Measurement(NASTY, math.nan, NASTY, NASTY),),
        series=(
            Series(NASTY, (0, 1, 2), (1.0, math.nan, 2.0), NASTY, NASTY, NASTY, "line", math.inf),
            Series(NASTY, (0, 1), (1.0, math.inf), NASTY, NASTY, "nasty bars", "bar", None, (NASTY, NASTY)),
            Series("empty", (), (), "", "", "empty", "line"),
            Series("odd kind", (0, 1), (1, 2), "", "", "odd", "pie"),
            Series("short", (0, 1, 2), (1,), "", "", "short", "histogram"),
        ),
        tables=(Table(NASTY, (NASTY, "status"), ((NASTY, NASTY), ("ok", "ok")), main=True),),
        checked=("DRP101", "DRP002"),
        skipped=(Skip("DRP201", NASTY, NASTY),),
    )


def failed() -> Report:
    """A crash in the user's code."""
    return Report(
        command="init-symmetry",
        status="failed",
        name="broken.py:Net",
        skipped=(Skip("SYM001", "the model could not be built"),),
        error="broken.py:7: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    )


def empty() -> Report:
    """Nothing applicable."""
    return Report(
        command="check-dropout",
        status="completed",
        name="plain.py:Net",
        skipped=(Skip("DRP001", "no dropout in this model"),),
        empty="no dropout in this model",
    )


def six() -> tuple[Report, ...]:
    """What `nndiag all` gives."""
    return dropout(), healthy(), entropy(), embedding(), symmetry(), multigpu()


def every() -> tuple[Report, ...]:
    """Every shape at once."""
    return *six(), nasty(), failed(), empty()
