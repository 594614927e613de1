"""The table and its optimizer from numbers alone: no tensor, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.checks.embedding_cost.spec import DEFAULT_LR, Optimizer, TableSpec, label_of
from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.findings import Where
from nndiag.science import tables
from nndiag.science.zipf import zipf_unique

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nndiag.core.subject import Training

ITEMSIZE = {"float64": 8, "float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
_DTYPES = {"fp64": "float64", "double": "float64", "fp32": "float32", "float": "float32", "fp16": "float16",
           "half": "float16", "bf16": "bfloat16"}  # fmt: skip


def dtype_of(text: str) -> str:
    """Return torch's name of a floating dtype.

    Raises:
        UsageError: It is unknown.
    """
    word = text.lower().removeprefix("torch.")
    word = _DTYPES.get(word, word)
    if word not in ITEMSIZE:
        hint = did_you_mean(word, [*ITEMSIZE, *_DTYPES], otherwise=f"one of {', '.join(ITEMSIZE)}")
        raise UsageError(f"no floating dtype is called '{text}'", hint=hint)
    return word


def optimizer_from_name(training: Training, *, device: str = "cpu", sparse: bool = False) -> Optimizer:
    """Return the catalogue's optimizer for a name and its arguments.

    Torch chooses foreach on accelerators and the plain loop on CPUs unless told otherwise.

    Raises:
        UsageError: The name or the implementation is unknown.
    """
    assumed = training.optimizer is None
    given = str(training.optimizer or ("sparse_adam" if sparse else "adam"))
    name = tables.canonical(given)
    if name is None:
        hint = did_you_mean(
            given.lower(), tables.NAMES, otherwise=f"one of {', '.join(tables.NAMES)}, or file.py:fn with a model"
        )
        raise UsageError(f"no optimizer is called '{given}'", hint=hint)
    options: dict[str, Any] = {key.replace("-", "_"): value for key, value in training.optimizer_args.items()}
    momentum = float(options.get("momentum", 0.9 if name in {"momentum", "nesterov"} else 0.0))
    decay = float(options.get("weight_decay", tables.default_decay(name)))
    implementation = _implementation(name, options, device)
    lr = training.lr if training.lr is not None else float(options.get("lr", DEFAULT_LR.get(name, 1e-3)))
    if name == "sparse_adam":
        return Optimizer(
            tables.OptimizerOptions(name), "SparseAdam", tables.OptimizerCost(0, 0, 0, 0, 2), lr, assumed=assumed
        )
    chosen = tables.OptimizerOptions(
        name,
        implementation,
        momentum=momentum,
        nesterov=bool(options.get("nesterov", name == "nesterov")),
        weight_decay=decay,
        amsgrad=bool(options.get("amsgrad", False)),
        centered=bool(options.get("centered", False)),
    )
    return Optimizer(chosen, label_of(chosen), tables.optimizer_cost(chosen), lr, decay, assumed)


def _implementation(name: str, options: Mapping[str, Any], device: str) -> str:
    if options.get("fused"):
        if not tables.has_fused(name):
            raise UsageError(f"torch has no fused {name}", hint="leave fused out")
        return tables.FUSED
    if options.get("foreach") or (options.get("foreach") is None and not device.startswith("cpu")):
        return tables.FOREACH
    return tables.FOR_LOOP


def spec_from_numbers(  # noqa: PLR0913 - a table has these numbers
    training: Training,
    *,
    vocab: int,
    dim: int,
    lookups: int,
    dtype: str,
    sparse: bool,
    tied: bool,
    device: str,
) -> TableSpec:
    """Return the table that the numbers describe; nothing is allocated."""
    optimizer = optimizer_from_name(training, device=device, sparse=sparse)
    sparse = sparse or optimizer.family == "sparse_adam"
    word = dtype_of(dtype)
    return TableSpec(
        name="",
        rows=vocab,
        dim=dim,
        optimizer=optimizer,
        lookups=lookups,
        unique=zipf_unique(vocab, lookups),
        unique_how="under Zipf's law with exponent 1, an assumption",
        itemsize=ITEMSIZE[word],
        dtype=word,
        sparse=sparse and not tied,
        tied=("the output layer",) if tied else (),
        where=Where(module="table"),
    )
