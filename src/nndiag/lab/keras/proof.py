"""Does the translation of a Keras model compute what Keras computes?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import tensors_in
from nndiag.lab.keras.inputs import ROWS
from nndiag.lab.keras.modules import HardwiredDropout, HardwiredSpatialDropout
from nndiag.lab.keras.outline import has_graph, read_graph, replaced, symbolic_in
from nndiag.lab.watch.blame import said

if TYPE_CHECKING:
    from torch import Tensor

    from nndiag.lab.keras.graph import KerasGraph
    from nndiag.lab.keras.inputs import Request

_TOLERANCE = 1e-4  # of the largest output, in inference mode


def prove(graph: KerasGraph, model: Any, name: str, request: Request | None) -> None:
    """Compare both in inference mode; name the first layer that differs.

    Raises:
        NndiagError: They differ, or one cannot run.
    """
    example = graph.example_inputs
    inputs = [item[:ROWS] for item in (example if isinstance(example, tuple) else (example,))]
    modes = [(module, module.training) for module in graph.modules()]
    stuck = [module for module in graph.modules() if isinstance(module, HardwiredDropout | HardwiredSpatialDropout)]
    rates = [module.p for module in stuck]
    try:
        with torch.no_grad():
            graph.eval()
            for dropout in stuck if has_graph(model) else ():  # training=False overrules them in Keras
                dropout.p = 0.0
            mine = tensors_in(graph.run(inputs)[1])
            theirs, again = (tensors_in(_asked_of_keras(model, inputs, request)) for _ in range(2))
    except NndiagError:
        raise
    except Exception as error:
        raise NndiagError(
            f"{name}: the translated Keras model does not run: {said(error)}", hint="give it as a torch module"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
        for dropout, rate in zip(stuck, rates, strict=True):
            dropout.p = rate
    if not all(torch.equal(*pair) for pair in zip(theirs, again, strict=True)):
        return  # a layer is random in every mode: nothing can be compared
    if len(mine) == len(theirs) and all(_close(*pair) for pair in zip(mine, theirs, strict=True)):
        return
    raise NndiagError(
        f"{name}: the translated Keras model computes something else, {_culprit(graph, model, inputs)}",
        hint="give the same model as a torch module",
    )


def _asked_of_keras(model: Any, inputs: list[Tensor], request: Request | None) -> Any:
    if has_graph(model) or request is None:
        return model(inputs if len(inputs) > 1 else inputs[0], training=False)
    symbols = [id(item) for item in symbolic_in((request.args, dict(request.kwargs)))]
    values = dict(zip(symbols, inputs, strict=True))
    args, kwargs = (
        replaced(part, lambda leaf: values.get(id(leaf), leaf)) for part in (request.args, dict(request.kwargs))
    )
    return model(*args, **kwargs, training=False) if _told(model) else model(*args, **kwargs)


def _told(model: Any) -> bool:
    import inspect

    return "training" in inspect.signature(model.call).parameters


def _close(mine: Tensor, theirs: Tensor) -> bool:
    theirs = theirs.detach().cpu().to(mine.dtype)
    if mine.shape != theirs.shape:
        return False
    if not bool(torch.isfinite(theirs).all()):  # a model that overflows does so in both
        return torch.equal(torch.isfinite(mine), torch.isfinite(theirs))
    return (
        bool((mine - theirs).abs().max() <= _TOLERANCE * max(1.0, float(theirs.abs().max()))) if mine.numel() else True
    )


def _culprit(graph: KerasGraph, model: Any, inputs: list[Tensor]) -> str:
    """Return the first layer whose output is not among the values of the translation."""
    import keras

    if not has_graph(model):
        return "in its own code"
    outline = read_graph(model)
    nodes = [node for node in outline.nodes if len(node.outputs) == 1]
    inner = keras.Model(list(outline.inputs), [node.outputs[0] for node in nodes])
    with torch.no_grad():
        graph.eval()
        values = [item for value in graph.run(inputs)[0].values() for item in tensors_in(value)]
        graph.train()
        theirs = tensors_in(inner(inputs if len(inputs) > 1 else inputs[0], training=False))
    for node, expected in zip(nodes, theirs, strict=True):
        if not any(_close(value.float(), expected.float()) for value in values):
            return f"from '{node.operation.name}' on"
    return "from its inputs on"
