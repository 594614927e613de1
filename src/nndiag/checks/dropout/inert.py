"""Is there dropout that was built and can never act? DRP002."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Evidence, Judged, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation


def judge_inert(case: Case) -> Iterator[Observation]:
    """Yield dropouts that are built and do nothing: of one-layer recurrences, and modules that never ran."""
    yield Judged("DRP002")
    from nndiag.lab.dropout.sites import pattern
    from nndiag.lab.watch.built import locate

    for name, module in case.bench.model.named_modules():
        rate = getattr(module, "dropout", 0.0)
        layers = getattr(module, "num_layers", 0)
        if layers == 1 and isinstance(rate, float) and rate > 0 and hasattr(module, "flatten_parameters"):
            yield found(
                "DRP002",
                f"dropout = {rate:.3g} of a {type(module).__name__} with one layer does nothing",
                where=locate(module, name, otherwise=_model_place(case)),
                evidence=Evidence(value=1.0, unit="layers", threshold=2.0, detail="num_layers of the module"),
                means="it acts between stacked layers only, and there is nothing between",
                fix="put nn.Dropout behind the layer, or set num_layers=2 or dropout=0",
            )
    groups: dict[str, list[tuple[str, nn.Module, float]]] = {}
    for item in never_ran(case):
        groups.setdefault(pattern(item[0]), []).append(item)
    for (name, module, rate), *rest in groups.values():
        others = f" (and {len(rest)} more like it)" if rest else ""
        yield found(
            "DRP002",
            f"dropout '{name}' with p = {rate:.3g} never ran, though the module around it did{others}",
            where=locate(module, name, otherwise=_model_place(case)),
            evidence=Evidence(value=0.0, unit="runs", threshold=1.0, detail="one forward in training mode"),
            means="it is built and configured, and regularises nothing",
            fix="call it in forward, or remove it",
        )


def never_ran(case: Case) -> list[tuple[str, nn.Module, float]]:
    """Dropout modules that did not run while the module around them did, and whose rate nothing else used."""
    from nndiag.lab.dropout.names import is_dropout_module

    ran = case.map.film.ran
    modules = dict(case.bench.model.named_modules())
    found_: list[tuple[str, nn.Module, float]] = []
    for name, module in modules.items():
        rate = getattr(module, "p", None)
        if not is_dropout_module(module) or name in ran or not isinstance(rate, float) or rate <= 0:
            continue
        parent = _holder(name, modules)
        if parent not in ran:
            continue
        inside = f"{parent}." if parent else ""
        used = any(
            abs(s.seen.dial.p - rate) < 1e-9
            and f"{s.seen.key[0]}.".startswith(inside)
            and s.seen.key[0] not in modules_of_dropout(modules)
            for s in case.sites
        )
        if not used:
            found_.append((name, module, rate))
    return found_


def modules_of_dropout(modules: dict[str, Any]) -> set[str]:
    """Names of the modules that are dropouts themselves."""
    from nndiag.lab.dropout.names import is_dropout_module

    return {name for name, module in modules.items() if is_dropout_module(module)}


def _holder(name: str, modules: dict[str, Any]) -> str:
    """The module around one, lists and dicts of modules passed over."""
    parent = name.rpartition(".")[0]
    while parent and type(modules[parent]).__name__ in {"ModuleList", "ModuleDict"}:
        parent = parent.rpartition(".")[0]
    return parent


def _model_place(case: Case) -> Where:
    return case.subject.model.where if case.subject.model is not None else Where()
