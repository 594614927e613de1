"""Can these numbers belong to a table and a training at all?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.errors import UsageError

if TYPE_CHECKING:
    from nndiag.checks.embedding_cost.check import EmbeddingCost
    from nndiag.core.subject import Subject


def validate(check: EmbeddingCost, subject: Subject) -> None:
    """Refuse numbers that no table and no training has.

    Raises:
        UsageError: With the option and what it wants.
    """
    for word, value in (("--vocab", check.vocab), ("--dim", check.dim), ("--seq-len", check.seq_len)):
        if value is not None and value < 1:
            raise UsageError(f"{word} is {value}, and a table has at least 1", hint=f"give {word} a positive number")
    if check.accumulation < 1:
        raise UsageError(f"--accumulation is {check.accumulation}", hint="count the micro-batches of a step: 1 or more")
    if check.gpus < 1:
        raise UsageError(f"--gpus is {check.gpus}", hint="count the devices that train in parallel: 1 or more")
    if check.clip_grad_norm is not None and check.clip_grad_norm <= 0:
        raise UsageError(f"--clip-grad-norm is {check.clip_grad_norm:g}", hint="give the norm to clip to, above 0")
    if subject.model is None and (check.dim is None or (check.vocab is None and "tokens" not in subject.inputs)):
        missing = "--dim" if check.vocab is not None else "MODEL, or --vocab and --dim"
        raise UsageError(f"missing {missing}", hint="nndiag embedding-cost --vocab 2000000 --dim 64 --optimizer adam")
