"""Does a cure really run on this model, and what does it cost? Nothing is advised that was not executed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.clock import threads
from nndiag.lab.embedding.bags import BagInstead
from nndiag.lab.embedding.model import Loop, loss_function, training_step
from nndiag.lab.embedding.tables import take_inventory, weight_of
from nndiag.lab.forward import mapped, unwrapped
from nndiag.lab.uncompiled import lightened, uncompiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nndiag.core.subject import Batch, Training


class RowWiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per row (the mean of its squared gradient), for sparse gradients.

    Source: Mudigere et al. 2022 (DLRM, arXiv 2104.05158), section 4.1.4.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        del closure
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                grad = table.grad.coalesce()
                rows, values = grad.indices()[0], grad.values()  # (U,), (U, D)
                state = self.state[table]
                if not state:
                    state["sum"] = torch.zeros(table.shape[0], dtype=table.dtype, device=table.device)
                state["sum"].index_add_(0, rows, values.square().mean(1))
                scale = state["sum"][rows].sqrt().add_(group["eps"]).reciprocal_().mul_(-group["lr"])
                table.index_add_(0, rows, values * scale[:, None])


@dataclass(frozen=True, slots=True)
class Ran:
    """What a cure did on the user's model."""

    refused: str = ""  # what stopped it
    seconds: float | None = None  # fastest whole step after the first, padding aside


@dataclass(frozen=True, slots=True)
class Patient:
    """A private model with what its steps need; it is changed and trained."""

    model: nn.Module
    batch: Batch  # on the model's device
    training: Training
    optimizers: tuple[torch.optim.Optimizer, ...]  # the user's, over the model
    clip: float | None = None
    loop: Loop = field(default_factory=Loop)

    def steps(self, optimizers: Sequence[torch.optim.Optimizer], *, repeats: int = 3, **changes: Any) -> Ran:
        """Make some steps on the batch and one on padding only."""
        return run_steps(replace(self, **changes), optimizers, repeats)


def sparse_twin(family: str, lr: float) -> Callable[[list[Any]], torch.optim.Optimizer]:
    """Return the maker of the optimizer nearest to a family that takes sparse gradients."""
    if family == "sgd":
        return lambda params: torch.optim.SGD(params, lr=lr)
    if family == "adagrad":
        return lambda params: torch.optim.Adagrad(params, lr=lr)
    return lambda params: torch.optim.SparseAdam(params, lr=lr)


def rebuilt(
    optimizer: torch.optim.Optimizer, *, without: frozenset[int] = frozenset(), changes: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer | None:
    """Build the same optimizer anew, over fewer parameters or with other options.

    Args:
        optimizer: With its groups.
        without: Identities of parameters to leave out.
        changes: Options to set, such as fused=True; foreach and fused exclude each other.

    Returns:
        The optimizer; None where no parameter is left.
    """
    kind = type(optimizer)
    known = inspect.signature(kind).parameters
    changes = dict(changes or {})
    if any(word in changes for word in ("fused", "foreach")):
        changes = {word: None for word in ("fused", "foreach") if word in known} | changes
    groups = []
    for group in optimizer.param_groups:
        kept = [parameter for parameter in group["params"] if id(parameter) not in without]
        options = {word: value for word, value in group.items() if word in known and word != "params"}
        if kept:
            groups.append(options | changes | {"params": kept})
    if not groups:
        return None
    with uncompiled():
        return lightened(kind(groups, **{word: value for word, value in groups[0].items() if word != "params"}))


def run_switched(patient: Patient, word: str) -> Ran:
    """Step with an option of torch's optimizers switched on: fused or foreach."""
    made = []
    for optimizer in patient.optimizers:
        takes = word in inspect.signature(type(optimizer)).parameters
        again = rebuilt(optimizer, changes={word: True}) if takes else optimizer
        made.append(again if again is not None else optimizer)
    return patient.steps(made)


def run_split(patient: Patient, make: Callable[[list[Any]], torch.optim.Optimizer], *, sparse: bool) -> Ran:
    """Give the tables an optimizer of their own, with sparse gradients or not; the rest keeps the user's.

    Args:
        patient: The model.
        make: Maker of the tables' optimizer.
        sparse: Switch sparse=True on.
    """
    model = patient.model
    keys = frozenset(site.key for site in take_inventory(model).tables if site.trainable)
    holders = [module for module in model.modules() if id(weight_of(module)) in keys]
    if not holders:
        return Ran("the table is no nn.Embedding: a bare parameter needs F.embedding(ids, table, sparse=True)")
    if sparse:
        for module in holders:
            if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
                return Ran(f"{type(module).__name__} has no sparse gradients")
            module.sparse = True
    tables = [parameter for parameter in model.parameters() if id(parameter) in keys]
    rest = [rebuilt(optimizer, without=keys) for optimizer in patient.optimizers]
    with uncompiled():
        own = lightened(make(tables))
    made = [own, *(item for item in rest if item is not None)]
    return patient.steps(made, clip=None if sparse else patient.clip)


def run_bag(patient: Patient, name: str) -> Ran:
    """Step with an EmbeddingBag in the place of a lookup and the mean behind it.

    Args:
        patient: The model.
        name: Of the table's weight.
    """
    inner = unwrapped(patient.model)
    bags = BagInstead(inner.get_parameter(name))
    handle = inner.register_forward_hook(lambda *_: bags.forget())
    try:
        with bags:
            ran = patient.steps(patient.optimizers)
    finally:
        handle.remove()
    return ran if ran.refused or bags.bags else Ran("no mean stands right behind the lookup")


def run_steps(patient: Patient, optimizers: Sequence[torch.optim.Optimizer], repeats: int = 3) -> Ran:
    """Make some steps on the batch, then one on padding only, and say how fast they were or what stopped them."""
    model, batch = patient.model, patient.batch
    model.train()
    padding: Any = next((module.padding_idx for module in model.modules() if _padded(module)), 0)
    blank = replace(batch, inputs=mapped(batch.inputs, lambda item: _blanked(item, int(padding or 0))))
    taken: list[float] = []
    plain = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
    try:
        with plain, threads(1), uncompiled():
            loss = loss_function(model, batch, patient.training)
            for item in [batch] * repeats + [blank]:
                parts = training_step(model, item, loss, optimizers, clip=patient.clip, loop=patient.loop)
                taken.append(sum(parts))
    except NndiagError as error:
        return Ran(error.message)
    except Exception as error:  # noqa: BLE001 - reported in its own words
        said = (str(error).splitlines() or [""])[0]
        return Ran(f"{type(error).__name__}: {said[:120]}")
    return Ran(seconds=min(taken[1:-1]) if repeats > 1 else None)


def _padded(module: nn.Module) -> bool:
    return weight_of(module) is not None and getattr(module, "padding_idx", None) is not None


def _blanked(item: Tensor, padding: int) -> Tensor:
    whole = not item.is_floating_point() and item.dtype != torch.bool and item.dim() > 1
    return torch.full_like(item, padding) if whole else item
