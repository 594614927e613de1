"""A layer's weights seen as units: one row per unit, whatever the layer keeps them in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nndiag.lab.forward import unwrapped
from nndiag.lab.units.leaf import qualified, weight_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from nndiag.lab.units.use import Uses

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = ("norm", "bn", "ln")
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "LSTMCell": 4, "GRUCell": 3, "RNNCell": 1}


@dataclass(frozen=True, slots=True)
class UnitView:
    """Units of one layer: which parameters hold them and how to read them as rows."""

    module: str  # dotted name; "" is the model itself
    cls: str
    part: str  # "" or which of several: q, k, v, layer 1, heads
    kind: str  # linear | conv | embedding | recurrent | attention | heads | bilinear | raw
    weights: tuple[str, ...]  # full parameter names
    biases: tuple[str, ...]
    units: int
    read: Callable[[Mapping[str, Tensor]], Tensor]  # parameters by name -> (units, features)
    read_bias: Callable[[Mapping[str, Tensor]], Tensor] | None = None  # -> (units, entries)
    classes: tuple[int, ...] | None = None  # units of different classes see different inputs

    @property
    def label(self) -> str:
        """Module and part, as printed."""
        if self.kind == "raw" and self.part:
            return self.weights[0]
        name = self.module or "(model)"
        return f"{name} {self.part}".strip()

    def rows(self, tensors: Mapping[str, Tensor], *, bias: bool = False) -> NDArray[np.float64]:
        """Return (units, features) in float64, the bias as last columns where asked."""
        with torch.no_grad():
            parts = [self.read(tensors)]
            if bias and self.read_bias is not None:
                parts.append(self.read_bias(tensors))
            joined = torch.cat([part.detach().to(torch.float64) for part in parts], dim=1)
            return np.asarray(joined.cpu().numpy())

    def entries(self, tensors: Mapping[str, Tensor]) -> int:
        """How many numbers its weights hold."""
        return sum(tensors[name].numel() for name in self.weights)

    def raw_rows(self, tensors: Mapping[str, Tensor]) -> NDArray[np.generic]:
        """Return (units, features) in the weights' own precision, without a copy where the layout allows."""
        with torch.no_grad():
            item = self.read(tensors).detach().cpu()
            return np.asarray((item.float() if item.dtype is torch.bfloat16 else item).numpy())

    @property
    def class_array(self) -> NDArray[np.int64] | None:
        """The classes as an array."""
        return None if self.classes is None else np.asarray(self.classes, dtype=np.int64)


def unit_views(model: nn.Module, uses: Uses | None = None) -> list[UnitView]:
    """Return every layer's units, in registration order, shared parameters once.

    Args:
        model: Any module; lazy parameters are left out.
        uses: How bare parameters are multiplied, from `units_use.uses_of`; without it they are no units.
    """
    model = unwrapped(model)
    seen: set[int] = set()
    views: list[UnitView] = []
    names = {id(item): name for name, item in model.named_parameters(remove_duplicate=True)}
    for name, module in model.named_modules():
        for view in _views_of(name, module, uses):
            params = [_parameter(model, item) for item in view.weights]
            if any(isinstance(item, nn.UninitializedParameter) for item in params):
                continue
            key = hash((tuple(id(item) for item in params), view.part))
            if key in seen or any(id(item) not in names for item in params):
                continue
            seen.add(key)
            if view.units > 1:
                views.append(_renamed(view, model, names))
    return views


def _renamed(view: UnitView, model: nn.Module, names: Mapping[int, str]) -> UnitView:
    """Read shared weights and biases by the first name that the model knows them by."""
    own = (*view.weights, *view.biases)
    alias = {item: names.get(id(_parameter(model, item)), item) for item in own}
    if all(item == name for item, name in alias.items()):
        return view

    def through(read: Callable[[Mapping[str, Tensor]], Tensor]) -> Callable[[Mapping[str, Tensor]], Tensor]:
        return lambda tensors: read(_Aliased(tensors, alias))  # type: ignore[arg-type]

    return replace(
        view, weights=tuple(alias[item] for item in view.weights), biases=tuple(alias[item] for item in view.biases),
        read=through(view.read), read_bias=through(view.read_bias) if view.read_bias else None,
    )  # fmt: skip


class _Aliased:
    """Tensors looked up under another name."""

    def __init__(self, tensors: Mapping[str, Tensor], alias: Mapping[str, str]) -> None:
        self._tensors, self._alias = tensors, alias

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._alias.get(name, name)]


def _parameter(model: nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return model.get_submodule(owner)._parameters.get(leaf)  # noqa: SLF001 - get_parameter refuses lazy ones


def _views_of(name: str, module: nn.Module, uses: Uses | None) -> Iterator[UnitView]:
    """Choose the reading by the layer's kind."""
    kind = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention(name, module)
    elif isinstance(module, nn.RNNBase):
        yield from _recurrent(name, module)
    elif isinstance(module, nn.RNNCellBase):
        yield _recurrent_view(name, module, _GATES.get(kind, 1), ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), "")
    elif isinstance(module, nn.Bilinear):
        yield _plain(name, module, "bilinear", lambda w: w.flatten(1), module.out_features)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield _plain(name, module, "embedding", lambda w: w.t(), module.embedding_dim)
    elif isinstance(module, _TRANSPOSED):
        yield _transposed(name, module)
    elif isinstance(module, _CONVS):
        yield _conv(name, module)
    elif isinstance(module, nn.Linear):
        yield _plain(name, module, "linear", lambda w: w.flatten(1), module.out_features)
    elif kind == "Conv1D" and weight_name(module) is not None:  # Hugging Face's, kept as (in, out)
        yield _plain(name, module, "linear", lambda w: w.t(), int(module.weight.shape[1]))  # type: ignore[index]
    else:
        yield from _bare(name, module, uses)


def _join(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf


def _plain(  # noqa: PLR0913, PLR0917 - a view's parts
    name: str, module: nn.Module, kind: str, turn: Callable[[Tensor], Tensor], units: int,
    classes: tuple[int, ...] | None = None,
) -> UnitView:  # fmt: skip
    leaf = weight_name(module) or "weight"
    weight = _join(name, leaf)
    has_bias = module._parameters.get("bias") is not None  # noqa: SLF001 - likewise
    bias = _join(name, "bias")
    return UnitView(
        module=name,
        cls=qualified(module),
        part="",
        kind=kind,
        weights=(weight,),
        biases=(bias,) if has_bias else (),
        units=units,
        read=lambda tensors: turn(tensors[weight]),
        read_bias=(lambda tensors: tensors[bias][:, None]) if has_bias else None,
        classes=classes,
    )


def _conv(name: str, module: Any) -> UnitView:
    each = module.out_channels // module.groups
    classes = tuple(unit // each for unit in range(module.out_channels)) if module.groups > 1 else None
    return _plain(name, module, "conv", lambda w: w.flatten(1), module.out_channels, classes)


def _transposed(name: str, module: Any) -> UnitView:
    groups, each = module.groups, module.out_channels // module.groups

    def turn(weight: Tensor) -> Tensor:
        apart = weight.reshape(groups, weight.shape[0] // groups, each, -1)  # (groups, in, out, taps)
        return apart.permute(0, 2, 1, 3).reshape(groups * each, -1)

    classes = tuple(unit // each for unit in range(module.out_channels)) if groups > 1 else None
    return _plain(name, module, "conv", turn, module.out_channels, classes)


def _recurrent(name: str, module: nn.RNNBase) -> Iterator[UnitView]:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse") if module.bidirectional else ("",):
            leaves = tuple(f"{part}_l{layer}{suffix}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            part = f"layer {layer}{suffix.replace('_', ' ')}" if module.num_layers > 1 or suffix else ""
            yield _recurrent_view(name, module, gates, leaves, part)


def _recurrent_view(name: str, module: nn.Module, gates: int, leaves: tuple[str, ...], part: str) -> UnitView:
    """A unit's rows in every gate, input and recurrent; the recurrent row sorted.

    Exchanging two units exchanges rows and columns of the recurrent matrix, so a unit is known by what its recurrent
    row holds, not by where: an identity matrix between constant units keeps them equal.
    """
    ih, hh = (_join(name, leaf) for leaf in leaves[:2])
    own = module._parameters  # noqa: SLF001 - bias=False leaves none; a layer that stands for Keras's may keep one
    biases = tuple(_join(name, leaf) for leaf in leaves[2:] if own.get(leaf) is not None)
    hidden = int(module.hidden_size)  # type: ignore[arg-type]

    def by_unit(weight: Tensor) -> Tensor:
        return weight.reshape(gates, hidden, -1).transpose(0, 1)  # (units, gates, in)

    def read(tensors: Mapping[str, Tensor]) -> Tensor:
        recurrent = by_unit(tensors[hh]).sort(dim=-1).values
        return torch.cat([by_unit(tensors[ih]).flatten(1), recurrent.flatten(1)], dim=1)

    return UnitView(
        module=name,
        cls=qualified(module),
        part=part,
        kind="recurrent",
        weights=(ih, hh),
        biases=biases,
        units=hidden,
        read=read,
        read_bias=(lambda tensors: torch.cat([by_unit(tensors[item]).flatten(1) for item in biases], dim=1))
        if biases
        else None,
    )


def _attention(name: str, module: nn.MultiheadAttention) -> Iterator[UnitView]:
    """Query, key and value rows of torch's attention, packed or apart. The out-projection is a Linear of its own.

    Rows of different heads are compared as well: a cloned head is a group of pairs.
    """
    width = module.embed_dim
    bias = _join(name, "in_proj_bias") if module.in_proj_bias is not None else None
    for index, part in enumerate("qkv"):
        packed = module.in_proj_weight is not None
        weight = _join(name, "in_proj_weight" if packed else f"{part}_proj_weight")
        span = slice(index * width, (index + 1) * width)
        yield UnitView(
            module=name,
            cls=qualified(module),
            part=part,
            kind="attention",
            weights=(weight,),
            biases=(bias,) if bias else (),
            units=width,
            read=lambda tensors, weight=weight, span=span, packed=packed: (  # type: ignore[misc]
                tensors[weight][span] if packed else tensors[weight]
            ),
            read_bias=(lambda tensors, span=span: tensors[bias][span, None]) if bias else None,  # type: ignore[misc]
        )


def _bare(name: str, module: nn.Module, uses: Uses | None) -> Iterator[UnitView]:
    """Parameters that a module multiplies with by hand, turned as their use says."""
    for leaf, item in module._parameters.items():  # noqa: SLF001 - own parameters only, lazy ones too
        full = _join(name, leaf)
        use = uses.get(full) if uses is not None else None
        if item is None or use is None or item.dim() < 2:
            continue
        units, classes = use.size(tuple(item.shape))
        if units < 2:
            continue
        own = leaf == "weight"  # a layer by another name: a quantised Linear, a tied head
        beside = module._parameters.get("bias") if own else None  # noqa: SLF001 - likewise
        bias = use.bias or (_join(name, "bias") if beside is not None and beside.shape == (units,) else None)
        yield UnitView(
            module=name,
            cls=qualified(module),
            part="" if own else leaf,
            kind="raw",
            weights=(full,),
            biases=(bias,) if bias else (),
            units=units,
            read=lambda tensors, full=full, use=use: use.turn(tensors[full]),  # type: ignore[misc]
            read_bias=(lambda tensors, bias=bias: tensors[bias][:, None]) if bias else None,  # type: ignore[misc]
            classes=classes,
        )
