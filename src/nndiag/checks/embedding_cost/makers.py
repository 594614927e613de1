"""Which optimizer does a cure step the table with?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.science import tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.checks.embedding_cost.cures import Cure
    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.checks.embedding_cost.spec import TableSpec


def makers_from_name(spec: TableSpec) -> Callable[[Cure], Any]:
    """Return the maker of each cure's optimizer when the present one is of the catalogue."""
    from nndiag.core.subject import Training
    from nndiag.lab.embedding.cures import RowWiseAdagrad, sparse_twin
    from nndiag.lab.optimizers import make_optimizer

    def make(cure: Cure) -> Any:
        optimizer = cure.spec.optimizer
        if cure.key == "row-wise":
            return lambda params: RowWiseAdagrad(params, lr=1e-3)
        if cure.key == "sparse" or (optimizer.options is not None and optimizer.options.name == "sparse_adam"):
            return sparse_twin(optimizer.family, 1e-3)
        options = optimizer.options
        if options is None:
            raise NndiagError("the optimizer is unknown", hint="give the model, or --optimizer by name")
        name = {"momentum": "sgd", "nesterov": "sgd"}.get(options.name, options.name)
        return lambda params: make_optimizer(Training(optimizer=name, lr=1e-3, optimizer_args=_args(options)), params)

    del spec
    return make


def _args(options: tables.OptimizerOptions) -> dict[str, Any]:
    """Torch's arguments for these options, as far as its optimizer takes them."""
    name = options.name
    args: dict[str, Any] = {}
    if name in {"sgd", "momentum", "nesterov", "rmsprop"} and options.momentum:
        args["momentum"] = options.momentum
    if options.nesterov:
        args["nesterov"] = True
    if options.amsgrad:
        args["amsgrad"] = True
    if options.centered:
        args["centered"] = True
    if name != "sparse_adam":
        args["weight_decay"] = options.weight_decay
    if options.implementation == tables.FUSED:
        args["fused"] = True
    elif name != "sparse_adam":
        args["foreach"] = options.implementation == tables.FOREACH
    return args


def makers_from_model(view: ModelView, index: int) -> Callable[[Cure], Any]:
    """Return the maker of each cure's optimizer when the user's own optimizer is at hand."""
    from nndiag.lab.embedding.optim import maker

    site = view.sites[index]
    found = view.routing.of(site.key) if view.routing else None
    by_name = makers_from_name(view.specs[index])

    def make(cure: Cure) -> Any:
        own = found is not None and (
            cure.spec.optimizer.options is None
            or cure.key in {"current", "factorised", "set-to-none", "bag", "bucket-view", "frozen"}
        )
        if own and found is not None:
            return maker(*found)
        return by_name(cure)

    return make
