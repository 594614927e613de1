"""From options to a Subject: the one call into load that the model commands share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nndiag.cli.options import Trained
from nndiag.core.errors import UsageError
from nndiag.core.subject import Run, Subject


def model_subject(  # noqa: PLR0913 - the parts of a subject, all by name
    run: Run,
    trained: Trained,
    *,
    model: str | None,
    data: str | None = None,
    serve: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    need_data: bool = True,
) -> Subject:
    """Load what the user points at."""
    from nndiag.load.subject import load_subject

    return load_subject(
        model,
        data,
        model_args=trained.model_arg,
        weights=trained.weights,
        serve=serve,
        loss=trained.loss,
        optimizer=trained.optimizer,
        optimizer_args=trained.optimizer_arg,
        lr=trained.lr,
        batch_size=trained.batch_size,
        steps=trained.steps,
        run=run,
        inputs=inputs or {},
        need_data=need_data,
        target_column=trained.target,
    )


def required(value: str | None, what: str, example: str) -> str:
    """Return the argument, or say how to give it: on the command line or as a key of nndiag.toml."""
    if not value:
        raise UsageError(f"missing {what}", hint=f"{example}, or {what.lower()} = … in nndiag.toml")
    return value
