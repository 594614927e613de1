"""Ask nndiag at the start of `Trainer.train`: `Trainer(…, callbacks=[NndiagCallback()])`.

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

_transformers = require("transformers", "hf", "the Hugging Face callback")
_Base: Any = _transformers.TrainerCallback


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

    def on_train_begin(self, args: Any, state: Any, control: Any, **shown: Any) -> None:
        """Examine, tell, and stop the run where it must not start."""
        del control
        failure: BaseException | None = None
        with alone():
            self.reports = self._examine(args, shown) if state.is_world_process_zero else []
        if state.is_world_process_zero:
            tell(self.reports)
            try:
                stop_if_needed(self.reports, self.fail_on)
            except Exception as found:  # noqa: BLE001 - told to the other ranks first, then raised
                failure = found
        stop = _agreed(failure is not None)
        if failure is not None:
            raise failure
        if stop:
            raise RuntimeError("nndiag on rank 0 found a reason not to start; see its log")

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
