"""What the gates of an LSTM, GRU or RNN cell make of a dropped input: predicted by quadrature, and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nndiag.lab.dropout.closed import in_rows, scattered
from nndiag.lab.dropout.ops import CHANNEL, ELEMENT, LOCKED, ROW, recurrent_rate
from nndiag.science.activation_moments import Activation
from nndiag.science.rescale import spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.lab.dropout.graph import Step
    from nndiag.lab.dropout.measure import Gauge

STATES, MASKS, OPERATIONS = 100, 32, 2e9  # time steps of samples looked at, with so many masks; fewer of wide cells
SUMS = 2000  # integrated per gate
# Behind W_ih x + b_ih and W_hh h + b_hh, in torch's order of rows. A GRU's candidate takes r * (W_hn h + b_hn).
_GATES = {
    "lstm": (("i", "sigmoid"), ("f", "sigmoid"), ("g", "tanh"), ("o", "sigmoid")),
    "gru": (("r", "sigmoid"), ("z", "sigmoid"), ("n", "tanh")),
    "rnn_tanh": (("h", "tanh"),),
    "rnn_relu": (("h", "relu"),),
}
_FUNCTIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True)
class Gate:
    """Mean and spread of one gate over units, samples and time: dropout off, predicted on, drawn on."""

    name: str
    off: float
    predicted: float
    drawn: float
    error: float  # of `drawn`
    rms: float  # in eval
    spread_predicted: float  # standard deviation that the masks give one unit, root mean square over all
    spread_drawn: float


def gates_at(step: Step, x: Tensor, args: Any, *, p: float, unit: str) -> tuple[Gate, ...] | str:
    """Follow a dropped input into the gates, the hidden state held at what eval has there.

    Args:
        step: The call of the cells, one layer.
        x: What the dropout hands it in eval, (samples, time, features) or, not batch first, (time, samples, features).
        args: Arguments of the call.
        p: Drop probability.
        unit: What one mask element drops together.

    Returns:
        The gates of the forward direction, or in words why there is no prediction.
    """
    at = recurrent_rate(args)
    if unit not in {ELEMENT, LOCKED}:
        return f"one mask element drops a whole {unit}"
    if step.op not in _GATES or not at or p >= 1:
        return "cells called one at a time: the states they meet are not kept" if p < 1 else "p = 1 passes nothing on"
    hidden, weights, biases, layers, _, _, both, *first = args[at - 4 :]
    if not first or x.dim() != 3:
        return "a packed sequence: which state meets which input is not kept"
    if layers > 1 or len(weights) != (4 if biases else 2) * (2 if both else 1):
        return "several layers in one call: the states between are not seen" if layers > 1 else "projected states"
    state = hidden[0] if isinstance(hidden, tuple | list) else hidden
    out = getattr(torch, step.op)(*args)[0]
    if not first[0]:
        x, out = x.transpose(0, 1), out.transpose(0, 1)
    width = state.shape[-1]
    before = torch.cat([state[0][:, None].to(out.dtype), out[:, :-1, :width]], 1)  # (samples, time, units)
    states_seen = max(8, min(STATES, int(OPERATIONS / (2 * MASKS * weights[0].numel()))))
    some = scattered(x.shape[0] * x.shape[1], states_seen, x.device)
    inputs, states = (part.detach().double().flatten(0, 1)[some] for part in (x, before))
    into, back = weights[0].detach().double(), weights[1].detach().double()
    own = states @ back.T + (weights[3].detach().double() if biases else 0)
    start = weights[2].detach().double() if biases else into.new_zeros(len(into))
    return _gates(_GATES[step.op], inputs, into, start, own, p)


def gate_reader(gauge: Gauge, step: Step) -> Callable[[Tensor, Any, Any], None]:
    """Reads the call of the cells behind a site while every dropout is off."""
    site = gauge.site

    def read(tensor: Tensor, args: Any, _kwargs: Any) -> None:
        gauge.unit = ROW if site.seen.dial.unit == CHANNEL and in_rows(gauge.fed, tensor) else site.seen.dial.unit
        gauge.gates = gates_at(step, tensor, args, p=site.p, unit=gauge.unit)

    return read


def _gates(  # noqa: PLR0913, PLR0917 - the terms of one cell
    kinds: tuple[tuple[str, str], ...], x: Tensor, into: Tensor, start: Tensor, own: Tensor, p: float
) -> tuple[Gate, ...]:
    """Quadrature beside masks."""
    generator = torch.Generator(x.device).manual_seed(0)
    drawn = [x * (torch.rand(x.shape, generator=generator, device=x.device) >= p) / (1 - p) for _ in range(MASKS)]
    parts = len(kinds)

    def cut(tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.chunk(parts, -1)

    def values(pre: tuple[Tensor, ...], rest: tuple[Tensor, ...]) -> list[Tensor]:
        made: list[Tensor] = []
        for (name, kind), a, b in zip(kinds, pre, rest, strict=True):
            made.append(_FUNCTIONS[kind](a + (made[0] * b if name == "n" else b)))
        return made

    rest = cut(own)
    still = cut(x @ into.T + start)
    wide = cut(spread((x * x) @ (into * into).T, p))
    off = values(still, rest)
    on = [torch.stack(runs) for runs in zip(*(values(cut(item @ into.T + start), rest) for item in drawn), strict=True)]
    found = []
    for n, (name, kind) in enumerate(kinds):
        centre = still[n] + (off[0] * rest[n] if name == "n" else rest[n])
        form, few = Activation(kind, _FUNCTIONS[kind]), scattered(centre.numel(), SUMS, x.device)
        centre, width = centre.flatten()[few], wide[n].flatten()[few]
        level = form.f(centre)
        if name == "n":
            both = ((x * x) @ (cut(into.T)[0] * cut(into.T)[n])) * p / (1 - p)  # (states, units)
            reset = tuple(part.flatten()[few] for part in (still[0] + rest[0], wide[0], both))
            centre, width = _candidate(still[n].flatten()[few], width, rest[n].flatten()[few], *reset)
        mean, second = form.mean(centre, width), form.second(centre, width)
        shift = float((mean - level).mean())
        means = on[n].mean((1, 2))
        found.append(
            Gate(
                name, float(off[n].mean()), float(off[n].mean()) + shift, float(means.mean()),
                float(means.std() / len(means) ** 0.5), float(off[n].square().mean().sqrt()),
                float((second - mean * mean).clamp_min(0).mean().sqrt()), float(on[n].var(0).mean().sqrt()),
            )
        )  # fmt: skip
    return tuple(found)


def _candidate(  # noqa: PLR0913, PLR0917 - two joint Gaussians and a factor
    mean: Tensor, width: Tensor, factor: Tensor, reset_mean: Tensor, reset_width: Tensor, both: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a + sigmoid(u) b under a GRU's tanh, a and u jointly Gaussian under one mask.

    Cov(a, sigmoid(u)) = E[sigmoid'(u)] Cov(a, u) by Stein's lemma.
    """
    gate = Activation("sigmoid", torch.sigmoid)
    slope = Activation("slope of sigmoid", lambda u: torch.sigmoid(u) * torch.sigmoid(-u))
    opened = gate.mean(reset_mean, reset_width)
    play = gate.second(reset_mean, reset_width) - opened * opened
    joint = 2 * factor * slope.mean(reset_mean, reset_width) * both
    return mean + opened * factor, (width * width + factor * factor * play + joint).clamp_min(0).sqrt()
