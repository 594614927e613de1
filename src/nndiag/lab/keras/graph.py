"""A Keras model as torch layers of the same names: the module that runs them, and the builder that fills it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nndiag.core.errors import NndiagError
from nndiag.lab.watch.built import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class UnknownLayerError(Exception):
    """A layer, or a setting of one, that has no counterpart here. The message names both."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A value made earlier in the forward."""

    index: int


@dataclass(frozen=True, slots=True)
class Held:
    """A variable that code of the user's own reads: a parameter or buffer of the graph."""

    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One call: of a child by its name, or of a function."""

    target: str | Callable[..., Any]
    args: Any
    kwargs: Mapping[str, Any]
    makes: int


@dataclass(frozen=True, slots=True)
class Program:
    """Steps, and what they answer."""

    steps: list[Step]
    answer: Any


class KerasGraph(nn.Module):
    """A Keras model, translated. Children carry the names of the Keras layers; the forward follows its graph."""

    def __init__(self, inputs: tuple[str, ...], example: Any) -> None:
        """Take the names of the inputs and an example of them."""
        super().__init__()
        self.names = inputs
        self.example_inputs = example  # what `nndiag.load.invented.guesses` invents inputs from
        self.steps: list[Step] = []
        self.answer: Any = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the layers in the order of the Keras graph."""
        return self.run(self.arranged(inputs, named))[1]

    def arranged(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """Return the inputs in their order."""
        only = inputs[0] if len(inputs) == 1 else None
        if isinstance(only, dict):
            inputs, named = (), only
        elif isinstance(only, tuple | list):
            inputs = tuple(only)
        given = [*inputs, *(named[name] for name in self.names[len(inputs) :] if name in named)]
        if len(given) != len(self.names):
            raise NndiagError(
                f"the Keras model takes {len(self.names)} inputs ({', '.join(self.names)}), not {len(given)}",
                hint="give them in this order, or by these names",
            )
        return given

    def run(self, inputs: list[Any]) -> tuple[dict[int, Any], Any]:
        """Return every value by its number, and the output."""
        return self.play(Program(self.steps, self.answer), inputs)

    def play(self, program: Program, inputs: Sequence[Any]) -> tuple[dict[int, Any], Any]:
        """Run some steps on these children."""
        values = dict(enumerate(inputs))
        for step in program.steps:
            call = self.get_submodule(step.target) if isinstance(step.target, str) else step.target
            values[step.makes] = call(*self._filled(step.args, values), **self._filled(step.kwargs, values))
        return values, self._filled(program.answer, values)

    def _filled(self, template: Any, values: Mapping[int, Any]) -> Any:
        if isinstance(template, Ref):
            return values[template.index]
        if isinstance(template, Held):
            return getattr(self, template.name)
        if isinstance(template, tuple | list):
            return type(template)(self._filled(item, values) for item in template)
        if isinstance(template, dict):
            return {key: self._filled(item, values) for key, item in template.items()}
        return template


class KerasModel(KerasGraph):
    """A Keras model with one input."""

    def forward(self, inputs: Any) -> Any:
        """Run the layers in the order of the Keras graph."""
        return self.run(self.arranged((inputs,), {}))[1]


@dataclass
class Builder:
    """Fills a graph, call by call."""

    graph: KerasGraph
    notes: list[str] = field(default_factory=list)
    shape: tuple[int | None, ...] = ()  # of the first input of the layer that is being translated
    overruled: bool = False  # whether training= of the outermost call wins over this layer's own
    place: tuple[str, int] | None = None  # the user's line that built it
    first: int = 0  # number of the first value that is made here; those below are given
    _next: int = 0
    _held: dict[int, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Number the inputs."""
        self._next = self.first or len(self.graph.names)

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Ref:
        """Call a function."""
        return self._step(function, args, kwargs)

    def module(self, name: str, make: Callable[[], nn.Module], *args: Any, **kwargs: Any) -> Ref:
        """Call a child, which is made the first time."""
        name = name.replace(".", "_")
        if name not in self.children():
            made = make()
            made.__dict__.pop(MARK, None)
            if self.place is not None:
                object.__setattr__(made, MARK, self.place)
            self.graph.add_module(name, made)
        return self._step(name, args, kwargs)

    def children(self) -> dict[str, nn.Module]:
        """Return the children made so far."""
        return dict(self.graph.named_children())

    def variable(self, variable: Any) -> Held:
        """Keep a Keras variable under its own name: trained as a parameter, else as a buffer."""
        if id(variable) not in self._held:
            name = stem = str(variable.name).replace(".", "_")
            count = 0
            while hasattr(self.graph, name):
                count += 1
                name = f"{stem}_{count}"
            if variable.trainable:
                self.graph.register_parameter(name, nn.Parameter(value_of(variable)))
            else:
                self.graph.register_buffer(name, value_of(variable))
            self._held[id(variable)] = Held(name)
        return self._held[id(variable)]

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Take back what a translation began that then met something unknown."""
        steps, children, notes, number = len(self.graph.steps), set(self.children()), len(self.notes), self._next
        try:
            yield
        except UnknownLayerError:
            del self.graph.steps[steps:], self.notes[notes:]
            for name in set(self.children()) - children:
                delattr(self.graph, name)
            self._next = number
            raise

    def _step(self, target: str | Callable[..., Any], args: Any, kwargs: Any) -> Ref:
        made = Ref(self._next)
        self._next += 1
        self.graph.steps.append(Step(target, args, kwargs, made.index))
        return made


def value_of(variable: Any) -> Tensor:
    """Return a private copy of a Keras variable's value."""
    tensor: Tensor = variable.value
    return tensor.detach().cpu().clone()


def put(parameter: Any, variable: Any, change: Callable[[Tensor], Tensor] | None = None) -> None:
    """Fill a parameter from a Keras variable; what Keras does not train gets no gradient."""
    value = value_of(variable)
    value = (change(value) if change else value).contiguous()
    if tuple(parameter.shape) != tuple(value.shape):
        raise UnknownLayerError(f"weights of shape {tuple(value.shape)} where {tuple(parameter.shape)} are expected")
    parameter.data = value
    if isinstance(parameter, nn.Parameter):
        parameter.requires_grad_(bool(variable.trainable))
