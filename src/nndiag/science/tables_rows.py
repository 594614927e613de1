"""How far a row moves when it is seen once, rarely or never.

Dense Adam keeps moving a row on the tail of its momentum after the row was seen; SparseAdam moves it once.
AdamW shrinks rows that are never seen. Everything is in units of the learning rate and ignores eps, which is
right for gradients well above it.
"""

from __future__ import annotations

import math

BETAS = (0.9, 0.999)


def adam_once_seen_move(step: int, betas: tuple[float, float] = BETAS, *, tail: int = 20_000) -> float:
    """Total move of a row whose only gradient arrives at `step`, under dense Adam, in learning rates.

    The moments decay as m = (1 - b1) b1^k g, v = (1 - b2) b2^k g^2 while the bias correction follows the global
    step, so the row keeps moving: Kingma & Ba 2015, algorithm 1, iterated with one non-zero gradient.

    Args:
        step: Steps taken before the row is seen, 0 for the first.
        betas: Adam's decay rates.
        tail: Steps to follow afterwards; the terms fall as (b1 / sqrt(b2))^k.

    Returns:
        Move in learning rates: 6.0 at the first step, 31.8 late in training.
    """
    beta1, beta2 = betas
    total = 0.0
    for k in range(tail):
        t = step + 1 + k
        first = (1 - beta1) * beta1**k / (1 - beta1**t)
        if first < 1e-17:  # the rest no longer shows in a double
            break
        second = (1 - beta2) * beta2**k / (1 - beta2**t)
        total += first / math.sqrt(second)
    return total


def adam_late_move(betas: tuple[float, float] = BETAS) -> float:
    """Limit of `adam_once_seen_move` late in training: (1 - b1) / (sqrt(1 - b2) (1 - b1 / sqrt(b2))).

    Example:
        >>> round(adam_late_move(), 2)
        31.77
    """
    beta1, beta2 = betas
    return (1 - beta1) / (math.sqrt(1 - beta2) * (1 - beta1 / math.sqrt(beta2)))


def sparse_adam_once_seen_move(step: int, betas: tuple[float, float] = BETAS) -> float:
    """Move of a row whose only gradient arrives at `step`, under SparseAdam, in learning rates.

    The row moves at that step alone; its moments start at zero while the bias correction follows the global step.

    Example:
        >>> [round(sparse_adam_once_seen_move(step), 2) for step in (0, 1000, 100_000)]
        [1.0, 2.52, 3.16]
    """
    beta1, beta2 = betas
    t = step + 1
    return sparse_adam_late_move(betas) * math.sqrt(1 - beta2**t) / (1 - beta1**t)


def sparse_adam_late_move(betas: tuple[float, float] = BETAS) -> float:
    """Move of a row under SparseAdam at an isolated touch late in training: (1 - b1) / sqrt(1 - b2).

    Example:
        >>> round(sparse_adam_late_move(), 2)
        3.16
    """
    beta1, beta2 = betas
    return (1 - beta1) / math.sqrt(1 - beta2)


def unseen_shrinkage(lr: float, weight_decay: float, steps: int) -> float:
    """Factor by which decoupled weight decay shrinks a row that is never seen: (1 - lr wd)^steps.

    Source: Loshchilov & Hutter 2019, algorithm 2.

    Example:
        >>> round(unseen_shrinkage(1e-3, 0.1, 10_000), 4)
        0.3679
    """
    return math.exp(steps * math.log1p(-lr * weight_decay)) if lr * weight_decay < 1 else 0.0
