"""A training recipe as its user wrote it: devices, batches, rate, schedule and the constants counted in steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FRAMEWORKS = ("ddp", "fsdp", "accelerate", "deepspeed", "lightning", "hf", "mirrored", "horovod", "easgd")
RULES_OF_SCALING = ("linear", "sqrt", "gain", "none")
SCHEDULES = ("constant", "linear", "cosine", "cosine-restarts", "step", "multistep", "exponential")
STEP_UNITS = ("optimizer", "dataloader", "epoch")
STEPPED_PER = ("optimizer", "micro-batch", "epoch", "process")
NO_WORDS: Mapping[str, str] = MappingProxyType({})
NO_NUMBERS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the learning rate moves, in the counts its user wrote down."""

    name: str = "constant"  # one of SCHEDULES, or file.py:fn
    total_steps: float | None = None
    warmup_steps: float | None = None
    milestones: tuple[float, ...] = ()
    decay_steps: float | None = None
    decay_epochs: float | None = None  # the epoch the first decay was meant for
    gamma: float | None = None
    cycle_steps: float | None = None
    step_unit: str | None = None  # what one count was meant to be; None: derived, or unknown
    stepped_per: str = "optimizer"  # how often step() really runs
    warmup_ratio: float | None = None  # warm-up as a share of all updates
    managed: bool = False  # the framework counts the steps itself (Hugging Face's Trainer)
    periodic: bool = True  # cosine goes up again past its end, as torch's and transformers' do; DeepSpeed's stays
    factory: Callable[..., Any] | None = field(default=None, compare=False)  # takes an optimizer, returns a scheduler


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe with its batch arithmetic done. What nobody said is None."""

    framework: str | None = None
    devices: int | None = None  # processes in all, over all nodes
    nodes: int = 1
    per_device_batch: float | None = None  # samples per device and micro-batch
    accumulation: int = 1
    global_batch: float | None = None  # samples per update
    base_batch: float | None = None  # samples per update of the recipe that worked
    base_lr: float | None = None
    lr: float | None = None
    dataset_size: int | None = None
    epochs: float | None = None
    updates: int | None = None  # optimizer updates in all, where they and not the epochs were written
    optimizer: str | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    base_betas: tuple[float, float] | None = None
    eps: float | None = None
    ema_decay: float | None = None
    base_ema_decay: float | None = None
    rule: str | None = None
    schedule: Schedule | None = None
    shard_sizes: tuple[int, ...] = ()
    sampler: str | None = None  # "distributed" or "none"
    set_epoch: bool | None = None
    drop_last: bool | None = None
    split_batches: bool = False
    max_grad_norm: float | None = None
    gradient_reduction: str | None = None  # "mean" or "sum" over ranks; None: the framework's
    accumulation_reduction: str | None = None  # "mean" or "sum" over micro-batches; None: the framework's
    intervals: Mapping[str, float] = field(default_factory=lambda: NO_NUMBERS)  # logging, evaluation … in updates
    base_intervals: Mapping[str, float] = field(default_factory=lambda: NO_NUMBERS)
    deduced: Mapping[str, str] = field(default_factory=lambda: NO_WORDS)  # field -> how it was concluded
    sources: tuple[str, ...] = ()  # the files it was read from
    where_lr: str = ""  # the key that holds the rate, to point at
