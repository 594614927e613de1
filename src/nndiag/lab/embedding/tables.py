"""Which tables does a model hold, how large are they, and who shares them? Answered without allocating one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nndiag.lab.borrow import seeded
from nndiag.lab.embedding.onehot import EyesMade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nndiag.core.subject import ModelSource
    from nndiag.lab.embedding.uses import Use


@dataclass(frozen=True, slots=True)
class TableSite:
    """One embedding table of a model; shared ones count once."""

    name: str
    cls: str
    rows: int
    dim: int
    dtype: torch.dtype
    sparse: bool
    trainable: bool
    tied: tuple[str, ...] = ()  # other modules that use the same weight as a matrix
    shared: tuple[str, ...] = ()  # other lookups of the same weight
    bag: str = ""  # the mode of an EmbeddingBag
    padding: int | None = None
    renormalises: bool = False  # max_norm: rows are rewritten in the forward pass
    parameter: str = ""  # name of the weight
    held: bool = True  # by a lookup module; otherwise a bare parameter that the forward indexes
    key: int = 0  # its identity

    @property
    def elements(self) -> int:
        """V times D."""
        return self.rows * self.dim


@dataclass(frozen=True, slots=True)
class Inventory:
    """The tables of a model, and what stands beside them."""

    tables: tuple[TableSite, ...]
    parameters: int  # all, shared ones once
    trainable: int
    matrix: int  # parameters that multiply every token or sample, tied tables included
    trainable_bytes: int
    itemsize: int
    bare: bool  # on the meta device: shapes only


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Build what is built inside on the meta device: shapes without memory."""
    with torch.device("meta"):
        yield


def recipe_of(source: Any) -> Callable[[], nn.Module] | None:
    """Return the bare factory behind a source, None for an instance: what builds a model where the context says.

    A source's own `make` copies to its device, compares builds and keeps one; none of that is wanted for a
    model without memory or with fewer rows.
    """
    while hasattr(source, "prepare") and hasattr(source, "source"):
        source = source.source
    build = getattr(source, "build", None)
    return build if callable(build) else None


def skeleton(source: ModelSource, seed: int = 0) -> nn.Module | None:
    """Build the model on the meta device; None where its construction needs real numbers."""
    build = recipe_of(source)
    if build is None:
        instance = getattr(source, "instance", None)
        return instance if isinstance(instance, nn.Module) else None  # already in memory; it is only read
    try:
        with seeded(seed), on_meta(), EyesMade() as eyes:
            model: Any = build()
    except Exception:  # noqa: BLE001 - whatever the user's constructor does with numbers that are not there
        return None
    return eyes.remember(model) if isinstance(model, nn.Module) else None


def is_bare(model: nn.Module) -> bool:
    """Whether the tables are on the meta device."""
    return any(parameter.is_meta for parameter in model.parameters())


def take_inventory(model: nn.Module, uses: Mapping[str, Use] | None = None) -> Inventory:
    """List the tables and count the parameters.

    A table is an `nn.Embedding` or `nn.EmbeddingBag` or what derives from them, a Keras `Embedding`, or a module that
    declares `num_embeddings` and holds a matrix of that many rows; besides, any parameter in which the forward was seen
    to look ids up.

    Args:
        model: On any device.
        uses: What a forward pass looked up, by parameter name.
    """
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():  # noqa: SLF001 - the public iterator hides shared ones
            if parameter is not None and not isinstance(parameter, nn.UninitializedParameter):
                holders.setdefault(id(parameter), []).append((name, module))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tables: dict[int, TableSite] = {}
    for name, module in [*model.named_modules(), *_keras_layers(model)]:
        weight = weight_of(module)
        if weight is None or id(weight) in tables:
            continue
        others = [(other, owner) for other, owner in holders.get(id(weight), ()) if owner is not module]
        site = _site(name, module, weight, others)
        tables[id(weight)] = replace(site, parameter=names.get(id(weight), f"{name}.weight"))
    looked = uses or {}
    for name, parameter in model.named_parameters():
        if name in looked and id(parameter) not in tables:
            tables[id(parameter)] = _bare_site(name, parameter, looked[name])
    every = {id(p): p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)}
    lookups = {key for key, site in tables.items() if not site.tied}
    return Inventory(
        tables=tuple(tables.values()),
        parameters=sum(p.numel() for p in every.values()),
        trainable=sum(p.numel() for p in every.values() if p.requires_grad),
        matrix=sum(p.numel() for key, p in every.items() if p.dim() > 1 and key not in lookups),
        trainable_bytes=sum(p.numel() * p.element_size() for p in every.values() if p.requires_grad),
        itemsize=max((p.element_size() for p in every.values()), default=4),
        bare=any(p.is_meta for p in every.values()),
    )


def weight_of(module: nn.Module) -> nn.Parameter | None:
    """Return the weight of a lookup module, None for any other."""
    if type(module).__module__.split(".")[0] == "keras":
        if type(module).__name__ != "Embedding":
            return None
        variable = getattr(module, "_embeddings", None)
        value = getattr(variable, "value", None)
        return value if isinstance(value, nn.Parameter) else None
    weight = getattr(module, "weight", None)
    known = isinstance(module, nn.Embedding | nn.EmbeddingBag)
    alike = isinstance(getattr(module, "num_embeddings", None), int)
    if not (known or alike) or not isinstance(weight, nn.Parameter) or weight.dim() != 2:
        return None
    return weight


def _keras_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Keras hides its layers from named_modules()."""
    flatten = getattr(model, "_flatten_layers", None)
    if flatten is None or type(model).__module__.split(".")[0] not in {"keras"} | _keras_bases(model):
        return []
    return [(str(layer.name), layer) for layer in flatten() if isinstance(layer, nn.Module)]


def _keras_bases(model: nn.Module) -> set[str]:
    top = type(model).__module__.split(".")[0]
    return {top} if any(base.__module__.startswith("keras") for base in type(model).__mro__) else set()


def _site(name: str, module: nn.Module, weight: nn.Parameter, others: list[tuple[str, nn.Module]]) -> TableSite:
    return TableSite(
        name=name or "(model)",
        cls=f"{type(module).__module__}.{type(module).__qualname__}",
        rows=weight.shape[0],
        dim=weight.shape[1],
        dtype=weight.dtype,
        sparse=bool(getattr(module, "sparse", False)),
        trainable=weight.requires_grad and bool(getattr(module, "trainable", True)),
        tied=tuple(other for other, owner in others if weight_of(owner) is None),
        shared=tuple(other for other, owner in others if weight_of(owner) is not None),
        bag=str(getattr(module, "mode", "")) if isinstance(module, nn.EmbeddingBag) else "",
        padding=getattr(module, "padding_idx", None),
        renormalises=getattr(module, "max_norm", None) is not None,
        key=id(weight),
    )


def _bare_site(name: str, weight: nn.Parameter, use: Use) -> TableSite:
    return TableSite(
        name=name,
        cls=f"{type(weight).__module__}.{type(weight).__qualname__}",
        rows=weight.shape[0],
        dim=weight.shape[1],
        dtype=weight.dtype,
        sparse=use.sparse,
        trainable=weight.requires_grad,
        padding=use.padding,
        parameter=name,
        held=False,
        key=id(weight),
    )


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, shared ones once."""
    every: dict[int, Any] = {id(p): p for p in model.parameters()}
    return sum(p.numel() * p.element_size() for p in every.values())
