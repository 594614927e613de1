"""One rank: `python -m nndiag.lab.ranks_worker FOLDER RANK`. Started by `ranks.run_ranks`, and by nobody else."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

EXIT_FAILED = 3


def main(folder: Path, rank: int) -> None:
    """Join the group, compute this rank's gradients, leave the result."""
    with (folder / "job.pickle").open("rb") as file:
        head = pickle.load(file)  # noqa: S301 - written by the parent, into a folder of its own
    world, seconds = head["ranks"], head["seconds"]
    _end_at(seconds)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    _see_users_modules(head["path"], head["modules"])
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if head["backend"] == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        head["backend"],
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world,
        timeout=dt.timedelta(seconds=seconds),
    )
    job = pickle.loads(head["job"])  # noqa: S301 - likewise, now that the user's modules are there
    result = job(rank, world)
    torch.save(result, folder / f"result{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _end_at(seconds: float) -> None:
    """End with the deadline even where the parent has died and a collective hangs."""
    timer = threading.Timer(seconds + 5, os._exit, args=(EXIT_FAILED,))
    timer.daemon = True
    timer.start()


def _see_users_modules(path: list[str], modules: dict[str, str]) -> None:
    """Make the user's files importable under the names that the parent knows them by."""
    sys.path[:] = path
    sys.dont_write_bytecode = True
    for name, file in modules.items():
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def _report(folder: Path, rank: int, error: BaseException) -> None:
    said: Any = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
    (folder / f"error{rank}.txt").write_text(str(said).strip().splitlines()[0][:400], encoding="utf-8")


if __name__ == "__main__":
    place, number = Path(sys.argv[1]), int(sys.argv[2])
    try:
        main(place, number)
    except BaseException as error:  # noqa: BLE001 - the parent tells the user
        _report(place, number, error)
        os._exit(EXIT_FAILED)
    os._exit(0)
