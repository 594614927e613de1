"""A private copy of a Keras model, attribute by attribute: Keras's own way is to write it to a file and read it."""

from __future__ import annotations

import copy
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Copier = Callable[[Any, dict[int, Any]], Any]

_NODES = ("_inbound_nodes", "_outbound_nodes")


def keras_copy(layer: Any, memo: dict[int, Any] | None = None) -> Any:
    """Return a deep copy of a layer or model, also where its classes are the user's and cannot be written to a file.

    Args:
        layer: Any layer or model, built or not.
        memo: Of a deep copy that is under way.
    """
    memo = {} if memo is None else memo
    memo.update({id(module): module for module in list(sys.modules.values())})  # seed generators hold their backend
    with _attribute_by_attribute():
        return copy.deepcopy(layer, memo)


@contextmanager
def fresh_names() -> Iterator[None]:
    """Let Keras number its layers from the start, as in a process of its own (dense, dense_1, …)."""
    from keras.src.backend.common import global_state

    before = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)


@contextmanager
def _attribute_by_attribute() -> Iterator[None]:
    """Teach copy.deepcopy about layers and the containers that watch what is put into them."""
    from keras.src.saving.keras_saveable import KerasSaveable
    from keras.src.utils import tracking

    ways: dict[type, Copier] = {
        KerasSaveable: _object,
        tracking.TrackedList: _filler(list.extend, list),
        tracking.TrackedDict: _filler(dict.update, dict),
        tracking.TrackedSet: _filler(set.update, set),
    }
    for kind, way in ways.items():
        kind.__deepcopy__ = way  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for kind in ways:
            del kind.__deepcopy__  # type: ignore[attr-defined]


def _object(thing: Any, memo: dict[int, Any]) -> Any:
    kind: Any = type(thing)
    new = kind.__new__(kind)
    memo[id(thing)] = new
    own = {key for key, value in vars(new).items() if callable(value)}  # `build` as wrapped for this very object
    for key, value in vars(thing).items():
        if key in _NODES:  # who called it before: of no use to a copy, and a chain as long as the model is deep
            vars(new)[key] = []
        elif key not in own:
            vars(new)[key] = copy.deepcopy(value, memo)
    return new


def _filler(fill: Callable[[Any, Any], None], plain: type) -> Copier:
    make: Any = plain.__new__

    def copied(thing: Any, memo: dict[int, Any]) -> Any:
        new = make(type(thing))
        memo[id(thing)] = new
        fill(new, copy.deepcopy(plain(thing), memo))
        vars(new).update({key: copy.deepcopy(value, memo) for key, value in vars(thing).items()})
        return new

    return copied
