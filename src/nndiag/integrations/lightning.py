"""Ask nndiag at the start of `Trainer.fit`: `Trainer(callbacks=[NndiagCallback()])`.

The checks see private copies of the model and the first batches of the real loader; optimizer, schedule and world
size are read, never touched. A finding at or above `fail_on` ends the run before its first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.integrations.asking import LOG, Situation, ask, first_batches, size_of
from nndiag.integrations.callback import Asking
from nndiag.integrations.schedules import schedule_of
from nndiag.load.door import require

if TYPE_CHECKING:
    from nndiag.core.report import Report

_lightning = require("lightning.pytorch", "lightning", "the Lightning callback")
_Base: Any = _lightning.Callback
SHARDED = ("fsdp", "deepspeed", "modelparallel")


class NndiagCallback(Asking, _Base):  # type: ignore[misc]  # its types come with the extra
    """Runs chosen checks when training starts, on the real model, loader, optimizer, schedule and world size."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Examine, tell, and stop the run where it must not start."""
        self.start(
            lambda: self._examine(trainer, pl_module),
            first=trainer.is_global_zero,
            share=lambda failed: bool(trainer.strategy.broadcast(failed, src=0)),
        )

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
