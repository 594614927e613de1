"""A private copy of a model, also where deepcopy gives up."""

from __future__ import annotations

import copy
import io
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.watch.blame import said

if TYPE_CHECKING:
    from collections.abc import Iterable


def private_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy that shares no tensor with the model.

    Tensors that a forward left behind as attributes have a history and cannot be deep-copied: they are detached.
    Attributes that cannot be copied at all (locks, files, generators) are shared, as long as no tensor is in them.

    Raises:
        NndiagError: When the copy would not be private.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return _copied_program(model)
    try:
        return copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - whatever the attributes raise; the careful way follows
        memo: dict[int, Any] = {}
    for module in model.modules():
        for value in _loose(vars(module)):
            if isinstance(value, Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
            elif not _copies(value, memo):
                memo[id(value)] = value
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise NndiagError(
            f"{type(model).__name__} cannot be copied: {said(error)}",
            hint="name a function that builds the model instead of an instance",
        ) from error


def _copied_program(model: torch.jit.ScriptModule) -> nn.Module:
    """Copy a scripted module by writing and reading it: deepcopy makes its weights results of the old ones."""
    memory = io.BytesIO()
    torch.jit.save(model, memory)
    memory.seek(0)
    made: nn.Module = torch.jit.load(memory)  # type: ignore[no-untyped-call]
    made.train(model.training)
    return made


def _loose(attributes: dict[str, Any]) -> Iterable[Any]:
    """Yield what a module holds besides parameters, buffers and children, one level into containers."""
    for key, value in attributes.items():
        if key in {"_parameters", "_modules"}:
            continue
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list | tuple | set):
            yield from value
        else:
            yield value


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    """Whether a plain attribute can be deep-copied; modules are copied as part of the model."""
    if isinstance(value, nn.Module | str | int | float | bool | bytes | None | type):
        return True
    if isinstance(value, logging.Logger):
        return False
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # noqa: BLE001 - whatever it raises: it does not copy
        return False
    return True
