"""A stacked LSTM, GRU or RNN run layer by layer, so that the dropout between its layers is a step like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from nndiag.lab.dropout.ops import RECURRENT, recurrent_rate

if TYPE_CHECKING:
    from collections.abc import Callable


def stacked(op: str, args: tuple[Any, ...]) -> bool:
    """Whether a call runs several layers with dropout between them."""
    at = recurrent_rate(args) if op in RECURRENT and len(args) >= 8 else 0
    return at > 3 and args[at - 1] > 1 and args[at] > 0 and len(args[at - 3]) % args[at - 1] == 0


def layer_by_layer(func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Do what torch does in one call: each layer reads the whole output of the one before, thinned element by element.

    Args:
        func: torch.lstm, gru, rnn_tanh or rnn_relu.
        args: (input, hidden, weights, has_biases, num_layers, p, train, bidirectional, batch_first), or, of a packed
            sequence, (data, batch_sizes, hidden, …) without the last.

    Returns:
        Output and hidden states, as the one call gives them.
    """
    at = recurrent_rate(args)
    x, sizes = args[0], args[1 : at - 4]
    hidden, weights, biases, layers, p, train, *rest = args[at - 4 :]
    both = 2 if rest[0] else 1
    each = len(weights) // layers
    states = hidden if isinstance(hidden, tuple | list) else (hidden,)
    ends: list[tuple[Any, ...]] = []
    for layer in range(layers):
        own = tuple(state[layer * both : (layer + 1) * both] for state in states)
        given = own if isinstance(hidden, tuple | list) else own[0]
        part = list(weights[layer * each : (layer + 1) * each])
        x, *end = func(x, *sizes, given, part, biases, 1, 0.0, train, *rest)
        ends.append(tuple(end))
        if layer + 1 < layers:
            x = functional.dropout(x, p, train)
    return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))
