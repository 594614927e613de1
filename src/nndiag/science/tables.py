"""What one optimizer step does with a table: passes, bytes, resident copies.

A *pass* is one full read or one full write of the table (V rows of D elements). Every elementwise operation of an
optimizer costs a known number of them, so the cost of a step follows from the list of its operations. The
lists below were read in torch/optim (torch 2.13) and are verified against torch itself by counting at the dispatcher.

Axes: V rows of the table, D its width, N lookups per step, U distinct rows among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FOR_LOOP, FOREACH, FUSED = "for-loop", "foreach", "fused"

# One letter per operation: (table-sized reads, writes in place, writes to newly allocated memory).
_OPS = {
    "1": (1, 1, 0),  # x.mul_(c), x.add_(c), x.div_(c), x.sqrt_()
    "2": (2, 1, 0),  # x.add_(y), x.lerp_(y, c), x.addcmul_(y, y)
    "3": (3, 1, 0),  # x.addcdiv_(y, z)
    "a": (1, 0, 1),  # x.sqrt(), x / c
    "b": (2, 0, 1),  # x + y, addcmul(x, y, z)
    "n": (1, 0, 0),  # a norm
    "m": (0, 0, 1),  # an outer product of two vectors
    "S": (2, 1, 0),  # fused SGD: reads p, g; writes p
    "M": (3, 2, 0),  # fused SGD with momentum, fused Adagrad
    "A": (4, 3, 0),  # fused Adam: reads p, g, m, v; writes p, m, v
    "G": (5, 4, 0),  # fused Adam with amsgrad
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One optimizer family at torch's defaults, without weight decay."""

    ops: dict[str, str]  # implementation -> operations in steady state
    temporaries: dict[str, int]  # implementation -> table-sized temporaries alive at once
    state: int  # table-sized tensors kept between steps


def _variant(loop: str, each: str, fused: str, temporaries: tuple[int, int], state: int) -> Variant:
    ops = {FOR_LOOP: loop, FOREACH: each} | ({FUSED: fused} if fused else {})
    return Variant(ops, dict(zip((FOR_LOOP, FOREACH, FUSED), (*temporaries, 0), strict=True)), state)


# Source: torch/optim/{sgd,adagrad,rmsprop,adam,nadam,adamax,adadelta,radam,_adafactor}.py, torch 2.13.
_CATALOGUE: dict[str, Variant] = {
    "sgd": _variant("2", "2", "S", (0, 0), 0),
    "sgd+momentum": _variant("122", "122", "M", (0, 0), 1),
    "sgd+nesterov": _variant("12b2", "1222", "M", (1, 0), 1),
    "adam": _variant("212aa13", "212a113", "A", (2, 1), 2),
    "adam+amsgrad": _variant("2122aa13", "2122a113", "G", (2, 1), 3),
    "adagrad": _variant("2a13", "2a1a3", "M", (1, 2), 1),
    "rmsprop": _variant("12a13", "12a13", "", (1, 1), 1),
    "rmsprop+momentum": _variant("12a1132", "12a1132", "", (1, 1), 2),
    "rmsprop+centered": _variant("122b113", "122b113", "", (1, 1), 2),
    "rmsprop+momentum+centered": _variant("122b11132", "122b11132", "", (1, 1), 3),
    "nadam": _variant("212aa133", "212a1133", "", (2, 1), 2),
    "adamax": _variant("21a123", "21a123", "", (1, 1), 2),
    "adadelta": _variant("12a1a122122", "12a1a122122", "", (2, 2), 2),
    "radam": _variant("212aaa1aaba2", "212a11113", "", (3, 1), 2),
    "adafactor": _variant("nnnm1112n2", "nnnm1112n12", "", (1, 1), 0),
    "sparse_adam": _variant("", "", "", (0, 0), 2),  # it refuses dense gradients: no dense pass at all
}

# How weight decay enters: coupled adds g + wd * p in new memory, decoupled scales p in place; fused kernels do
# both on the fly.
_DECOUPLED = frozenset({"adamw", "adafactor"})
# foreach kernels that, once weight decay has made a fresh gradient, go on in place on it
_DECAYED = {("adagrad", FOREACH): "2a113", ("adamax", FOREACH): "211123"}
NAMES = (
    "sgd", "momentum", "nesterov", "adam", "adamw", "adagrad", "rmsprop", "nadam", "adamax", "adadelta", "radam",
    "adafactor", "sparse_adam",
)  # fmt: skip
_ALIASES = {
    "sparseadam": "sparse_adam",
    "lazyadam": "sparse_adam",
    "sgdmomentum": "momentum",
    "sgdm": "momentum",
    "momentum": "momentum",
    "sgdnesterov": "nesterov",
    "nag": "nesterov",
    "adamwtorch": "adamw",
    "adamwtorchfused": "adamw",
    "adamwfused": "adamw",
    "adamfused": "adam",
    "adamwhf": "adamw",
}


def canonical(name: str) -> str | None:
    """Return the catalogue's word for an optimizer name, or None when it is unknown.

    Example:
        >>> canonical("torch.optim.AdamW"), canonical("SparseAdam"), canonical("adan")
        ('adamw', 'sparse_adam', None)
    """
    word = name.rsplit(".", maxsplit=1)[-1].lower()
    plain = "".join(letter for letter in word if letter.isalnum())
    plain = _ALIASES.get(plain, plain)
    return plain if plain in NAMES else None


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """What decides the operations of one step, in torch's names."""

    name: str = "adam"
    implementation: str = FOR_LOOP
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    amsgrad: bool = False
    centered: bool = False
    grad_scale: bool = False  # a fused kernel that also unscales


@dataclass(frozen=True, slots=True)
class OptimizerCost:
    """One optimizer implementation in passes over the table."""

    reads: int
    writes: int
    fresh: int  # writes to newly allocated memory: page faults on a CPU
    temporaries: int  # table-sized temporaries alive at once
    state: float  # table-sized tensors kept between steps

    @property
    def passes(self) -> int:
        """Full reads and writes of the table per step."""
        return self.reads + self.writes + self.fresh


def default_decay(name: str) -> float:
    """Return torch's own default weight decay: 0.01 for AdamW, none elsewhere."""
    return 0.01 if name == "adamw" else 0.0


def has_fused(name: str) -> bool:
    """Whether torch offers a fused kernel for this optimizer."""
    return name in {"sgd", "momentum", "nesterov", "adam", "adamw", "adagrad"}


def optimizer_cost(options: OptimizerOptions) -> OptimizerCost:
    """Count the passes over a dense table in one steady-state step.

    Adam at torch's defaults makes 18: lerp_ 3, mul_ 2, addcmul_ 3, sqrt 2, div 2, add_ 2, addcdiv_ 4; its fused
    kernel reads p, g, m, v and writes p, m, v: 7.

    Args:
        options: Optimizer and the options that change its operations.

    Returns:
        The passes, and the table-sized tensors that are kept or alive at once.

    Raises:
        KeyError: The optimizer is not in the catalogue or has no such implementation.

    Example:
        >>> optimizer_cost(OptimizerOptions("adam")).passes
        18
        >>> optimizer_cost(OptimizerOptions("adamw", implementation="fused")).passes
        7
    """
    variant = _CATALOGUE[_family(options)]
    ops = variant.ops[options.implementation]
    temporaries = variant.temporaries[options.implementation]
    fused = options.implementation == FUSED
    if options.weight_decay and not fused:
        decoupled = options.name in _DECOUPLED
        ops = _DECAYED.get((options.name, options.implementation), ops)
        ops = ("1" if decoupled else "b") + ops
        temporaries += not decoupled
    reads, writes, fresh = (sum(_OPS[op][column] for op in ops) for column in range(3))
    return OptimizerCost(reads, writes + (fused and options.grad_scale), fresh, temporaries, variant.state)


def _family(options: OptimizerOptions) -> str:
    """The catalogue's row for these options."""
    name = {"adamw": "adam", "momentum": "sgd", "nesterov": "sgd"}.get(options.name, options.name)
    if name == "sgd" and (options.nesterov or options.name == "nesterov"):
        return "sgd+nesterov"
    if name == "sgd" and (options.momentum or options.name == "momentum"):
        return "sgd+momentum"
    if name == "adam" and options.amsgrad:
        return "adam+amsgrad"
    if name == "rmsprop":
        return name + "+momentum" * bool(options.momentum) + "+centered" * options.centered
    return name


def fused_twin(options: OptimizerOptions) -> OptimizerOptions | None:
    """Return the same optimizer with its fused kernel, None where torch has none."""
    return replace(options, implementation=FUSED) if has_fused(options.name) else None


# Rows of U that a sparse step reads and writes, beside sorting the N ids: coalescing writes the values once
# and reads N of
# them; SparseAdam gathers and scatters p, m and v around some ten operations on U rows (torch/optim/_functional.py).
SPARSE_PASSES = {"sparse_adam": 24, "sgd": 3, "adagrad": 14}
SPARSE_STATE = {"sparse_adam": 2, "sgd": 0, "adagrad": 1}


def sparse_bytes(optimizer: str, dim: int, lookups: int, unique: float, itemsize: int = 4) -> float:
    """Bytes that the backward pass and a sparse optimizer move; independent of the number of rows.

    Args:
        optimizer: "sparse_adam", "sgd" or "adagrad".
        dim: D.
        lookups: N.
        unique: U.
        itemsize: Bytes per element.

    Returns:
        Bytes per step: N gradient rows written, sorted (8-byte ids, read and written some four times) and summed, then
        the passes over U rows.
    """
    row = dim * itemsize
    gradient = lookups * (3 * row + 4 * 16)
    return gradient + SPARSE_PASSES[optimizer] * unique * row


@dataclass(frozen=True, slots=True)
class Extra:
    """Passes over the table outside the optimizer."""

    name: str
    passes: int
    fresh: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a training loop does with a dense gradient besides stepping."""

    set_to_none: bool = (
        True  # zero_grad drops the gradient, torch's default; otherwise it is zeroed and accumulated into
    )
    clip: bool = False  # clip_grad_norm_
    scaler: bool = False  # GradScaler.unscale_
    master_copy: bool = False  # half-precision weights cast to and from a float32 master copy
    accumulation: int = 1  # micro-batches per step
    buckets: bool = False  # DistributedDataParallel copies gradients into its buckets and back
    bucket_view: bool = False  # gradient_as_bucket_view=True, which saves these copies


def extra_passes(around: Surroundings) -> tuple[Extra, ...]:
    """List what else passes over a dense table in one optimizer step.

    Each micro-batch zero-fills a fresh gradient (one write); all but the first are added to the kept one
    (three). Clipping reads once for the norm, then reads and writes to scale; unscaling reads and writes;
    zeroing a kept gradient writes once.

    Args:
        around: The training loop.

    Returns:
        One entry per operation that takes place.
    """
    kept = 0 if around.set_to_none else 1
    adds = around.accumulation - 1 + kept
    extras = (
        Extra("zero-fill", around.accumulation, around.accumulation),
        Extra("zero_grad", kept),
        Extra("accumulate", 3 * adds),
        Extra("unscale", 2 * around.scaler),
        Extra("clipping", 3 * around.clip),
        Extra("master copy", 2 * around.master_copy),
        Extra("bucket copies", 4 * (around.buckets and not around.bucket_view)),
    )
    return tuple(extra for extra in extras if extra.passes)


def ring_all_reduce_bytes(table_bytes: float, world: int) -> float:
    """Bytes that each device sends in a ring all-reduce: 2 (W - 1) / W of the table."""
    return 2 * (world - 1) / world * table_bytes


def sparse_all_gather_bytes(unique: float, dim: int, world: int, itemsize: int = 4) -> float:
    """Bytes that each device receives when the touched rows and their 8-byte ids are gathered."""
    return (world - 1) * unique * (dim * itemsize + 8)
