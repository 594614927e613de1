"""Keras layers that are run as Keras wrote them, inside a torch model: the user's own, and settings torch has not."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nndiag.lab.forward import tensors_in
from nndiag.lab.keras.copy import keras_copy
from nndiag.lab.keras.graph import Builder, KerasGraph, Program, Ref, UnknownLayerError
from nndiag.lab.keras.inputs import ROWS
from nndiag.lab.keras.outline import attribute_names, replaced
from nndiag.lab.watch.built import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    Translate = Callable[[Builder, Any, str, tuple[Any, ...], Mapping[str, Any]], Ref]


class Foreign(KerasGraph):
    """A private copy of a Keras layer. Its variables are parameters and buffers here; the mode is told as Keras wants.

    `Layer.train()` has no effect, moving statistics and seeds are Parameters in Keras, and the floating-point type is
    a policy of the layer: all three are made what they are in torch.
    """

    def __init__(self, layer: Any, *, mode: bool | None = None) -> None:
        """Take the layer, and the mode that it is always called in."""
        super().__init__((), None)
        self.mode = mode
        self._held = _Private(keras_copy(layer))
        self._dtype: Any = None
        self._names: dict[int, str] = {}  # of a variable by its number
        self._programs: dict[int, Program] = {}  # of an inner layer by its number
        for number, variable in enumerate(self._held.variables):
            name = self._free_name(str(variable.path).removeprefix(f"{layer.path}/").replace(".", "_"))
            value = variable.value.detach().cpu().clone()
            if variable.trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
            self._names[number] = name

    @property
    def layer(self) -> Any:
        """The private Keras layer."""
        return self._held.layer

    @property
    def layers_inside(self) -> bool:
        """Whether it is made of layers."""
        return bool(self._held.parts)

    @property
    def seen_inside(self) -> bool:
        """Whether some of them are torch's here."""
        return bool(self._programs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer on these parameters, and on torch's layers where there are some."""
        layer = self._held.layer
        for number, name in self._names.items():
            value = getattr(self, name)
            if "seed_generator_state" in name:  # Keras counts its draws; torch's seed decides here
                value.copy_(torch.randint(0, 2**31, value.shape))
            self._held.variables[number]._value = value  # noqa: SLF001 - assigning would cut the gradient
        self._follow_dtype()
        if "training" in inspect.signature(layer.call).parameters or hasattr(layer, "_nodes_by_depth"):
            kwargs["training"] = self.training if self.mode is None else self.mode
        for number, program in self._programs.items():
            vars(self._held.parts[number])["call"] = partial(self._instead, program)
        try:
            return layer(*args, **kwargs)
        finally:
            for number in self._programs:
                vars(self._held.parts[number]).pop("call", None)

    def use_torch_layers(self, translate: Translate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Let torch's layers compute in place of Keras's own inside this one, under the attributes that hold them.

        Args:
            translate: Adds the steps of one layer to a builder, or raises UnknownLayerError.
            args: An example of what this layer is called with, to see what its inner layers are called with.
            kwargs: The same by keyword.
        """
        names = attribute_names(self._held.layer)
        before = self._watched(args, kwargs)
        done: set[int] = set()
        for number, part in enumerate(self._held.parts):
            if id(part) in done or number not in before:
                continue
            given = before[number]
            tensors = tensors_in(given)
            numbers = {id(tensor): Ref(index) for index, tensor in enumerate(tensors)}
            template = replaced(given, partial(_numbered, numbers))
            self.steps = []
            to = Builder(self, shape=(None, *tensors[0].shape[1:]), place=getattr(part, MARK, None), first=len(tensors))
            try:
                with to.undone_on_failure():
                    answer = translate(to, part, names.get(id(part), str(part.name)), template, {"training": None})
            except UnknownLayerError:
                continue
            self._programs[number] = Program(self.steps, answer)
            done |= {id(inner) for inner in part._flatten_layers()}  # noqa: SLF001 - containers of layers included
            self._forget(part)
        self.steps = []

    def _watched(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int, tuple[Any, ...]]:
        """Return what each inner layer is first called with, those called with other than tensors left out."""
        seen: dict[int, tuple[Any, ...]] = {}

        def watch(number: int, call: Any, *given: Any, **more: Any) -> Any:
            plain = all(value is None for key, value in more.items() if key != "training")
            if number not in seen and plain and tensors_in(given):
                seen[number] = given
            return call(*given, **more)

        for number, part in enumerate(self._held.parts):
            vars(part)["call"] = partial(watch, number, part.call)
        try:
            with torch.no_grad():
                self.eval()(*args, **kwargs)
        finally:
            for part in self._held.parts:
                vars(part).pop("call", None)
        return seen

    def _instead(self, program: Program, *args: Any, training: bool | None = None, **_kwargs: Any) -> Any:
        """Answer a call of an inner layer; one that is told another mode than this module's runs in that mode."""
        modules = [self.get_submodule(step.target) for step in program.steps if isinstance(step.target, str)]
        before = [module.training for module in modules]
        if training is not None and bool(training) != self.training:
            for module in modules:
                module.train(bool(training))
        try:
            return self.play(program, tensors_in(args))[1]
        finally:
            for module, mode in zip(modules, before, strict=True):
                module.train(mode)

    def _forget(self, part: Any) -> None:
        """Drop the variables of a layer that torch's layer has taken over."""
        gone = {id(variable) for variable in part.variables}
        for number, variable in enumerate(self._held.variables):
            if id(variable) in gone and number in self._names:
                delattr(self, self._names.pop(number))

    def _follow_dtype(self) -> None:
        """Let the layer compute in the type of its parameters; its inputs would be cast back otherwise."""
        import keras

        own: Tensor | None = next((item for item in self.parameters() if item.is_floating_point()), None)
        if own is None or own.dtype == self._dtype:
            return
        if self._dtype is not None or str(own.dtype) != "torch.float32":
            policy = keras.DTypePolicy(str(own.dtype).removeprefix("torch."))
            for layer in self._held.layer._flatten_layers():  # noqa: SLF001 - containers of layers included
                layer._dtype_policy = policy  # noqa: SLF001 - the setter exists for quantisation only
        self._dtype = own.dtype

    def _free_name(self, name: str) -> str:
        free, count = name, 0
        while free in self._names.values():
            count += 1
            free = f"{name}_{count}"
        return free


def on_torch_layers(
    plain: Foreign, layer: Any, translate: Translate, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Foreign, bool]:
    """Return the layer on torch's layers where it computes the same with them, and whether it does.

    Args:
        plain: The layer as it is.
        layer: The Keras layer that it holds.
        translate: Adds the steps of one layer to a builder, or raises UnknownLayerError.
        args: An example of what it is called with.
        kwargs: The same by keyword.
    """
    better = Foreign(layer, mode=plain.mode)
    try:
        better.use_torch_layers(translate, args, kwargs)
        with torch.no_grad():
            theirs, mine = (tensors_in(module.eval()(*args, **kwargs)) for module in (plain, better))
        same = all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(theirs, mine, strict=True))
    except Exception:  # noqa: BLE001 - whatever the user's code raises; as it is it is run in any case
        same = False
    same = same and bool(better._programs)  # noqa: SLF001 - just made
    return (better if same else plain).train(), same


def foreign_inside(graph: KerasGraph) -> list[tuple[str, Foreign, tuple[Any, ...], dict[str, Any]]]:
    """Return the layers with layers inside that are run as they are, and what each is called with on the example."""
    whole = {
        name: module
        for name, module in graph.named_modules()
        if isinstance(module, Foreign) and module.layers_inside and not module.seen_inside
    }
    given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.setdefault(id(module), (args, dict(kwargs)))

    hooks = [module.register_forward_pre_hook(remember, with_kwargs=True) for module in whole.values()]
    example = graph.example_inputs
    if whole and example is not None:
        with torch.no_grad(), suppress(Exception):  # `prove` runs it again, and says what is wrong
            inputs = [item[:ROWS] for item in (example if isinstance(example, tuple) else (example,))]
            graph.eval().run(inputs)
        graph.train()
    for hook in hooks:
        hook.remove()
    return [(name, module, *given[id(module)]) for name, module in whole.items() if id(module) in given]


class _Private:
    """Hides a layer from torch, which would register it, and copies it with the module that holds it."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.variables = list(layer.variables)
        self.parts = [part for part in layer._flatten_layers() if part is not layer]  # noqa: SLF001 - in lists too

    def __deepcopy__(self, memo: dict[int, Any]) -> _Private:
        return _Private(keras_copy(self.layer, memo))


def _numbered(numbers: Mapping[int, Ref], leaf: Any) -> Any:
    return numbers.get(id(leaf), leaf)
