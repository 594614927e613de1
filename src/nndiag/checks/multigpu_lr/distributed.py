"""The same questions inside the process group that torchrun has started: ranks share the work, rank 0 reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is
import torch.distributed as dist  # noqa: TID253

from nndiag.checks.multigpu_lr.comparison import Comparison, in_float64, reductions
from nndiag.checks.multigpu_lr.equivalence import tell
from nndiag.checks.multigpu_lr.noise import tell_noise
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Fact, Skip, Step
from nndiag.lab import gradients
from nndiag.lab.forward import batch_rows
from nndiag.lab.shards import RankGradient, leaves_parameters_out
from nndiag.science import noise_scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation

STEPS, FEWEST = 32, 8


def examine_together(setting: Setting) -> Iterator[Observation]:
    """MGL101, MGL102 and MGL103 over the existing ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    yield Fact("process_group", dist.get_backend(), f"{world} ranks of torchrun ({dist.get_backend()})")
    if setting.aware:
        for code in ("MGL101", "MGL102"):
            yield Skip(
                code,
                "the loss asks for the process group, so one device alone cannot be had here: run without torchrun",
            )
    else:
        yield Step("gradients of shards", 0.2)
        yield from tell(setting, _shared(_comparison, setting, rank))
    yield Step("gradient noise scale", 0.6)
    if setting.subject.data is None or setting.subject.data.synthetic:
        yield Skip("MGL103", "invented data have no noise scale: give --data")
        return
    per = min(setting.layout.sizes)
    gram = _shared(_gram, setting, rank, world, per)
    if len(gram) < FEWEST:
        yield Skip("MGL103", f"{len(gram)} global batches of data are too few: the noise scale needs {FEWEST}")
        return
    scale = noise_scale.from_gram(gram.numpy(), per, seed=setting.subject.run.seed)
    yield from tell_noise(setting, scale, per)


def _shared(work: Any, *arguments: Any) -> Any:
    """Do work that meets other ranks; a lost one ends in two lines, not in gloo's own words."""
    try:
        return work(*arguments)
    except NndiagError:
        raise
    except RuntimeError as lost:
        said = str(lost).strip().splitlines()[0].rpartition(".cc:")[2].partition("] ")[2] or str(lost).splitlines()[0]
        said = said.partition(". This is typically")[0]
        raise NndiagError(f"another rank was lost: {said[:160]}", hint="see the messages of the other ranks") from lost


def _comparison(setting: Setting, rank: int) -> Comparison:
    laid, seed = setting.layout, setting.subject.run.seed
    model, exact = in_float64(setting)
    everything = gradients.split_rows(setting.whole, [laid.rows])[0]
    shards = gradients.split_rows(setting.whole, laid.sizes)
    whole = gradients.gradient_of(model, everything, setting.objective, seed=seed)
    own = shards[rank * laid.micro : (rank + 1) * laid.micro]
    mine = torch.stack(list(gradients.shard_gradients(model, own, setting.objective, seed=seed)))  # (A, P)
    mine = _placed(mine, setting)
    gathered = [torch.empty_like(mine) for _ in range(laid.ranks)]
    dist.all_gather(gathered, mine)
    parts = torch.cat([piece.cpu() for piece in gathered])
    counts = {
        "shard": [float(batch_rows(shard)) for shard in shards],
        "token": [float(gradients.token_counts(shard)) for shard in shards],
    }
    tolerance = gradients.ROUNDING[torch.float64 if exact else torch.float32]
    sums = gradients.explain_sum(parts, whole, list(counts.values()), tolerance)
    over_ranks, over_micro = reductions(setting, sums)
    grouped = [list(shards[r * laid.micro : (r + 1) * laid.micro]) for r in range(laid.ranks)]
    job = RankGradient(
        model,
        setting.subject.training,
        setting.whole,
        grouped,
        average_ranks=over_ranks == "mean",
        average_micro=over_micro == "mean",
        unused=leaves_parameters_out(model, shards[0], setting.objective),
        seed=seed,
    )
    result = job(rank, laid.ranks)["gradient"]
    aggregated = _placed(result if rank == 0 else torch.empty_like(whole), setting)
    dist.broadcast(aggregated, 0)
    return Comparison(whole, parts, sums, aggregated.cpu(), counts, exact, real=True, world_aware=False, noise=0.0)


def _gram(setting: Setting, rank: int, world: int, per: int) -> Tensor:
    """Return inner products of the averaged gradients of different steps, with local squared norms on the diagonal.

    Both are what a training step has at hand anyway: the norm before the all-reduce has a variance of tr(Σ)/b, and
    averages of different steps share nothing but the signal.
    """
    source, data, run = setting.subject.model, setting.subject.data, setting.subject.run
    assert source is not None
    assert data is not None
    model = gradients.still(source.make(), batchnorm=True)
    whole = gradients.whole_batch(data, STEPS * world * per, run.device)
    rows = batch_rows(whole) if whole is not None else 0
    steps = min(STEPS, rows // (world * per))
    shards = gradients.split_rows(whole, [per] * (steps * world)) if whole is not None else []
    before, after = [], []
    for step in range(steps):
        g = _placed(
            gradients.gradient_of(model, shards[step * world + rank], setting.objective, seed=run.seed), setting
        )
        local = g @ g
        dist.all_reduce(local)
        dist.all_reduce(g)
        before.append(local.cpu() / world)
        after.append(g.float().cpu() / world)
    if not after:
        return torch.zeros(0, 0, dtype=torch.float64)
    means = torch.stack(after)  # (steps, P)
    gram = (means @ means.T).double()
    gram.diagonal().copy_(torch.stack(before))
    return gram


def _placed(tensor: Tensor, setting: Setting) -> Tensor:
    """Put a tensor where the backend can move it: nccl moves what is on the GPU."""
    return tensor.to(setting.subject.run.device) if dist.get_backend() == "nccl" else tensor
