"""Which optimizer trains this model? The user's own, or one of torch's by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nndiag.core.errors import NndiagError, UsageError, did_you_mean
from nndiag.lab.uncompiled import lightened, uncompiled
from nndiag.lab.watch.blame import users_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nndiag.core.subject import Training

DEFAULT = "adam"  # what most scripts start with; its steps do not depend on the loss's scale
# torch's default of 1e-3 moves plain SGD too little for a short run to show anything.
_LR = {"sgd": 0.05, "asgd": 0.05}


def known_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Return torch's optimizers by lower-case name."""
    return {
        name.lower(): item
        for name, item in vars(torch.optim).items()
        if isinstance(item, type) and issubclass(item, torch.optim.Optimizer) and item is not torch.optim.Optimizer
    }


def optimizer_name(training: Training) -> str:
    """Return the lower-case name of the optimizer, or of the user's function."""
    if training.optimizer is None:
        return DEFAULT
    if isinstance(training.optimizer, str):
        return training.optimizer.lower().replace("_", "").replace("-", "")
    if isinstance(training.optimizer, type):
        return training.optimizer.__name__.lower()
    return str(getattr(training.optimizer, "__name__", type(training.optimizer).__name__))


def make_optimizer(
    training: Training, params_or_model: nn.Module | Iterable[Any], lr: float | None = None
) -> torch.optim.Optimizer:
    """Build the user's optimizer over a model's trainable parameters.

    Args:
        training: The user's wish: a name with arguments, a class, or a function of the parameters.
        params_or_model: A model, parameters, or parameter groups.
        lr: Learning rate that overrides the user's; the ratios between his groups are kept.

    Raises:
        UsageError: When the name or an argument is unknown.
        NndiagError: When there is nothing to train, or the user's function fails.
    """
    rate = lr if lr is not None else training.lr
    model = params_or_model if isinstance(params_or_model, nn.Module) else None
    given = list(params_or_model.parameters() if isinstance(params_or_model, nn.Module) else params_or_model)
    params = [item for item in given if isinstance(item, dict) or item.requires_grad]
    if not params:
        raise NndiagError("the model has no trainable parameter", hint="nothing can be trained; use --no-train")
    if any(isinstance(item, nn.UninitializedParameter) for item in params):
        raise NndiagError("the model has lazy parameters without a shape", hint="run one forward before training")
    if training.optimizer is not None and not isinstance(training.optimizer, str | type):
        return _users(training.optimizer, params, model, rate)
    name = optimizer_name(training)
    known = known_optimizers()
    kind = training.optimizer if isinstance(training.optimizer, type) else known.get(name)
    if kind is None:
        hint = did_you_mean(name, known, otherwise="take one of " + ", ".join(sorted(known)) + ", or file.py:fn")
        raise UsageError(f"no optimizer is called '{training.optimizer}'", hint=hint)
    options = _options(kind, name, dict(training.optimizer_args))
    rate = rate if rate is not None else _LR.get(name)
    if rate is not None:
        options["lr"] = rate
    try:
        with uncompiled():
            optimizer: torch.optim.Optimizer = kind(params, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NndiagError(
            f"{kind.__name__} refused its arguments: {error}", hint="see its page in torch.optim"
        ) from error
    return lightened(optimizer)


def _options(kind: type, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments under torch's spelling, or say which it does not know."""
    known = list(inspect.signature(kind).parameters)
    options = {}
    for key, value in given.items():
        word = key.replace("-", "_")
        if word not in known:
            hint = did_you_mean(word, known, otherwise="it takes " + ", ".join(known[1:]))
            raise UsageError(f"optimizer '{name}' takes no '{key}'", hint=hint)
        options[word] = tuple(value) if isinstance(value, list) else value
    return options


def _users(
    build: Callable[..., Any], params: list[Any], model: nn.Module | None, rate: float | None
) -> torch.optim.Optimizer:
    """Call the user's function with the parameters, or with the model where that is what it asks for."""
    name = getattr(build, "__name__", type(build).__name__)
    try:
        names = list(inspect.signature(build).parameters)
    except (TypeError, ValueError):
        names = []
    wants_model = bool(names) and names[0] in {"model", "net", "module", "network"}
    subject = model if wants_model and model is not None else params
    options = {"lr": rate} if rate is not None and "lr" in names else {}
    try:
        with uncompiled():
            optimizer = build(subject, **options)
    except Exception as error:
        raise users_fault(f"the optimizer function {name}", error) from error
    if isinstance(optimizer, tuple | list) and optimizer:  # (optimizer, scheduler), as Lightning scripts return
        optimizer = optimizer[0]
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise NndiagError(
            f"{name} returned {type(optimizer).__name__}, not a torch optimizer",
            hint="return torch.optim.SGD(params, lr=…) or another Optimizer",
        )
    if rate is not None and not options:
        first = float(optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * rate / first if first else rate
    return lightened(optimizer)
