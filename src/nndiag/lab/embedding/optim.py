"""Which optimizer steps which table, what does it cost, and does it take sparse gradients? Asked of torch itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nndiag.lab.optimizers import make_optimizer
from nndiag.lab.traffic import Traffic, count_step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nndiag.core.subject import Training

Make = "Callable[[list[nn.Parameter]], torch.optim.Optimizer]"


@dataclass(frozen=True, slots=True)
class Routing:
    """Every optimizer of a training, and which of them steps a given parameter."""

    optimizers: tuple[torch.optim.Optimizer, ...]

    def of(self, key: int) -> tuple[torch.optim.Optimizer, Mapping[str, Any]] | None:
        """Return the optimizer and the parameter group of the parameter with this identity."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if any(id(parameter) == key for parameter in group["params"]):
                    return optimizer, group
        return None


def route(training: Training, model: nn.Module) -> Routing:
    """Build the user's optimizers over a model, on whatever device it is.

    A function that returns several (dense and sparse parameters need their own) keeps all of them.

    Raises:
        NndiagError: The optimizer cannot be built.
        UsageError: Its name is unknown.
    """
    build = training.optimizer
    if build is None or isinstance(build, str | type):
        return Routing((make_optimizer(training, model),))
    kept: list[torch.optim.Optimizer] = []

    def first(subject: Any) -> Any:
        made = build(subject)
        several = list(made.values()) if isinstance(made, dict) else made
        if isinstance(several, list | tuple):
            kept.extend(item for item in several if isinstance(item, torch.optim.Optimizer))
            return kept[0] if kept else made
        return made

    first.__signature__ = _signature(build)  # type: ignore[attr-defined]
    first.__name__ = getattr(build, "__name__", type(build).__name__)

    made = make_optimizer(replace(training, optimizer=first), model)
    return Routing(tuple(kept) or (made,))


def _signature(build: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(build)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)])


def maker(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], **changes: Any) -> Callable[[list[Any]], Any]:
    """Return a maker of the same optimizer with the same options for other parameters.

    Args:
        optimizer: The user's.
        group: The parameter group whose options count.
        changes: Options to set differently, such as fused=True.
    """
    kind = type(optimizer)
    known = inspect.signature(kind).parameters
    options = {key: value for key, value in group.items() if key in known and key != "params"} | changes
    if any(changes.get(word) for word in ("fused", "foreach")):
        options |= {word: None if word == "foreach" else False for word in ("fused", "foreach") if word not in changes}
        options = {key: value for key, value in options.items() if key in known}
    return lambda params: kind(params, **options)


def implementation(group: Mapping[str, Any], device: str) -> str:
    """Return which implementation torch will choose: for-loop, foreach or fused."""
    if group.get("fused"):
        return "fused"
    if "foreach" not in group:
        return "for-loop"
    chosen = group.get("foreach")
    return "foreach" if chosen or (chosen is None and not device.startswith("cpu")) else "for-loop"


def traffic_of(make: Callable[[list[Any]], Any]) -> Traffic | None:
    """Count its passes over a table, None where it refuses a plain dense one."""
    try:
        return count_step(make)
    except Exception:  # noqa: BLE001 - the user's optimizer may want more than one parameter
        return None


@dataclass(frozen=True, slots=True)
class SparseTrial:
    """What an optimizer did with sparse gradients."""

    refused: str = ""  # torch's words
    growing: tuple[int, ...] = ()  # entries of its sparse state after each step, when they grow
    clip_refused: str = ""


def try_sparse(make: Callable[[list[Any]], Any], *, clip: float | None = None, steps: int = 4) -> SparseTrial:
    """Step a small sparse table a few times, with other rows at each step.

    Other rows, because the momentum buffer of sparse SGD grows only when the indices change.

    Args:
        make: Builds the optimizer.
        clip: Clip the gradient norm as the user does.
        steps: Steps.

    Returns:
        What raised, and whether sparse state grew.
    """
    with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
        return _sparse_steps(make, clip, steps)


def _sparse_steps(make: Callable[[list[Any]], Any], clip: float | None, steps: int) -> SparseTrial:
    rows, dim = 4096, 4
    table = nn.Embedding(rows, dim, sparse=True, _weight=torch.full((rows, dim), 0.1))
    generator = torch.Generator().manual_seed(0)
    try:
        optimizer = make([table.weight])
    except Exception as error:  # noqa: BLE001 - reported in its own words
        return SparseTrial(refused=_said(error))
    sizes: list[int] = []
    clip_refused = ""
    for _ in range(steps):
        ids = torch.randint(rows, (64,), generator=generator)
        table(ids).sum().backward()
        if clip is not None and not clip_refused:
            try:
                nn.utils.clip_grad_norm_([table.weight], clip)
            except Exception as error:  # noqa: BLE001 - likewise
                clip_refused = _said(error)
        try:
            optimizer.step()
        except Exception as error:  # noqa: BLE001 - likewise
            return SparseTrial(refused=_said(error), clip_refused=clip_refused)
        optimizer.zero_grad(set_to_none=True)
        sizes.append(_sparse_entries(optimizer))
    growing = tuple(sizes) if sizes[-1] > 1.5 * max(sizes[0], 1) else ()
    return SparseTrial(growing=growing, clip_refused=clip_refused)


def try_dense(make: Callable[[list[Any]], Any]) -> str:
    """Return what the optimizer says to an ordinary dense gradient, "" when it takes it."""
    weight = nn.Parameter(torch.full((8, 4), 0.1))
    weight.grad = torch.full((8, 4), 0.1)
    try:
        make([weight]).step()
    except Exception as error:  # noqa: BLE001 - reported in its own words
        return _said(error)
    return ""


def _sparse_entries(optimizer: torch.optim.Optimizer) -> int:
    total = 0
    for state in optimizer.state.values():
        total += sum(int(item._nnz()) for item in state.values() if isinstance(item, torch.Tensor) and item.is_sparse)  # noqa: SLF001
    return total


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}".rstrip(": ")
