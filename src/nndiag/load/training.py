"""How the user trains: options first, then attributes of the same names in his file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.subject import Training
from nndiag.load.usercode import is_code, literals, resolve

if TYPE_CHECKING:
    from types import ModuleType


def training_from(  # noqa: PLR0913 - the parts of a training, all by name
    targets: Iterable[Any],
    *,
    loss: Any = "auto",
    optimizer: Any = None,
    optimizer_args: Mapping[str, Any] | Iterable[str] | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Training:
    """Return the training that options and the user's files describe.

    Args:
        targets: MODEL and DATA as typed; their files may define loss, optimizer, lr, batch_size and steps.
        loss: What was asked for; "auto" leaves it to the files, then to inference.
        optimizer: A name, `file.py:fn`, a class or a function.
        optimizer_args: Arguments, as a mapping or k=v texts.
        lr: Learning rate.
        batch_size: Rows in a batch.
        steps: Steps.
    """
    modules = [found for target in targets if (found := _module_of(target)) is not None]
    args = literals(optimizer_args, "--optimizer-arg")
    wanted_loss = (
        _function(loss, "loss") if loss not in (None, "auto") else _attribute(modules, "loss", _is_loss) or "auto"
    )
    wanted, found_args = _optimizer(_function(optimizer, "optimizer"), modules)
    args = {**found_args, **args}
    rate = lr if lr is not None else _attribute(modules, "lr", _is_rate)
    if rate is None and "lr" in args:
        rate = float(args["lr"])
    args.pop("lr", None)
    return Training(
        loss=wanted_loss,
        optimizer=wanted,
        optimizer_args=args,
        lr=rate,
        batch_size=batch_size if batch_size is not None else _attribute(modules, "batch_size", _is_count),
        steps=steps if steps is not None else _attribute(modules, "steps", _is_count),
    )


def _module_of(target: Any) -> ModuleType | None:
    """Return the file of a target that is code; it has been loaded already."""
    if not isinstance(target, str) or not is_code(target):
        return None
    return resolve(target).module


def _function(wish: Any, what: str) -> Any:
    """Resolve `file.py:fn`; names of losses and optimizers stay as they are."""
    if not isinstance(wish, str) or not is_code(wish) or ":" not in wish:
        return wish
    thing = resolve(wish, what=what).thing
    if not callable(thing):
        raise NndiagError(f"{wish} is a {type(thing).__name__}, not a function", hint=f"name a function for the {what}")
    return thing


def _attribute(modules: list[ModuleType], name: str, fits: Callable[[Any], bool]) -> Any:
    """Return the first attribute of this name that is of the right kind."""
    for module in modules:
        value = getattr(module, name, None)
        if value is not None and fits(value):
            return value
    return None


def _optimizer(wish: Any, modules: list[ModuleType]) -> tuple[Any, dict[str, Any]]:
    """Return the optimizer and its arguments; a table or a live optimizer in the file gives both."""
    if wish is None:
        wish = _attribute(modules, "optimizer", _is_optimizer)
    if isinstance(wish, Mapping):
        args = literals(wish, "optimizer")
        return _function(str(args.pop("name", "")) or None, "optimizer"), args
    if hasattr(wish, "param_groups") and hasattr(wish, "defaults"):
        plain = {key: value for key, value in wish.defaults.items() if isinstance(value, int | float | tuple | bool)}
        known = inspect.signature(type(wish)).parameters
        return type(wish), {key: value for key, value in plain.items() if key in known}
    return wish, {}


def _is_loss(value: Any) -> bool:
    """Whether an attribute called `loss` is a loss: a name, or something that takes outputs and targets."""
    if isinstance(value, str):
        return True
    if not callable(value):
        return False
    if isinstance(value, type) or hasattr(value, "forward"):
        return True
    try:
        inspect.signature(value).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, str | Mapping) or callable(value) or hasattr(value, "param_groups")


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
