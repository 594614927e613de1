"""Equal epochs on 1 and on N devices: does the declared recipe arrive where one device does?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is

from nndiag.checks.multigpu_lr.scaled_run import tell
from nndiag.checks.multigpu_lr.trials import DEFAULT_BATCH, HELD_OUT, SEEDS, STEPS, Outcome, Variant, variants_of
from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.findings import Skip, Step
from nndiag.lab.forward import batch_rows
from nndiag.lab.gradients import whole_batch
from nndiag.lab.optimizers import known_optimizers, make_optimizer
from nndiag.lab.shards import one_thread, pick, score, train_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch, Training

MOST_ROWS, FEWEST_ROWS = 4096, 64


def judge_training(setting: Setting, noise: float | None) -> Iterator[Observation]:
    """MGL201 and MGL010."""
    recipe, run = setting.plan.recipe, setting.subject.run
    base = recipe.base_lr or recipe.lr or setting.subject.training.lr
    reason = ""
    if base is None:
        reason = "needs base-lr (the rate on one device)"
    elif setting.subject.data is None or setting.subject.data.synthetic:
        reason = "invented data teach nothing: give --data"
    elif (recipe.devices or 1) < 2:
        reason = "needs gpus, two or more"
    if reason or base is None:
        yield from _skipped(reason)
        return
    batch = max(recipe.base_batch or recipe.per_device_batch or DEFAULT_BATCH, (recipe.global_batch or 0) / 8)
    wanted = min(MOST_ROWS, max(256, int(STEPS * batch / (1 - HELD_OUT))))
    rows = whole_batch(setting.subject.data, wanted, run.device) if setting.subject.data else None
    if rows is None or batch_rows(rows) < FEWEST_ROWS:
        yield from _skipped("fewer than 64 samples: too few to train and to hold some out")
        return
    variants, passes = variants_of(setting.plan, base, noise, batch_rows(rows))
    outcomes: dict[str, Outcome] = {}
    for i, variant in enumerate(variants):
        yield Step(f"training: {variant.name}", i / len(variants))
        if run.seconds_left <= 0:
            break
        try:
            outcomes[variant.name] = _train(setting, variant, rows, passes)
        except (NndiagError, UsageError) as failed:
            yield from _skipped(f"training failed: {failed.message}")
            return
    yield from tell(setting, variants, outcomes, rows)


def _skipped(reason: str) -> Iterator[Observation]:
    for code in ("MGL201", "MGL010"):
        yield Skip(code, reason)


def _train(setting: Setting, variant: Variant, rows: Batch, passes: int) -> Outcome:
    source: Any = setting.subject.model
    total = batch_rows(rows)
    held = pick(rows, torch.arange(int(total * (1 - HELD_OUT)), total))
    count = total - batch_rows(held)
    seen = pick(rows, torch.arange(min(count, 1024)))
    results = []
    with setting.alone(), one_thread(source.make()):
        for seed in range(SEEDS):
            generator = torch.Generator().manual_seed(setting.subject.run.seed * 1000 + seed)
            order = [int(i) for _ in range(passes) for i in torch.randperm(count, generator=generator)]
            model = source.make()
            optimizer = make_optimizer(_training(setting), model, lr=variant.lr)
            losses = train_on(
                model, rows, order, setting.objective, optimizer, variant.devices, warmup=variant.warmup, seed=seed
            )
            results.append((score(model, seen, setting.objective)[0], *score(model, held, setting.objective), losses))
    return Outcome(
        tuple(item[0] for item in results),
        tuple(item[1] for item in results),
        tuple(item[2] for item in results if item[2] is not None),
        tuple(results[0][3]),
    )


def _training(setting: Setting) -> Training:
    """Return how the user trains, with the recipe's optimizer where the command line names none."""
    training, name = setting.subject.training, setting.plan.recipe.optimizer
    if training.optimizer is None and name in known_optimizers():
        args: dict[str, Any] = {"momentum": setting.plan.recipe.momentum} if setting.plan.recipe.momentum else {}
        return replace(training, optimizer=name, optimizer_args={**args, **training.optimizer_args})
    return training
