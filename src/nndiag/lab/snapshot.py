"""What a module, a tensor and an optimizer looked like, and how to make them so again."""

from __future__ import annotations

import collections
import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

# Attributes of these kinds are mutated in place by other people's forwards (caches, counters, hook tables).
_MUTABLE = (dict, list, set, collections.deque)


def bits(tensor: Tensor) -> bytes:
    """Return the raw bytes of a tensor's elements, in order; layouts without a storage by their parts."""
    item = tensor.detach()
    if item.layout is not torch.strided:
        if item.layout is torch.sparse_coo:
            return bits(item._indices()) + bits(item._values())  # noqa: SLF001 - uncoalesced, as it lies
        return bits(item.values()) if hasattr(item, "values") else repr(item).encode()
    if item.device.type == "meta" or item.is_quantized:
        return b"meta" if item.device.type == "meta" else bits(item.int_repr())
    flat = item.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits; without copying them where that can be had."""
    plain = all(item.layout is torch.strided and not item.is_quantized and not item.is_meta for item in (tensor, other))
    whole = _INTEGERS.get(tensor.element_size())
    if not plain or whole is None or tensor.is_conj() or tensor.is_neg() or type(tensor.data) is not Tensor:
        return bits(tensor) == bits(other)
    return torch.equal(tensor.detach().view(whole), other.detach().view(whole))


@dataclass(slots=True)
class TensorSnapshot:
    """One parameter, buffer or plain tensor: the object, where its data lies, its bits and its gradient."""

    tensor: Tensor
    kind: type
    attributes: dict[str, Any]
    alias: Tensor | None  # shares the memory that the tensor had
    copy: Tensor | None
    requires_grad: bool
    grad: TensorSnapshot | None
    hooks: Any
    late_hooks: Any

    @classmethod
    def of(cls, tensor: Tensor, *, values: bool = True) -> TensorSnapshot:
        """Take a tensor as it is, with its values or without."""
        lazy = isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
        grad = tensor.grad if tensor.is_leaf and not lazy else None
        hooks = tensor._backward_hooks if tensor.is_leaf else None  # noqa: SLF001 - hooks have no public table
        late = getattr(tensor, "_post_accumulate_grad_hooks", None) if tensor.is_leaf else None
        return cls(
            tensor=tensor,
            kind=type(tensor),
            attributes=dict(vars(tensor)),
            alias=tensor.data if not lazy else None,
            copy=tensor.detach().clone() if values and not lazy else None,
            requires_grad=tensor.requires_grad,
            grad=cls.of(grad, values=values) if grad is not None else None,
            hooks=copy.copy(hooks) if hooks is not None else None,
            late_hooks=copy.copy(late) if late is not None else None,
        )

    def restore(self) -> None:
        """Make the tensor what it was; memory is written only where its bits have changed."""
        tensor = self.tensor
        if type(tensor) is not self.kind:
            tensor.__class__ = self.kind
        if self.alias is not None:
            if not _same_memory(tensor, self.alias):
                tensor.data = self.alias
            if self.copy is not None and not same_bits(self.alias, self.copy):
                _write(self.alias, self.copy, tensor)
        elif isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        if vars(tensor) != self.attributes:
            vars(tensor).clear()
            vars(tensor).update(self.attributes)
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            self._restore_grad()
            self._restore_hooks()

    def _restore_grad(self) -> None:
        if self.grad is None:
            if not isinstance(self.tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
                self.tensor.grad = None
            return
        self.grad.restore()
        if self.tensor.grad is not self.grad.tensor:
            self.tensor.grad = None
            self.tensor.grad = self.grad.tensor

    def _restore_hooks(self) -> None:
        tensor: Any = self.tensor
        for name, before in (
            ("_backward_hooks", self.hooks),
            ("_post_accumulate_grad_hooks", self.late_hooks),
        ):
            now = getattr(tensor, name, None)
            if now == before or (not now and not before):
                continue
            if now is not None and before is not None:
                now.clear()
                now.update(before)
            elif now is not None:
                now.clear()


def _same_memory(tensor: Tensor, alias: Tensor) -> bool:
    """Whether a tensor still lies where its alias lies, in the same shape and dtype."""
    if tensor.layout is not torch.strided or alias.layout is not torch.strided:
        return False
    if (tensor.dtype, tensor.shape, tensor.device) != (alias.dtype, alias.shape, alias.device):
        return False
    if tensor.device.type == "meta":
        return True
    return tensor.data_ptr() == alias.data_ptr() and tensor.stride() == alias.stride()


def _write(alias: Tensor, saved: Tensor, tensor: Tensor) -> None:
    """Write the saved bits into the memory of `alias`."""
    with torch.no_grad():
        try:
            alias.copy_(saved)
        except RuntimeError:  # expanded memory, or a layout that cannot be written: fresh memory with the old bits
            tensor.data = saved


@dataclass(slots=True)
class ModuleSnapshot:
    """One module's class and attributes, with the contents of its tables."""

    module: nn.Module
    kind: type
    attributes: dict[str, Any]
    contents: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> ModuleSnapshot:
        """Take a module as it is."""
        attributes = dict(vars(module))
        tables = {key: copy.copy(value) for key, value in attributes.items() if _is_table(value)}
        return cls(module, type(module), attributes, tables)

    def restore(self) -> None:
        """Put class, attributes and the contents of tables back."""
        module = self.module
        if type(module) is not self.kind:
            module.__class__ = self.kind
        for key, before in self.contents.items():
            _refill(self.attributes[key], before)
        now = vars(module)
        for key in [key for key in now if key not in self.attributes]:
            del now[key]
        now.update(self.attributes)


def _is_table(value: Any) -> bool:
    return isinstance(value, _MUTABLE) and hasattr(type(value), "clear")


def _refill(table: Any, before: Any) -> None:
    """Make a container hold what it held, in that order."""
    if isinstance(table, dict):
        if list(table) == list(before) and all(table[key] is before[key] for key in before):
            return
        table.clear()
        table.update(before)
    elif isinstance(table, list):
        table[:] = before
    elif isinstance(table, set):
        table.clear()
        table.update(before)
    else:
        table.clear()
        table.extend(before)


@dataclass(slots=True)
class ModelSnapshot:
    """A whole model: every module once, every tensor once."""

    modules: list[ModuleSnapshot]
    tensors: list[TensorSnapshot]

    @classmethod
    def of(cls, model: nn.Module, *, weights: bool = True) -> ModelSnapshot:
        """Take a model as it is, with the values of its parameters or without. What is shared is taken once."""
        modules = [ModuleSnapshot.of(module) for module in model.modules()]
        unique = {id(tensor): tensor for item in modules for tensor in _tensors_of(item)}
        return cls(
            modules,
            [
                TensorSnapshot.of(tensor, values=weights or not isinstance(tensor, nn.Parameter))
                for tensor in unique.values()
            ],
        )

    def restore(self) -> None:
        """Give it back: the modules' tables first, then the tensors they hold."""
        for module in self.modules:
            module.restore()
        for tensor in self.tensors:
            tensor.restore()


def _tensors_of(item: ModuleSnapshot) -> Iterable[Tensor]:
    """Yield parameters, buffers, and tensors kept as plain attributes or in plain containers."""
    for key, value in item.attributes.items():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict) and key != "_modules":
            yield from (entry for entry in value.values() if isinstance(entry, Tensor))
        elif isinstance(value, list | tuple):
            yield from (entry for entry in value if isinstance(entry, Tensor))


@dataclass(slots=True)
class OptimizerSnapshot:
    """An optimizer's groups and state, tensors by their bits."""

    optimizer: torch.optim.Optimizer
    groups: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    lists: list[list[Any]]
    state: dict[Any, Any]
    inner: dict[Any, dict[str, Any]]
    tensors: list[TensorSnapshot]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> OptimizerSnapshot:
        """Take an optimizer as it is."""
        state = dict(optimizer.state)
        inner = {key: dict(value) for key, value in state.items() if isinstance(value, dict)}
        held = [entry for value in inner.values() for entry in value.values() if isinstance(entry, Tensor)]
        held += [entry for group in optimizer.param_groups for entry in group.values() if isinstance(entry, Tensor)]
        return cls(
            optimizer=optimizer,
            groups=[dict(group) for group in optimizer.param_groups],
            objects=list(optimizer.param_groups),
            lists=[list(group["params"]) for group in optimizer.param_groups],
            state=state,
            inner=inner,
            tensors=[TensorSnapshot.of(tensor) for tensor in {id(entry): entry for entry in held}.values()],
        )

    def restore(self) -> None:
        """Put groups and state back, in place."""
        optimizer = self.optimizer
        optimizer.param_groups[:] = self.objects
        for group, before, params in zip(self.objects, self.groups, self.lists, strict=True):
            group.clear()
            group.update(before)
            group["params"][:] = params
        optimizer.state.clear()
        for key, value in self.state.items():
            if key in self.inner:
                value.clear()
                value.update(self.inner[key])
            optimizer.state[key] = value
        for tensor in self.tensors:
            tensor.restore()
