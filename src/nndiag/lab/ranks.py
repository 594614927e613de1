"""A real torch.distributed process group on this machine: private folder, file store, a parent that watches.

The parent ends every worker at the first failure or at the deadline: a stale store, a taken port or a hung rank would
otherwise wait far past gloo's own timeout. No worker outlives the call.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from nndiag.core.errors import NndiagError

POLL = 0.05
Job = Callable[[int, int], Any]  # (rank, world) -> what torch.save can hold


def run_ranks(job: Job, ranks: int, *, seconds: float, users: Sequence[Any] = (), backend: str = "gloo") -> list[Any]:
    """Run a job in `ranks` fresh processes that form one process group.

    Args:
        job: Picklable, called as job(rank, world) once the group stands.
        ranks: How many.
        seconds: Deadline for all of it.
        users: Objects of the user whose modules the workers must know.
        backend: gloo, or nccl on GPUs.

    Returns:
        Each rank's result, in order of rank.

    Raises:
        NndiagError: A rank failed, was killed, or the deadline passed; every other one has been ended by then.
    """
    try:
        packed = pickle.dumps(job)
    except Exception as unable:
        raise NndiagError(
            f"the model cannot be sent to other processes: {type(unable).__name__}: {str(unable).splitlines()[0]}",
            hint="define classes and functions at the top of a file; lambdas and local classes cannot be sent",
        ) from unable
    folder = Path(tempfile.mkdtemp(prefix="nndiag-ranks-"))
    workers: list[subprocess.Popen[bytes]] = []
    head = {
        "job": packed,
        "ranks": ranks,
        "seconds": seconds,
        "backend": backend,
        "path": [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path],  # noqa: PTH100, PTH109
        "modules": _modules_of(users),
    }
    try:
        (folder / "job.pickle").write_bytes(pickle.dumps(head))
        workers = [_start(folder, rank) for rank in range(ranks)]
        _watch(workers, folder, time.monotonic() + seconds, seconds)
        return [torch.load(folder / f"result{rank}.pt", weights_only=True) for rank in range(ranks)]
    finally:
        _end(workers)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MASTER_", "TORCHELASTIC_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "0", "GLOO_SOCKET_IFNAME": _loopback(environment)}
    log = (folder / f"log{rank}.txt").open("wb")
    with log:
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "nndiag.lab.ranks_worker", str(folder), str(rank)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _loopback(environment: dict[str, str]) -> str:
    if "GLOO_SOCKET_IFNAME" in environment:
        return environment["GLOO_SOCKET_IFNAME"]
    return "lo0" if sys.platform == "darwin" else "lo"


def _watch(workers: list[subprocess.Popen[bytes]], folder: Path, deadline: float, seconds: float) -> None:
    """Return when all have ended well; raise at the first that has not, and at the deadline."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            time.sleep(4 * POLL)  # a rank that lost its neighbour fails too: let the first one's words be written
            raise _lost(failed, [worker.poll() for worker in workers], folder)
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > deadline:
            waiting = [str(rank) for rank, code in enumerate(codes) if code is None]
            raise NndiagError(
                f"rank {', '.join(waiting)} of {len(workers)} did not finish within {seconds:.3g} s",
                hint="a rank hangs, or is slow: raise --max-seconds, or look for collectives that not every "
                "rank reaches",
            )
        time.sleep(POLL)


def _lost(failed: list[int], codes: Sequence[int | None], folder: Path) -> NndiagError:
    """Name the rank that went first: one killed by a signal rather than one that lost its neighbour."""
    killed = [rank for rank in failed if (codes[rank] or 0) < 0]
    rank = killed[0] if killed else _first_to_speak(failed, folder)
    code = codes[rank] or 0
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return NndiagError(
            f"rank {rank} of {len(codes)} was killed ({name})", hint="out of memory? fewer --ranks, or a smaller batch"
        )
    words = folder / f"error{rank}.txt"
    said = words.read_text(encoding="utf-8") if words.exists() else f"exit code {code}"
    return NndiagError(f"rank {rank} of {len(codes)} failed: {said}", hint="--ranks 1 runs it in one process")


def _first_to_speak(failed: list[int], folder: Path) -> int:
    spoken = [(words.stat().st_mtime_ns, rank) for rank in failed if (words := folder / f"error{rank}.txt").exists()]
    return min(spoken)[1] if spoken else failed[0]


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)  # each worker leads a session of its own
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=5)


def _modules_of(users: Sequence[Any]) -> dict[str, str]:
    """Return name and file of the modules that a fresh interpreter would not find by their names."""
    found: dict[str, str] = {}
    for thing in users:
        parts = [type(part) for part in thing.modules()] if isinstance(thing, torch.nn.Module) else [thing]
        for part in parts:
            name = getattr(part, "__module__", "") or ""
            module = sys.modules.get(name)
            file = getattr(module, "__file__", None)
            if not file or "site-packages" in file or name.startswith(("torch", "nndiag.")):
                continue
            found[name] = os.path.abspath(file)  # noqa: PTH100 - a name for another process
    return {name: file for name, file in found.items() if "." not in name}


@contextlib.contextmanager
def group_of_one(backend: str = "gloo") -> Iterator[None]:
    """Stand in a process group of one, for a loss that asks for its world, or a wrapper that wants one, on one device.

    Args:
        backend: gloo, or nccl on a GPU.
    """
    if dist.is_initialized():
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="nndiag-ranks-"))
    before = {key: os.environ.get(key) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GLOO_SOCKET_IFNAME")}
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": _loopback(dict(os.environ))}
    os.environ |= alone  # the loopback: a machine without a name in any network has one, too
    try:
        dist.init_process_group(backend, init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
        shutil.rmtree(folder, ignore_errors=True)


def existing_world() -> int:
    """Return the number of ranks that torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1) if "RANK" in os.environ else 1


def backend_for(device: str, ranks: int) -> str:
    """Return what moves gradients: nccl where every rank has a GPU of its own, else gloo over the processor."""
    own_gpus = device.startswith("cuda") and torch.cuda.device_count() >= ranks
    return "nccl" if own_gpus else "gloo"


def torchrun_backend(device: str, *, local_ranks: int, gpus: int) -> str:
    """Return what moves gradients between torchrun's ranks: nccl where each rank of a machine has a GPU of its own.

    nccl refuses two ranks on one GPU; gloo moves what they have through the processor.

    Args:
        device: As resolved: "cuda" stands for each rank's own, "cuda:1" for one that all share.
        local_ranks: Ranks on this machine.
        gpus: GPUs of this machine.
    """
    return "nccl" if device == "cuda" and local_ranks <= gpus else "gloo"


def take_own_gpu(device: str) -> None:
    """Under torchrun: make "cuda" mean the GPU of this rank, before anything is placed on one.

    Ranks beyond the number of GPUs share them.
    """
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))


def _all_here(seconds: float) -> tuple[Any, int, int]:
    """Wait in Python until every rank has come, so that a signal from torchrun is heard meanwhile.

    Returns:
        The store they meet at, this rank, and how many there are.

    Raises:
        NndiagError: A rank has not come within `seconds`.
    """
    deadline = time.monotonic() + seconds
    store, rank, world = next(rendezvous("env://", timeout=dt.timedelta(seconds=seconds)))
    names = [f"nndiag/here/{other}" for other in range(world)]
    store.set(names[rank], "1")
    while not store.check(names):
        if time.monotonic() > deadline:
            missing = [str(other) for other, name in enumerate(names) if not store.check([name])]
            raise NndiagError(
                f"rank {', '.join(missing)} of {world} did not join within {seconds:.3g} s",
                hint="has it not started, or does it hang before the first collective? --max-seconds gives it longer",
            )
        time.sleep(POLL)
    return store, rank, world


@contextlib.contextmanager
def torchrun_group(seconds: float, device: str = "cpu") -> Iterator[tuple[int, int]]:
    """Join the process group that torchrun has prepared; (rank, world).

    Raises:
        NndiagError: The group does not come together within `seconds`.
    """
    ours = not dist.is_initialized()
    if ours:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        backend = torchrun_backend(device, local_ranks=local, gpus=torch.cuda.device_count())
        try:
            store, rank, world = _all_here(seconds)
            limit = dt.timedelta(seconds=seconds)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
        except NndiagError:
            raise
        except Exception as failed:
            said = str(failed).strip().splitlines()[0] if str(failed).strip() else type(failed).__name__
            raise NndiagError(
                f"the process group did not come together within {seconds:.3g} s: {said[:160]}",
                hint="is MASTER_PORT taken (torchrun --standalone picks a free one), has a rank not started, or does "
                "one hang?",
            ) from failed
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()
