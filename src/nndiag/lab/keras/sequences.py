"""Keras's recurrent layers and attention as torch's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.lab.keras.graph import Ref, UnknownLayerError, put
from nndiag.lab.keras.modules import MultiHeadAttention

if TYPE_CHECKING:
    from nndiag.lab.keras.graph import Builder


def recurrent(to: Builder, layer: Any, name: str, args: tuple[Any, ...], call: dict[str, Any]) -> Ref:
    """Translate LSTM, GRU, SimpleRNN and Bidirectional around one."""
    both = type(layer).__name__ == "Bidirectional"
    cells = [layer.forward_layer, layer.backward_layer] if both else [layer]
    cell = cells[0]
    kind = type(cell).__name__
    if len(args) > 1 or any(value is not None for key, value in call.items() if key != "training"):
        raise UnknownLayerError(f"{kind} called with a state or a mask")
    if both and layer.merge_mode != "concat":
        raise UnknownLayerError(f"Bidirectional with merge_mode={layer.merge_mode}")
    _plain(cell, kind)
    x = args[0]
    if cell.dropout:  # one mask for all time steps
        x = to.apply(torch.movedim, x, 2, 1)
        x = to.module(f"{name}/dropout", lambda: nn.Dropout1d(cell.dropout), x)
        x = to.apply(torch.movedim, x, 1, 2)
    backwards = not both and cell.go_backwards
    if backwards:
        x = to.apply(torch.flip, x, (1,))
    out = to.module(name, lambda: _made(cells, kind), x)
    if cell.return_state:
        raise UnknownLayerError(f"{kind} with return_state")
    return to.apply(_sequence if cell.return_sequences else _last, out)


def _plain(cell: Any, kind: str) -> None:
    """Refuse what torch's cells cannot be."""
    inner = getattr(cell.activation, "__name__", "")
    gate = getattr(getattr(cell, "recurrent_activation", None), "__name__", "sigmoid")
    odd = inner != "tanh" and not (kind == "SimpleRNN" and inner == "relu")
    if odd or gate != "sigmoid":
        raise UnknownLayerError(f"{kind} with activation {inner} and {gate}")
    if cell.recurrent_dropout:
        raise UnknownLayerError(f"{kind} with recurrent_dropout")
    if kind == "GRU" and not cell.reset_after:
        raise UnknownLayerError("GRU with reset_after=False")
    if kind not in {"LSTM", "GRU", "SimpleRNN"}:
        raise UnknownLayerError(kind)


def _made(cells: list[Any], kind: str) -> nn.Module:
    inputs, units = cells[0].cell.kernel.shape[0], cells[0].units
    bias = cells[0].use_bias
    both = len(cells) == 2
    if kind == "SimpleRNN":
        shape = cells[0].activation.__name__
        made: Any = nn.RNN(inputs, units, nonlinearity=shape, bias=bias, batch_first=True, bidirectional=both)
    else:
        made = (nn.LSTM if kind == "LSTM" else nn.GRU)(inputs, units, bias=bias, batch_first=True, bidirectional=both)
    for layer, end in zip(cells, ("_l0", "_l0_reverse"), strict=False):
        cell = layer.cell
        put(getattr(made, f"weight_ih{end}"), cell.kernel, lambda value: _gates(value, kind))
        put(getattr(made, f"weight_hh{end}"), cell.recurrent_kernel, lambda value: _gates(value, kind))
        if not bias:
            continue
        given, second = getattr(made, f"bias_ih{end}"), getattr(made, f"bias_hh{end}")
        if kind == "GRU":
            put(given, cell.bias, lambda value: _gates(value[0], kind))
            put(second, cell.bias, lambda value: _gates(value[1], kind))
        else:  # Keras has one bias
            put(given, cell.bias)
            second.data = torch.zeros_like(second)
            second.requires_grad_(requires_grad=False)
    made.flatten_parameters()
    return made  # type: ignore[no-any-return]


def _gates(value: Tensor, kind: str) -> Tensor:
    """Turn a kernel (in, gates·units) over, and bring GRU's gates from (z, r, h) to torch's (r, z, n)."""
    value = value.t() if value.dim() == 2 else value
    if kind != "GRU":
        return value
    update, reset, new = value.chunk(3, 0)
    return torch.cat([reset, update, new], 0)


def _sequence(out: tuple[Tensor, Any]) -> Tensor:
    return out[0]


def _last(out: tuple[Tensor, Any]) -> Tensor:
    state = out[1][0] if isinstance(out[1], tuple) else out[1]  # (directions, rows, units)
    return state[0] if len(state) == 1 else torch.cat([state[0], state[1]], -1)


def attention(to: Builder, layer: Any, name: str, args: tuple[Any, ...], call: dict[str, Any]) -> Ref:
    """Translate MultiHeadAttention over one axis."""
    known = {"query", "value", "key", "use_causal_mask", "training"}
    extra = [key for key, value in call.items() if key not in known and value is not None and value is not False]
    given = list(args)
    given += [call[key] for key in ("query", "value", "key")[len(given) :] if isinstance(call.get(key), Ref)]
    if extra or len(given) not in {2, 3}:
        raise UnknownLayerError(f"MultiHeadAttention called with {', '.join(extra) or 'other arguments'}")
    query, key, value, out = layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense
    if query.kernel.shape[1:] and (len(query.kernel.shape) != 3 or len(out.kernel.shape) != 3):
        raise UnknownLayerError("MultiHeadAttention over several axes")
    if getattr(layer, "_use_gate", False) or getattr(layer, "_sliding_window", None):
        raise UnknownLayerError("MultiHeadAttention with a gate or a window")

    def make() -> nn.Module:
        bias = query.bias is not None
        parts = {"query": query, "key": key, "value": value}
        widths = {part: (dense.kernel.shape[0], _size(dense.kernel.shape[1:])) for part, dense in parts.items()}
        widths["attention_output"] = (_size(out.kernel.shape[:2]), out.kernel.shape[2])
        made = MultiHeadAttention(query.kernel.shape[1], layer.dropout, widths, bias=bias)
        for part, dense in {**parts, "attention_output": out}.items():
            linear: Any = made.get_submodule(part)
            inputs = widths[part][0]
            put(linear.weight, dense.kernel, partial(_rows_out, inputs=inputs))
            if bias:
                put(linear.bias, dense.bias, torch.flatten)
        return made

    more = {"causal": True} if call.get("use_causal_mask") else {}
    return to.module(name, make, *given, **more)


def _rows_out(kernel: Tensor, inputs: int) -> Tensor:
    """Return a kernel (inputs …, outputs …) as torch's (outputs, inputs)."""
    return kernel.reshape(inputs, -1).t()


def _size(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= int(size)
    return total


SEQUENCES: dict[str, Any] = {
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "Bidirectional"), recurrent),
    "MultiHeadAttention": attention,
}
