"""Watch one forward: module hooks for who ran, a torch function mode for what was computed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nndiag.lab.forward import tensors_in
from nndiag.lab.watch.blame import calling_place
from nndiag.lab.watch.built import class_name
from nndiag.lab.watch.calls import Call, Ref
from nndiag.lab.watch.identity import Identities, version
from nndiag.lab.watch.roles import role_of_function, role_of_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.utils.hooks import RemovableHandle

# Asked of tensors at every turn; they compute nothing.
_QUESTIONS = (
    "size dim stride numel nelement is_contiguous is_floating_point is_complex __len__ __bool__ item tolist "
    "__hash__ get_device element_size storage_offset data_ptr ndimension __repr__ __format__ untyped_storage "
    "storage numpy is_same_size __contains__ __index__ __int__ __float__ retain_grad register_hook equal "
    "allclose backward is_nonzero __iter__ "
)
_SILENT = frozenset(_QUESTIONS.split())


class Recorder(TorchFunctionMode):
    """Collects the calls of one forward. Errors of its own become notes, never the user's problem."""

    def __init__(self, model: nn.Module, *, keep: bool, on_call: Callable[..., None] | None) -> None:
        """Prepare for a model; nothing is attached yet."""
        super().__init__()
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.ids = Identities(model, keep=keep)
        self.calls: list[Call] = []
        self.notes: list[str] = []
        self._open: list[int] = []
        self._handles: list[RemovableHandle] = []
        self._runs: dict[nn.Module, int] = {}
        self._on_call = on_call

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Hook every module, watch every function, and leave no trace of either."""
        refusing: set[nn.Module] = set()
        try:
            for module in self.names:
                try:
                    self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                    self._handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
                except RuntimeError:  # scripted modules: only hooks on all modules see them
                    refusing.add(module)
            if refusing:
                self._watch_from_outside(refusing)
            with self:
                yield
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def _watch_from_outside(self, refusing: set[nn.Module]) -> None:
        """See modules that take no hooks of their own through torch's hooks on all modules."""
        self._note("scripted parts are seen as single steps")

        def enter(module: nn.Module, args: Any) -> None:
            if module in refusing:
                self._enter(module, args, {})

        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            return self._leave(module, args, {}, output) if module in refusing else None

        self._handles.append(nn.modules.module.register_module_forward_pre_hook(enter))
        self._handles.append(nn.modules.module.register_module_forward_hook(leave))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one torch function, and record it."""
        kwargs = kwargs or {}
        name = function_name(func)
        if name in _SILENT:
            return func(*args, **kwargs)
        read = tensors_in((args, kwargs))
        try:
            before = [(item, version(item)) for item in read]
            inputs = tuple(self.ids.of(item, self.bridge) for item in read)
        except Exception as error:  # noqa: BLE001 - tensor-likes of other packages
            self._note(f"{name}: {type(error).__name__}: {error}")
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        try:
            return self._record(func, name, (args, kwargs), before, inputs, result)
        except Exception as error:  # noqa: BLE001 - likewise; the computation itself has succeeded
            self._note(f"{name}: {type(error).__name__}: {error}")
            return result

    def _record(  # noqa: PLR0913, PLR0917 - one call: what, with what, what came out
        self, func: Any, name: str, given: tuple[Any, Any], before: list[Any], inputs: tuple[int, ...], result: Any
    ) -> Any:
        made = tensors_in(result)
        written = [item for item, seen in before if version(item) != seen]
        if not made and not written:
            return result
        if not written and isinstance(result, Tensor) and any(result is item for item, _ in before):
            made = [result := _alias(result)]
        index = len(self.calls)
        flows = any(self.ids.flows(number) for number in inputs)
        outputs = tuple(self.ids.produced(item, index, flows=flows) for item in [*made, *_others(written, made)])
        weights = [self.ids.parameter(item) for item, _ in before]
        call = Call(
            index=index,
            name=name,
            kind="function",
            target=qualified(func, name),
            module=None,
            owner=self.calls[self._open[-1]].name if self._open else "",
            where=calling_place(),
            inputs=inputs,
            outputs=outputs,
            args=self._noted(given[0]),
            kwargs=self._noted(given[1]),
            end=index + 1,
        )
        live = [number for number, weight in zip(inputs, weights, strict=True) if not weight and self.ids.flows(number)]
        role = role_of_function(call.op, activations=len(set(live)), weights=sum(map(bool, weights)))
        self.calls.append(replace(call, role=role))
        for item in written:
            self.ids.wrote(item, index)
        if self._on_call is not None:
            self._tell(self.calls[-1], tuple(item for item, _ in before), tuple(made))
        return result

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
            index = len(self.calls)
            repeat = self._runs.get(module, 0)
            self._runs[module] = repeat + 1
            call = Call(
                index=index,
                name=self.names.get(module, ""),
                kind="module",
                target=class_name(module),
                module=module,
                owner=self.calls[self._open[-1]].name if self._open else "",
                where=calling_place(),
                inputs=tuple(self.ids.of(item, self.bridge) for item in tensors_in((args, kwargs))),
                outputs=(),
                training=module.training,
                repeat=repeat,
            )
            # Bridging may have put calls in between.
            call = replace(call, index=len(self.calls), args=self._noted(args), kwargs=self._noted(kwargs))
            self._open.append(call.index)
            self.calls.append(call)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - likewise
            while self._open and self.calls[self._open[-1]].module is not module:
                self._open.pop()  # a forward that raised and was caught by its caller
            if not self._open:
                return None
            index = self._open.pop()
            entered = tensors_in((args, kwargs))
            replaced = None
            made = tensors_in(output)
            inside = self.calls[index + 1 :]
            if isinstance(output, Tensor) and not inside and any(output is item for item in entered):
                made = [replaced := _alias(output)]
            role = role_of_module(module)
            call = replace(self.calls[index], role=role, end=len(self.calls))
            opaque = self._is_opaque(module, role, inside)
            outputs = self._results(index, made, fresh=not inside)
            self.calls[index] = replace(call, opaque=opaque, outputs=outputs)
            if opaque:
                self.calls[index + 1 : call.end] = [replace(item, hidden=True) for item in inside]
            if self._on_call is not None:
                self._tell(self.calls[index], tuple(entered), tuple(made))
            return replaced

    def _results(self, index: int, made: list[Tensor], *, fresh: bool) -> tuple[int, ...]:
        """Number what a module returned; `fresh` when nothing was seen inside it, so that all of it is its own."""
        flows = any(self.ids.flows(number) for number in self.calls[index].inputs)
        numbers = []
        for item in made:
            if fresh or not self.ids.known(item):
                number = self.ids.produced(item, index, flows=flows)
            else:
                number = self.ids.of(item, self.bridge)
                self.ids.returned(index, number)
            numbers.append(number)
        return tuple(numbers)

    def _is_opaque(self, module: nn.Module, role: str, inside: list[Call]) -> bool:
        """Whether a module is one step of the data flow, rather than the calls it makes."""
        if not inside:
            return True
        if any(call.kind == "module" and ".parametrizations." not in f".{call.name}." for call in inside):
            return False
        # A subclass of a torch layer with a forward of its own may do anything (LoRA, ternary weights).
        stock = type(module).forward in {getattr(base, "forward", None) for base in _stock(type(module))}
        return role != "other" and (stock or not _is_torch_base(type(module)))

    def bridge(self, name: str, sources: tuple[int, ...], made: int) -> None:
        """Put in a call for a computation that only autograd saw: custom functions, compiled parts."""
        index = len(self.calls)
        owner = self.calls[self._open[-1]].name if self._open else ""
        target = f"autograd.{name}"
        place = calling_place()
        self.calls.append(Call(index, name, "function", target, None, owner, place, sources, (made,), end=index + 1))
        self.ids.makers[made] = (index,)

    def _noted(self, thing: Any) -> Any:
        """Return arguments with tensors replaced by what is worth remembering of them."""
        if isinstance(thing, Tensor):
            weight = self.ids.parameter(thing)
            shape = tuple(thing.shape) if not isinstance(thing, nn.UninitializedParameter) else ()
            return Ref(self.ids.of(thing, self.bridge), shape, thing.dtype, weight, thing if weight else None)
        if isinstance(thing, tuple | list):
            return tuple(self._noted(item) for item in thing)
        if isinstance(thing, dict):
            return {key: self._noted(value) for key, value in thing.items()}
        return (
            thing
            if isinstance(thing, bool | int | float | complex | str | torch.dtype | slice | None)
            else type(thing).__name__
        )

    def _tell(self, call: Call, read: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> None:
        if self._on_call is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():  # noqa: SLF001 - likewise
                self._on_call(call, read, made)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _others(written: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Return the written tensors that were not returned, each once."""
    unique = {id(item): item for item in written}
    return [item for item in unique.values() if not any(item is other for other in made)]


def _alias(item: Tensor) -> Tensor:
    """Return the same tensor under a new identity, so that a step that did nothing is still a step.

    Parameters and leaves stay themselves: their identity is what training code goes by.
    """
    if isinstance(item, nn.Parameter) or (item.is_leaf and item.requires_grad):
        return item
    try:
        return item.view_as(item)
    except RuntimeError:  # sparse and nested tensors
        return item


def _stock(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.startswith("torch.") and base is not nn.Module]


def _is_torch_base(cls: type) -> bool:
    return bool(_stock(cls))


def function_name(func: Any) -> str:
    """Return the bare name of what a torch function mode was handed; properties by their own name."""
    name = str(getattr(func, "__name__", type(func).__name__))
    if name in {"__get__", "__set__", "__delete__"}:
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name


def qualified(func: Any, name: str) -> str:
    """Return the public dotted name: torch.nn.functional.dropout, torch.Tensor.add, torch.matmul."""
    owner = getattr(func, "__objclass__", None) or getattr(getattr(func, "__self__", None), "__objclass__", None)
    if owner is not None:
        return f"torch.Tensor.{name}"
    home = str(getattr(func, "__module__", None) or "torch")
    home = {"torch._C._nn": "torch.nn.functional", "torch.functional": "torch", "torch._tensor": "torch.Tensor"}.get(
        home, home
    )
    if home == "torch.nn.functional" or hasattr(torch.nn.functional, name):
        return f"torch.nn.functional.{name}"
    return f"{home}.{name}"
