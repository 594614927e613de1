"""Which tensor is this? Numbers for tensors that survive views, in-place writes and re-used addresses."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Bridge: TypeAlias = Callable[[str, tuple[int, ...], int], None]

_FAR = 64  # autograd nodes searched behind a tensor that came out of nowhere


def version(tensor: Tensor) -> int:
    """Return the count of in-place writes; tensors of inference mode keep none."""
    try:
        return int(tensor._version)  # noqa: SLF001 - autograd's own counter has no other name
    except RuntimeError:
        return 0


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0


class Identities:
    """Numbers tensors by object and version, and remembers which calls made each number."""

    def __init__(self, model: nn.Module, *, keep: bool) -> None:
        """Know the model's parameters and buffers by name."""
        self.makers: dict[int, tuple[int, ...]] = {}
        self.values: dict[int, Tensor] = {}
        self.roots: set[int] = set()  # the batch, and everything computed from it
        self._keep = keep
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._weights: dict[int, tuple[Tensor, str]] = {}
        self._writers: dict[int, int] = {}
        self._latest: dict[int, int] = {}  # storage -> number
        self._nodes: dict[Any, int] = {}  # autograd node -> number
        self._next = 0
        for group in (model.named_parameters(), model.named_buffers()):
            for name, tensor in group:
                self._weights.setdefault(id(tensor), (tensor, name))
        self._parameters_only = {id(tensor) for tensor in model.parameters()}

    def parameter(self, tensor: Tensor) -> str:
        """Return the dotted name of a parameter or buffer, or an empty string."""
        entry = self._weights.get(id(tensor))
        return entry[1] if entry is not None and entry[0] is tensor else ""

    def flows(self, number: int) -> bool:
        """Whether a tensor depends on the batch."""
        return number in self.roots

    def known(self, tensor: Tensor) -> bool:
        """Whether the tensor has a number already."""
        entry = self._known.get(id(tensor))
        return entry is not None and entry[0]() is tensor

    def root(self, tensor: Tensor) -> int:
        """Number a tensor of the batch."""
        number = self._new(tensor)
        self.roots.add(number)
        return number

    def of(self, tensor: Tensor, bridge: Bridge) -> int:
        """Return the number of a tensor that is about to be read."""
        entry = self._known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            if entry[2] == version(tensor) or self.parameter(tensor):
                return entry[1]
            return self._rewritten(tensor, entry[1])
        if self.parameter(tensor):
            return self._new(tensor)
        return self._stranger(tensor, bridge)

    def produced(self, tensor: Tensor, call: int, *, flows: bool) -> int:
        """Number what a call has just made or written; `flows` when it depends on the batch."""
        number = self._new(tensor)
        self.makers[number] = (call,)
        if flows:
            self.roots.add(number)
        return number

    def returned(self, module: int, number: int) -> None:
        """Count a module among the makers of what was made inside it; what it only passes on is not its work."""
        inner = self.makers.get(number, ())
        if any(maker > module for maker in inner):
            self.makers[number] = (*inner, module)

    def wrote(self, tensor: Tensor, call: int) -> None:
        """Remember the last call that wrote into this memory."""
        self._writers[_storage(tensor)] = call

    def _new(self, tensor: Tensor) -> int:
        number = self._next
        self._next += 1
        self._known[id(tensor)] = (weakref.ref(tensor), number, version(tensor))
        if self._keep:
            self.values[number] = tensor.detach().clone()
        if not self.parameter(tensor):
            self._latest[_storage(tensor)] = number
            if tensor.grad_fn is not None:
                self._nodes[tensor.grad_fn] = number
        return number

    def _rewritten(self, tensor: Tensor, before: int) -> int:
        """Number a tensor that was written through another view of its memory."""
        number = self._new(tensor)
        writer = self._writers.get(_storage(tensor))
        self.makers[number] = self.makers.get(before, ()) + (() if writer is None else (writer,))
        if before in self.roots:
            self.roots.add(number)
        return number

    def _stranger(self, tensor: Tensor, bridge: Bridge) -> int:
        """Number a tensor that no recorded call made: a view, or the work of code that cannot be watched."""
        place = _storage(tensor)
        same = self._latest.get(place) if place else None
        sources = self._behind(tensor)
        number = self._new(tensor)
        if same is not None and same in self.makers and _shares(tensor):
            self.makers[number] = self.makers[same]
            if same in self.roots:
                self.roots.add(number)
        elif sources:
            bridge(type(tensor.grad_fn).__name__, sources, number)
            if any(source in self.roots for source in sources):
                self.roots.add(number)
        return number

    def _behind(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the numbers of the nearest known tensors behind this one in the autograd graph."""
        found: list[int] = []
        waiting = [tensor.grad_fn] if tensor.grad_fn is not None else []
        seen: set[Any] = set()
        while waiting and len(seen) < _FAR:
            node = waiting.pop(0)
            if node in seen:
                continue
            seen.add(node)
            if node in self._nodes:
                found.append(self._nodes[node])
            else:
                waiting.extend(behind for behind, _ in node.next_functions if behind is not None)
        return tuple(dict.fromkeys(found))


def _shares(tensor: Tensor) -> bool:
    """Whether a tensor is a view (freed memory is used again by unrelated tensors)."""
    return tensor._base is not None  # noqa: SLF001 - the public way to ask does not exist
