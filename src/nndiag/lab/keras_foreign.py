"""Keras layers that are run as Keras wrote them, inside a torch model: the user's own, and settings torch has not."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from nndiag.lab.keras_copy import keras_copy

if TYPE_CHECKING:
    from torch import Tensor


class Foreign(nn.Module):
    """A private copy of a Keras layer. Its variables are parameters and buffers here; the mode is told as Keras wants.

    `Layer.train()` has no effect, moving statistics and seeds are Parameters in Keras, and the floating-point type is
    a policy of the layer: all three are made what they are in torch.
    """

    def __init__(self, layer: Any, *, mode: bool | None = None) -> None:
        """Take the layer, and the mode that it is always called in."""
        super().__init__()
        self.mode = mode
        self._held = _Private(keras_copy(layer))
        self._dtype: Any = None
        self._names: list[str] = []
        for variable in self._held.variables:
            name = self._free_name(str(variable.path).removeprefix(f"{layer.path}/").replace(".", "_"))
            value = variable.value.detach().cpu().clone()
            if variable.trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
            self._names.append(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer on these parameters."""
        layer = self._held.layer
        for variable, name in zip(self._held.variables, self._names, strict=True):
            variable._value = getattr(self, name)  # noqa: SLF001 - assigning would copy, and cut the gradient
        self._follow_dtype()
        if "training" in inspect.signature(layer.call).parameters or hasattr(layer, "_nodes_by_depth"):
            kwargs["training"] = self.training if self.mode is None else self.mode
        return layer(*args, **kwargs)

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
        while free in self._names:
            count += 1
            free = f"{name}_{count}"
        return free


class _Private:
    """Hides a layer from torch, which would register it, and copies it with the module that holds it."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.variables = list(layer.variables)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Private:
        return _Private(keras_copy(self.layer, memo))
