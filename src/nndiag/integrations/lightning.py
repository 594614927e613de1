"""Ask nndiag at the start of `Trainer.fit`: `Trainer(callbacks=[NndiagCallback()])`.

The checks see private copies of the model and the first batches of the real loader; optimizer, schedule and world
size are read, never touched. A finding at or above `fail_on` ends the run before its first step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nndiag.integrations.asking import (
    BATCHES,
    LOG,
    Situation,
    alone,
    ask,
    first_batches,
    known_checks,
    level,
    size_of,
    stop_if_needed,
    tell,
)
from nndiag.integrations.schedules import schedule_of
from nndiag.load.door import require

if TYPE_CHECKING:
    from nndiag.core.report import Report

_lightning = require("lightning.pytorch", "lightning", "the Lightning callback")
_Base: Any = _lightning.Callback
SHARDED = ("fsdp", "deepspeed", "modelparallel")


class NndiagCallback(_Base):  # type: ignore[misc]  # its types come with the extra
    """Runs chosen checks when training starts, on the real model, loader, optimizer, schedule and world size.

    Args:
        checks: Names of commands; all that a trainer can show by default.
        fail_on: `error`, `warning`, `note`, or `never` to warn only.
        batches: How many batches of the training loader are looked at.
        **settings: What the functions of `nndiag` take; `base_lr` and `base_batch` for multigpu-lr.
    """

    def __init__(
        self, checks: Iterable[str] | None = None, *, fail_on: str = "error", batches: int = BATCHES, **settings: Any
    ) -> None:
        super().__init__()
        self.checks = known_checks(checks)
        self.fail_on = level(fail_on)
        self.batches = batches
        self.settings = {"max_seconds": 30.0, **settings}
        self.reports: list[Report] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Examine, tell, and stop the run where it must not start."""
        failure: BaseException | None = None
        with alone():
            self.reports = self._examine(trainer, pl_module) if trainer.is_global_zero else []
        if trainer.is_global_zero:
            tell(self.reports)
            try:
                stop_if_needed(self.reports, self.fail_on)
            except Exception as found:  # noqa: BLE001 - told to the other ranks first, then raised
                failure = found
        stop = trainer.strategy.broadcast(failure is not None, src=0)
        if failure is not None:
            raise failure
        if stop:
            raise RuntimeError("nndiag on rank 0 found a reason not to start; see its log")

    def _examine(self, trainer: Any, pl_module: Any) -> list[Report]:
        name = type(trainer.strategy).__name__.lower()
        if any(word in name for word in SHARDED):
            LOG.warning("nndiag: not judged, %s keeps the model in shards", type(trainer.strategy).__name__)
            return []
        optimizers = trainer.optimizers
        situation = Situation(
            model=_runnable(pl_module),
            batches=first_batches(trainer.train_dataloader, self.batches),
            optimizer=optimizers[0] if len(optimizers) == 1 else None,
            recipe=_recipe(trainer),
        )
        device = str(pl_module.device)
        return ask(self.checks, situation, {"device": device, **self.settings})


def _runnable(module: Any) -> Any:
    """Return what can be called: the module itself, or its only child where it defines no forward."""
    if type(module).forward is not _lightning.LightningModule.forward:
        return module
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    return children[0] if len(children) == 1 else module


def _recipe(trainer: Any) -> dict[str, Any]:
    """Return the recipe of this run as far as the trainer knows it."""
    loader = trainer.train_dataloader
    batch = getattr(loader, "batch_size", None)
    dataset = getattr(loader, "dataset", None)
    recipe: dict[str, Any] = {
        "framework": "lightning",
        "gpus": trainer.world_size,
        "per_device_batch": batch,
        "accumulation": trainer.accumulate_grad_batches,
        "dataset_size": size_of(dataset),
        "epochs": trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None,
        "drop_last": getattr(loader, "drop_last", None),
        "max_grad_norm": trainer.gradient_clip_val,
    }
    configs = trainer.lr_scheduler_configs
    table = schedule_of(configs[0].scheduler) if len(configs) == 1 else None
    if table:
        per = "epoch" if configs[0].interval == "epoch" else "optimizer"
        recipe["schedule"] = {**table, "stepped-per": per}
    return recipe
