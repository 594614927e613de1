"""Does a cure really run on this model, and what does it cost? Nothing is advised that was not executed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.embedding.model import loss_function, training_step
from nndiag.lab.embedding.tables import take_inventory, weight_of
from nndiag.lab.forward import mapped
from nndiag.lab.optimizers import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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


def sparse_twin(family: str, lr: float) -> Callable[[list[Any]], torch.optim.Optimizer]:
    """Return the maker of the optimizer nearest to a family that takes sparse gradients."""
    if family == "sgd":
        return lambda params: torch.optim.SGD(params, lr=lr)
    if family == "adagrad":
        return lambda params: torch.optim.Adagrad(params, lr=lr)
    return lambda params: torch.optim.SparseAdam(params, lr=lr)


def run_sparse(
    model: nn.Module,
    batch: Batch,
    training: Training,
    make: Callable[[list[Any]], torch.optim.Optimizer],
    *,
    clip: float | None = None,
) -> str:
    """Try sparse=True with its own optimizer on the user's model: two steps, then one on padding only.

    Args:
        model: Private: it is changed and trained.
        batch: A batch on its device.
        training: For the loss and the optimizer of everything else.
        make: Maker of the optimizer for sparse gradients.
        clip: Norm that the user clips to.

    Returns:
        "" when it ran, otherwise what stopped it.
    """
    if not any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules()):
        return "the table is no nn.Embedding: a bare parameter needs F.embedding(ids, table, sparse=True)"
    keys = {site.key for site in take_inventory(model).tables if site.trainable}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) in keys:
            module.sparse = True
    tables = [parameter for parameter in model.parameters() if id(parameter) in keys]
    others = [parameter for parameter in model.parameters() if id(parameter) not in keys and parameter.requires_grad]
    optimizers = [make(tables)]
    if others:
        optimizers.append(make_optimizer(training, others))
    padding: Any = next((module.padding_idx for module in model.modules() if _padded(module)), 0)
    blank = replace(batch, inputs=mapped(batch.inputs, lambda item: _blanked(item, int(padding or 0))))
    return run_steps(model, [batch, batch, blank], training, optimizers, clip=clip)


def run_steps(
    model: nn.Module,
    batches: Sequence[Batch],
    training: Training,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    clip: float | None = None,
) -> str:
    """Make one step per batch and return what stopped it, "" when nothing did."""
    model.train()
    try:
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
            for batch in batches:
                training_step(model, batch, loss_function(model, batch, training), optimizers, clip=clip)
    except NndiagError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - reported in its own words
        said = (str(error).splitlines() or [""])[0]
        return f"{type(error).__name__}: {said[:120]}"
    return ""


def _padded(module: nn.Module) -> bool:
    return weight_of(module) is not None and getattr(module, "padding_idx", None) is not None


def _blanked(item: Tensor, padding: int) -> Tensor:
    whole = not item.is_floating_point() and item.dtype != torch.bool and item.dim() > 1
    return torch.full_like(item, padding) if whole else item
