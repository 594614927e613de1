"""Weights from a file go into a model, or it is said which names and shapes do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, UsageError
from nndiag.lab.watch.blame import one_line
from nndiag.load.door import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nndiag.load.sources import WeightsFile

_AT_ONCE = 256 << 20  # bytes held beside the model: a file of many gigabytes is never read as a whole


def fitted_weights(model: Any, weights: WeightsFile) -> Any:
    """Load weights into a model; names may carry the prefixes that wrappers add.

    Raises:
        NndiagError: Keys or shapes do not fit; the message names them.
    """
    import torch

    own = {
        name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items() if hasattr(value, "shape")
    }
    if not own:
        raise UsageError(f"{type(model).__name__} has no weights to load", hint="leave --weights out")
    rename = _renaming(own, weights.shapes)
    given = {rename(key): (key, shape) for key, shape in weights.shapes.items()}
    lazy = {name for name, item in model.named_parameters() if isinstance(item, torch.nn.UninitializedParameter)}
    tied = _tied(model, set(given))
    missing = [name for name in own if name not in given and name not in tied and not _bookkeeping(name)]
    extra = [key for name, (key, _) in given.items() if name not in own and not _bookkeeping(key)]
    unlike = [
        f"{name} {shape} in the file, {own[name]} in the model"
        for name, (_, shape) in given.items()
        if name in own and name not in lazy and own[name] != shape
    ]
    if missing or extra or unlike:
        parts = [
            f"{len(keys)} {word}: {one_line(map(shown, keys), limit=3)}" if word else one_line(unlike, limit=2)
            for word, keys in (("missing", missing), ("unexpected", extra), ("", unlike))
            if keys
        ]
        raise NndiagError(
            f"{weights.name} does not fit {type(model).__name__}: " + "; ".join(parts),
            hint="was it saved from this model, with the same --model-arg?",
        )
    state: dict[str, Any] = {}
    held = 0
    empty = any(item.is_meta for item in model.parameters())  # made without memory of its own: it takes the file's
    sharing = [names for names in _by_tensor(model) if len(names) > 1] if empty else []
    for key, tensor in weights.tensors():
        if rename(key) in own:
            state[rename(key)] = tensor
            held += tensor.numel() * tensor.element_size()
        if held > _AT_ONCE and not lazy:  # lazy layers take their shapes from all of their tensors at once
            model.load_state_dict(state, strict=False, assign=empty)
            state, held = {}, 0
    model.load_state_dict(state, strict=False, assign=empty)
    if empty:
        _tie_again(model, sharing)
    return model


def _tie_again(model: Any, sharing: list[list[str]]) -> None:
    """Let names that shared a tensor share the one that one of them was given."""
    for names in sharing:
        full = next((item for name in names if not (item := _at(model, name)).is_meta), None)
        for name in names:
            inside, _, last = name.rpartition(".")
            if full is not None and _at(model, name).is_meta:
                setattr(model.get_submodule(inside), last, full)


def _at(model: Any, name: str) -> Any:
    inside, _, last = name.rpartition(".")
    return getattr(model.get_submodule(inside), last)


def _bookkeeping(name: str) -> bool:
    """Whether a key is a counter or a position table that versions of one model disagree about."""
    return name.endswith(("num_batches_tracked", "position_ids", ".inv_freq", "attn.bias", "masked_bias"))


def _renaming(own: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Return the change of prefix under which most names agree."""
    prefixes = ("", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.")
    changes = [(cut, add) for cut in prefixes for add in ("", "model.", "net.")]

    def agreed(change: tuple[str, str]) -> int:
        return sum(change[1] + key.removeprefix(change[0]) in own for key in given)

    best = max(changes, key=agreed)  # the first of equals: no change
    return lambda key: best[1] + key.removeprefix(best[0])


def _tied(model: Any, given: set[str]) -> set[str]:
    """Return names that share their tensor with a name that is given."""
    return {name for names in _by_tensor(model) if given & set(names) for name in names}


def _by_tensor(model: Any) -> list[list[str]]:
    """Return the names of each tensor of a model's state."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    return list(names.values())
