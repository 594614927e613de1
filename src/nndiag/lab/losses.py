"""The losses that can be asked for by name, over whatever a model returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from nndiag.core.errors import NndiagError
from nndiag.lab.forward import main_output

if TYPE_CHECKING:
    from collections.abc import Callable


def fit_regression(main: Tensor, targets: Tensor) -> Tensor | None:
    """Return the targets in the outputs' shape, or None where they do not fit.

    Axes of length one may differ: (N,) against (N, 1) is meant element by element, and would silently broadcast
    to (N, N) in torch's own losses.
    """
    if [size for size in main.shape if size != 1] != [size for size in targets.shape if size != 1]:
        return None
    return targets.reshape(main.shape).to(main.dtype)


def token_cross_entropy(
    main: Tensor, targets: Tensor, axis: int, *, shifted: bool = False, probabilities: bool = False
) -> Tensor:
    """Return the mean cross entropy with the classes on any axis; -100 is ignored, as torch does.

    Args:
        main: Logits, or probabilities when so said.
        targets: Class ids in the shape of `main` without `axis`.
        axis: Which axis counts the classes.
        shifted: Compare position t with the target at t + 1 (axis 1 is time).
        probabilities: The model has already applied a softmax.
    """
    scores = main.movedim(axis, -1)  # (..., classes)
    targets = targets.reshape(scores.shape[:-1]).long()
    if shifted:
        scores, targets = scores[:, :-1], targets[:, 1:]
    scores, aims = scores.reshape(-1, scores.shape[-1]), targets.reshape(-1)
    if probabilities:
        tiny = torch.finfo(scores.dtype).tiny
        return functional.nll_loss(scores.clamp_min(tiny).log(), aims)
    return functional.cross_entropy(scores, aims)


def cross_entropy(output: Any, targets: Any) -> Tensor:
    """Return torch's cross entropy for class ids on axis 1 or last, or for rows of probabilities."""
    main = main_output(output)
    if targets.is_floating_point() and targets.shape == main.shape:
        return functional.cross_entropy(main, targets.to(main.dtype))
    for axis in (1, main.dim() - 1):
        if main.shape[:axis] + main.shape[axis + 1 :] == targets.shape:
            return token_cross_entropy(main, targets, axis)
    if targets.dim() == main.dim() and targets.shape[-1] == 1:
        return cross_entropy(output, targets[..., 0])
    raise _misfit("cross_entropy", main, targets, "class ids of shape (N,) or rows of probabilities")


def bce(output: Any, targets: Any) -> Tensor:
    """Return binary cross entropy on logits, mean over elements."""
    main = main_output(output)
    aims = fit_regression(main, targets)
    if aims is None:
        raise _misfit("bce", main, targets, "as many 0/1 targets as outputs")
    return functional.binary_cross_entropy_with_logits(main, aims)


def _elementwise(name: str, fn: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    def loss(output: Any, targets: Any) -> Tensor:
        main = main_output(output)
        aims = fit_regression(main, targets)
        if aims is None:
            raise _misfit(name, main, targets, "as many targets as outputs")
        return fn(main, aims)

    return loss


def nll(output: Any, targets: Any) -> Tensor:
    """Return the negative log-likelihood of log-probabilities."""
    return functional.nll_loss(main_output(output), targets.long())


def _misfit(name: str, main: Tensor, targets: Tensor, wanted: str) -> NndiagError:
    return NndiagError(
        f"{name} does not fit outputs {tuple(main.shape)} and targets {tuple(targets.shape)} of {targets.dtype}",
        hint=f"it wants {wanted}; or give --loss file.py:fn",
    )


LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "mse": _elementwise("mse", functional.mse_loss),
    "l1": _elementwise("l1", functional.l1_loss),
    "smooth_l1": _elementwise("smooth_l1", functional.smooth_l1_loss),
    "huber": _elementwise("huber", functional.huber_loss),
    "nll": nll,
}
