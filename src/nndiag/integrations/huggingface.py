"""Ask nndiag at the start of `Trainer.train`: `Trainer(…, callbacks=[NndiagCallback()])`.

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

_transformers = require("transformers", "hf", "the Hugging Face callback")
_Base: Any = _transformers.TrainerCallback


class NndiagCallback(Asking, _Base):  # type: ignore[misc]  # its types come with the extra
    """Runs chosen checks when training starts, on the real model, loader, optimizer, schedule and world size."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """Examine, tell, and stop the run where it must not start."""
        del control
        self.start(lambda: self._examine(args, shown), first=state.is_world_process_zero, share=_agreed)

    def _examine(self, args: Any, shown: dict[str, Any]) -> list[Report]:
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            LOG.warning("nndiag: not judged, the model is kept in shards")
            return []
        model, loader = shown["model"], shown.get("train_dataloader")
        optimizer = shown.get("optimizer")
        situation = Situation(
            model=model,
            batches=first_batches(loader, self.batches),
            optimizer=getattr(optimizer, "optimizer", optimizer),  # Accelerate wraps it
            recipe=_recipe(args, loader, shown.get("lr_scheduler")),
        )
        device = str(next(model.parameters()).device)
        return ask(self.checks, situation, {"device": device, **self.settings})


def _recipe(args: Any, loader: Any, scheduler: Any) -> dict[str, Any]:
    """Return the recipe of this run as far as the arguments say it."""
    dataset = getattr(loader, "dataset", None)
    recipe: dict[str, Any] = {
        "framework": "hf",
        "gpus": args.world_size,
        "per_device_batch": args.per_device_train_batch_size,
        "accumulation": args.gradient_accumulation_steps,
        "dataset_size": size_of(dataset),
        "epochs": args.num_train_epochs if args.max_steps <= 0 else None,
        "drop_last": args.dataloader_drop_last,
        "max_grad_norm": args.max_grad_norm or None,
    }
    table = schedule_of(scheduler) if scheduler is not None else None
    if table:
        recipe["schedule"] = {**table, "step-unit": "optimizer", "stepped-per": "optimizer"}
    return recipe


def _agreed(failed: bool) -> bool:
    """Tell every rank what rank 0 decided, so that none waits for one that has stopped."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return failed
    said = [failed]
    distributed.broadcast_object_list(said, src=0)
    return bool(said[0])
