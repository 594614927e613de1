"""Every code on one screen. Codes are never reused; pages/CODE.md holds the argument.

The hundreds digit is the cost: 0xx structure, config, files; 1xx forward and backward passes or clocks; 2xx training.
"""

from __future__ import annotations

from dataclasses import dataclass

from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.findings import Basis, Evidence, Finding, Rule, Severity, Where

N, W, E = Severity.NOTE, Severity.WARNING, Severity.ERROR
X, M, H = Basis.EXACT, Basis.MEASURED, Basis.HEURISTIC

CHECKS = {
    "DRP": "check-dropout",
    "NRM": "check-normalization",
    "ENT": "entropy-floor",
    "EMB": "embedding-cost",
    "SYM": "init-symmetry",
    "MGL": "multigpu-lr",
    "NND": "nndiag",  # about the run itself: any command
}

# fmt: off
_TABLE = (
    ("DRP001", "rate-looks-like-keep-probability", W, H, "p looks like a keep probability (p >= 0.7)"),
    ("DRP002", "inert-dropout", W, X, "a dropout that can never act"),
    ("DRP003", "dropout-on-output", E, X, "dropout on the output: a regressor is biased by 1-p"),
    ("DRP004", "alpha-dropout-mismatch", W, X, "AlphaDropout without SELU, or SELU with plain dropout"),
    ("DRP005", "element-dropout-on-feature-maps", N, H, "elementwise dropout on convolutional feature maps"),
    ("DRP006", "stacked-dropout", W, X, "dropouts in series: the effective keep rate is the product"),
    ("DRP101", "active-in-eval", E, X, "dropout acts in eval mode"),
    ("DRP102", "inactive-in-training", W, X, "dropout does not act in training mode"),
    ("DRP103", "missing-rescale", E, M, "no rescale: train/eval slope 1-p"),
    ("DRP104", "double-rescale", E, M, "rescaled twice: slope 1/(1-p)"),
    ("DRP105", "variance-shift-into-batchnorm", E, M, "batch norm learns a variance that eval never sees"),
    ("DRP106", "nonlinear-rescale-bias", W, M, "E[f(S)] differs from f(E[S]) behind dropout"),
    ("DRP107", "dominated-units", N, M, "too few contributions for the rescale argument"),
    ("DRP108", "attention-row-collapse", W, M, "attention rows lose their whole mass"),
    ("DRP201", "dropout-prevents-fit", W, M, "the model cannot fit with dropout on"),
    ("NRM001", "unscaled-inputs", W, M, "inputs far from unit scale"),
    ("NRM002", "uncentred-inputs", N, M, "inputs far from zero mean"),
    ("NRM003", "mixed-feature-scales", W, M, "features on very different scales"),
    ("NRM004", "constant-feature", N, X, "a feature never changes"),
    ("NRM005", "nonfinite-input", E, X, "NaN or infinity in the inputs"),
    ("NRM006", "train-serve-mismatch", E, M, "training and serving prepare inputs differently"),
    ("NRM007", "channel-swap", E, M, "channels swapped between training and serving"),
    ("NRM008", "double-normalised", W, M, "normalised twice"),
    ("NRM009", "per-split-statistics", W, M, "statistics fitted per split, or on train and test"),
    ("NRM010", "drift", W, M, "serving data drifted"),
    ("NRM011", "unscaled-targets", W, M, "regression targets far from unit scale"),
    ("NRM012", "labels-normalised", E, X, "class ids became fractions"),
    ("NRM013", "half-precision-overflow", E, X, "values overflow half precision"),
    ("NRM101", "learning-rate-above-ceiling", E, M, "learning rate above the stability ceiling of the first layer"),
    ("NRM102", "stale-batchnorm-statistics", E, M, "batch-norm statistics do not describe the data"),
    ("NRM103", "batchnorm-tiny-batch", W, X, "batch norm on a tiny batch"),
    ("NRM104", "preprocessing-disagrees-with-checkpoint", E, M, "inputs on another scale than the checkpoint knows"),
    ("NRM105", "inflated-initial-loss", W, M, "loss at initialisation far above ln C"),
    ("NRM201", "normalisation-changes-training", E, M, "normalising changes training, measured"),
    ("ENT001", "invalid-label-rows", E, X, "label rows that are no distributions"),
    ("ENT002", "loss-at-floor", N, X, "the loss is at its floor: done, not stuck"),
    ("ENT003", "loss-below-floor", E, X, "the loss is below its floor: wrong unit, data or masking"),
    ("ENT004", "below-resolution", W, X, "what is left is smaller than the dtype can show"),
    ("ENT005", "loss-at-prior", W, M, "the loss is at the class prior: inputs are ignored"),
    ("ENT006", "structural-floor", W, H, "a plateau that the architecture imposes"),
    ("ENT007", "weighted-soft-labels", W, X, "class weights move the optimum of soft labels"),
    ("ENT008", "contradictory-labels", N, X, "equal inputs carry different labels"),
    ("ENT009", "unit-mismatch", W, H, "loss and floor are in different units"),
    ("ENT201", "precision-limits-training", W, M, "float32 stops the training before float64 does"),
    ("EMB001", "dense-optimizer-traffic", W, X, "the optimizer moves the whole table every step"),
    ("EMB002", "unfused-optimizer", W, X, "a fused optimizer would move fewer bytes"),
    ("EMB003", "never-seen-rows", W, X, "rows that the data never touches"),
    ("EMB004", "rare-rows", W, X, "rows with too few updates to learn"),
    ("EMB005", "unseen-rows-decay", W, X, "weight decay shrinks rows that are never seen"),
    ("EMB006", "sparse-unsupported-option", E, X, "sparse gradients with something that refuses them"),
    ("EMB007", "sparse-momentum-growth", E, X, "sparse momentum buffer grows at every step"),
    ("EMB008", "tied-table-stays-dense", N, X, "a tied table has dense gradients"),
    ("EMB009", "state-exceeds-memory", E, X, "table, gradient and optimizer state exceed the memory"),
    ("EMB010", "one-hot-matmul", W, X, "a one-hot matmul does the work of a lookup"),
    ("EMB011", "id-out-of-range", E, X, "ids outside the table"),
    ("EMB012", "dense-table-all-reduce", W, X, "the whole table is all-reduced at every step"),
    ("EMB101", "measured-step-share", W, M, "measured share of the step spent on the table"),
    ("SYM001", "identical-units", W, X, "units that start identical"),
    ("SYM002", "zero-path", W, X, "two zero factors in series"),
    ("SYM003", "sign-locked-units", W, X, "units locked by a sign flip"),
    ("SYM101", "dead-units", W, M, "units that are zero for every input"),
    ("SYM102", "signal-vanishes-or-explodes", W, M, "signal or gradient vanishes or explodes with depth"),
    ("SYM103", "input-forgotten", W, M, "different inputs, same representation"),
    ("SYM201", "stuck-units", E, M, "identical units that stay identical"),
    ("SYM202", "dead-path", E, M, "parameters that no gradient ever reaches"),
    ("SYM203", "rounding-only-escape", W, M, "units told apart by rounding only"),
    ("SYM204", "slow-escape", W, M, "units told apart by dropout only"),
    ("MGL001", "learning-rate-not-scaled", W, H, "the learning rate does not follow the batch"),
    ("MGL002", "missing-warmup", W, H, "a large batch without warm-up"),
    ("MGL003", "schedule-in-wrong-unit", E, X, "schedule counted in the wrong unit"),
    ("MGL004", "schedule-rebounds", E, X, "the schedule runs past its end and rises again"),
    ("MGL005", "square-root-rule-invalid", W, X, "the square-root rule leaves its range"),
    ("MGL006", "step-constants-not-rescaled", W, X, "constants in steps that no longer mean the same"),
    ("MGL007", "uneven-shards", W, X, "ranks with unequal shards"),
    ("MGL008", "sampler-repeats", W, X, "the sampler repeats samples or orders"),
    ("MGL009", "batchnorm-per-replica", W, X, "batch norm sees one replica only"),
    ("MGL010", "loss-and-accuracy-on-different-data", N, H, "loss and accuracy come from different data"),
    ("MGL101", "gradient-factor", E, M, "the aggregated gradient is off by a factor"),
    ("MGL102", "batch-dependent-model", N, M, "gradients depend on how the batch is split"),
    ("MGL103", "beyond-critical-batch", W, M, "batch beyond the critical size"),
    ("MGL201", "scaled-run-differs", W, M, "N devices do not reproduce one"),
    ("NND901", "nondeterministic-target", W, M, "equal runs give different results"),
    ("NND902", "stopped-by-budget", N, X, "the time budget ended the experiments"),
    ("NND903", "unused-suppression", N, X, "a suppression that suppresses nothing"),
)
# fmt: on

RULES: dict[str, Rule] = {
    code: Rule(code, name, severity, basis, CHECKS[code[:3]], summary)
    for code, name, severity, basis, summary in _TABLE
}


def known_prefix(prefix: str) -> str:
    """Return the prefix in upper case, or say what it could have been."""
    word = prefix.strip().upper()
    if word == "ALL" or (word and any(code.startswith(word) for code in RULES)):
        return word
    hint = did_you_mean(word, [*RULES, *CHECKS, "ALL"], otherwise="'nndiag rules' lists every code")
    raise UsageError(f"no code starts with '{prefix}'", hint=hint)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which codes are wanted: prefixes selected, less prefixes ignored; the longer prefix wins."""

    select: tuple[str, ...] = ("ALL",)
    ignore: tuple[str, ...] = ()

    def has(self, code: str) -> bool:
        """Whether this one code is wanted."""
        chosen = max((_length(prefix, code) for prefix in self.select), default=-1)
        dropped = max((_length(prefix, code) for prefix in self.ignore), default=-1)
        return chosen > dropped

    def touches(self, prefix: str) -> bool:
        """Whether any code under this prefix is wanted."""
        return any(self.has(code) for code in RULES if code.startswith(prefix))


def _length(prefix: str, code: str) -> int:
    """How specifically `prefix` names `code`: -1 not at all, 0 by ALL."""
    if prefix == "ALL":
        return 0
    return len(prefix) if code.startswith(prefix) else -1


def found(  # noqa: PLR0913 - a finding has these parts, all by name
    code: str,
    message: str,
    *,
    where: Where | None = None,
    evidence: Evidence | None = None,
    means: str,
    fix: str,
    severity: Severity | None = None,
) -> Finding:
    """Build a finding of this code, at the rule's own severity unless another is given."""
    rule = RULES[code]
    return Finding(rule, where or Where(), message, evidence or Evidence(), means, fix, severity or rule.severity)
