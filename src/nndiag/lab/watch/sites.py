"""What ran, in call order, and what feeds what?"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from nndiag.core.subject import Batch
from nndiag.lab.borrow import borrow, seeded
from nndiag.lab.forward import fitted, invoke, tensors_in, unwrapped
from nndiag.lab.watch.built import class_name, locate
from nndiag.lab.watch.calls import Call, Ref
from nndiag.lab.watch.roles import PASSIVE, SHAPE
from nndiag.lab.watch.tracer import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor, nn

__all__ = ["Call", "Ref", "Trace", "class_name", "locate", "trace"]


@dataclass(frozen=True)
class Trace:
    """One forward: every call in order, and the flow of tensors between them.

    The flow is told at one grain. A torch layer, or a module that computes nothing but one of the known roles, is
    one step (`opaque`); in anything else the calls inside are the steps. `steps` lists them.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]  # ids of the batch's tensors
    outputs: tuple[int, ...]  # ids of the model's answer
    makers: Mapping[int, tuple[int, ...]]  # tensor id -> indices of the calls that made it
    flowing: frozenset[int]  # ids of tensors that depend on the batch
    names: tuple[str, ...]  # every module of the model
    notes: tuple[str, ...] = ()  # what could not be watched
    values: Mapping[int, Tensor] = field(default_factory=dict, repr=False)  # only with keep=True
    output: Any = field(default=None, repr=False)  # the model's answer; only with keep=True

    @cached_property
    def steps(self) -> tuple[Call, ...]:
        """The calls that the data flow consists of."""
        return tuple(call for call in self.calls if call.opaque and not call.hidden)

    @cached_property
    def _readers(self) -> dict[int, list[Call]]:
        """Tensor id -> steps that read it."""
        readers: dict[int, list[Call]] = {}
        for step in self.steps:
            for number in dict.fromkeys(step.inputs):
                readers.setdefault(number, []).append(step)
        return readers

    @cached_property
    def _made(self) -> dict[int, list[int]]:
        """Call index -> ids of the tensors it made."""
        made: dict[int, list[int]] = {}
        for number, makers in self.makers.items():
            for index in makers:
                made.setdefault(index, []).append(number)
        return made

    def consumers(self, call: Call) -> tuple[Call, ...]:
        """Return the steps that read what a call made, in call order."""
        found = {
            step.index: step
            for number in self._made.get(call.index, ())
            for step in self._readers.get(number, ())
            if not call.index < step.index < call.end
        }
        return tuple(found[index] for index in sorted(found))

    def producers(self, call: Call) -> tuple[Call, ...]:
        """Return the steps that made what a call reads, in call order."""
        found = {}
        for number in call.inputs:
            for index in self.makers.get(number, ()):
                step = self.calls[index]
                if step.opaque and not step.hidden and not call.index < index < call.end:
                    found[index] = step
        return tuple(found[index] for index in sorted(found))

    def is_output(self, call: Call) -> bool:
        """Whether the model returns something that this call made."""
        return any(number in self.outputs for number in self._made.get(call.index, ()))

    def reads_input(self, call: Call) -> bool:
        """Whether the call reads the batch itself."""
        return any(number in self.inputs for number in call.inputs)

    def after(
        self, call: Call, *, through: Iterable[str] = PASSIVE, stop: Callable[[Call], bool] | None = None
    ) -> tuple[Call, ...]:
        """Return the first steps behind a call that are not merely passed through.

        Args:
            call: Where to start.
            through: Roles to pass: by default reshaping, dropout and pooling.
            stop: Called for each step; True ends the walk there whatever its role.

        Returns:
            The steps at which each path ends, in call order.
        """
        return self._walk(call, self.consumers, frozenset(through), stop)

    def before(
        self, call: Call, *, through: Iterable[str] = PASSIVE, stop: Callable[[Call], bool] | None = None
    ) -> tuple[Call, ...]:
        """Return the nearest steps before a call that are not merely passed through; see `after`."""
        return self._walk(call, self.producers, frozenset(through), stop)

    def reaches_output(self, call: Call, *, through: Iterable[str] = (*PASSIVE, SHAPE)) -> bool:
        """Whether what a call made is returned by the model after nothing but passive steps."""
        passed = frozenset(through)
        return any(self.is_output(step) for step in self._closure(call, self.consumers, passed))

    def downstream(self, call: Call) -> Iterator[Call]:
        """Yield every step that depends on what a call made, in call order."""
        yield from self._all(call, self.consumers)

    def upstream(self, call: Call) -> Iterator[Call]:
        """Yield every step that a call depends on, in call order."""
        yield from self._all(call, self.producers)

    def of(self, name: str) -> tuple[Call, ...]:
        """Return the calls of the module with this dotted name."""
        return tuple(call for call in self.calls if call.kind == "module" and call.name == name)

    def functions(self, *ops: str) -> tuple[Call, ...]:
        """Return function calls by bare name, also those inside torch's own layers."""
        return tuple(call for call in self.calls if call.kind == "function" and call.op in ops)

    def inside(self, call: Call) -> tuple[Call, ...]:
        """Return the calls made by a module's forward."""
        return self.calls[call.index + 1 : call.end]

    @cached_property
    def never_ran(self) -> tuple[str, ...]:
        """Names of modules that this forward did not call."""
        ran = {call.name for call in self.calls if call.kind == "module"}
        return tuple(name for name in self.names if name not in ran)

    def _walk(
        self,
        call: Call,
        step: Callable[[Call], tuple[Call, ...]],
        through: frozenset[str],
        stop: Callable[[Call], bool] | None,
    ) -> tuple[Call, ...]:
        ends: dict[int, Call] = {}
        seen: set[int] = set()
        waiting = list(step(call))
        while waiting:
            item = waiting.pop()
            if item.index in seen:
                continue
            seen.add(item.index)
            if item.role in through and not (stop is not None and stop(item)):
                waiting.extend(step(item))
            else:
                ends[item.index] = item
        return tuple(ends[index] for index in sorted(ends))

    def _closure(self, call: Call, step: Callable[[Call], tuple[Call, ...]], through: frozenset[str]) -> list[Call]:
        """Return the call and all that is reached from it through passive steps."""
        seen = {call.index: call}
        waiting = [call]
        while waiting:
            for item in step(waiting.pop()):
                if item.index not in seen and item.role in through:
                    seen[item.index] = item
                    waiting.append(item)
        return list(seen.values())

    def _all(self, call: Call, step: Callable[[Call], tuple[Call, ...]]) -> Iterator[Call]:
        seen: dict[int, Call] = {}
        waiting = list(step(call))
        while waiting:
            item = waiting.pop()
            if item.index not in seen:
                seen[item.index] = item
                waiting.extend(step(item))
        yield from (seen[index] for index in sorted(seen))


def trace(  # noqa: PLR0913 - one forward and how to watch it
    model: nn.Module,
    batch: Any,
    *,
    training: bool,
    keep: bool = False,
    seed: int = 0,
    on_call: Callable[[Call, tuple[Tensor, ...], tuple[Tensor, ...]], None] | None = None,
) -> Trace:
    """Run the model once, and record every module call and every torch function.

    The model is borrowed: it comes back as it was. Compiled models run uncompiled meanwhile; scripted parts and
    custom autograd functions appear as single steps.

    Args:
        model: Any module.
        batch: A `Batch`, or inputs as `call` takes them.
        training: Mode of every module during the run. Modules that the model has frozen itself (in eval inside a
            training model) keep their own mode.
        keep: Keep a copy of every tensor in `values`, and the answer in `output`.
        seed: Seeds dropout and the like.
        on_call: Sees each call as it ends, with the live tensors it read and made; under `no_grad`.

    Raises:
        NndiagError: When the forward raises.
    """
    model = unwrapped(model)
    inputs = fitted(model, batch.inputs if isinstance(batch, Batch) else batch)
    recorder = Recorder(model, keep=keep, on_call=on_call)
    with borrow(model), seeded(seed), _plainly():
        set_mode(model, training=training)
        roots = tuple(recorder.ids.root(item) for item in tensors_in(inputs))
        with torch.enable_grad(), recorder.attached():
            output = invoke(model, inputs)
        answers = tuple(recorder.ids.of(item, recorder.bridge) for item in tensors_in(output))
    return Trace(
        calls=tuple(recorder.calls),
        inputs=roots,
        outputs=answers,
        makers=recorder.ids.makers,
        flowing=frozenset(recorder.ids.roots),
        names=tuple(name for name, _ in model.named_modules()),
        notes=tuple(recorder.notes),
        values=recorder.ids.values,
        output=output if keep else None,
    )


def set_mode(model: nn.Module, *, training: bool) -> None:
    """Set a model's mode, leaving modules that are frozen in eval inside a training model as they are."""
    if not training:
        model.eval()
        return
    frozen = [module for module in model.modules() if model.training and not module.training]
    model.train()
    for module in frozen:
        module.training = False


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Switch fused shortcuts and compilation off: they hide the layers from every hook."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Whoever compiles has imported dynamo; importing it for nothing costs seconds.
        compiling = "torch._dynamo" in sys.modules
        with torch.compiler.set_stance("force_eager") if compiling else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
