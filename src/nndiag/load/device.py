"""Resolves --device, importing torch only when the command needs it."""

from __future__ import annotations

from nndiag.core.errors import UsageError


def resolve_device(name: str, *, uses_torch: bool) -> str:
    """Return a device that exists here.

    Raises:
        UsageError: The device is unknown or absent; the hint lists those available.
    """
    word = name.strip().lower()
    if word == "cpu" or (word == "auto" and not uses_torch):
        return "cpu"
    import torch

    available = ["cpu"]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        available += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    if word == "auto":
        return accelerator.type if accelerator is not None else "cpu"
    hint = f"available here: {', '.join(available)}"
    try:
        device = torch.device(word)
    except RuntimeError as unknown:
        raise UsageError(f"unknown device '{name}'", hint=hint) from unknown
    if device.type not in {item.split(":")[0] for item in available} or (
        device.index is not None and str(device) not in available
    ):
        raise UsageError(f"there is no device '{name}' here", hint=hint)
    return str(device)
