"""Global batch = devices × per-device batch × accumulation: what is missing is deduced, what disagrees is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nndiag.core.errors import UsageError


def resolve_batches(values: Mapping[str, Any], deduced: dict[str, str]) -> dict[str, Any]:
    """Return devices, per_device_batch, accumulation, global_batch and base_batch as far as they follow.

    Args:
        values: What was said under these names.
        deduced: Receives how each deduced one was concluded.

    Raises:
        UsageError: Four values that contradict each other, or a quotient that is not whole.
    """
    devices, per, steps, total = (
        values.get(key) for key in ("devices", "per_device_batch", "accumulation", "global_batch")
    )
    weak = {key for key in ("per_device_batch",) if key in deduced}  # a framework's default yields to arithmetic
    if total is not None and devices is not None and "per_device_batch" in weak:
        per = None
        deduced.pop("per_device_batch")
    if devices is not None and per is not None and total is not None:
        steps = _accumulation(devices, per, steps, total, deduced)
    elif total is not None and per is not None:
        devices = _whole(total, per * (steps or 1), "gpus", "global-batch / (per-device-batch × accumulation)")
        deduced["devices"] = "global batch / (per-device batch × accumulation)"
    elif total is not None and devices is not None:
        per = total / (devices * (steps or 1))
        deduced["per_device_batch"] = "global batch / (devices × accumulation)"
    elif devices is not None and per is not None:
        total = devices * per * (steps or 1)
        deduced["global_batch"] = "devices × per-device batch × accumulation"
    steps = steps or 1
    base = values.get("base_batch")
    if base is None:
        base = _base(values, weak, per, steps, total, deduced)
    return {
        "devices": devices,
        "per_device_batch": per,
        "accumulation": steps,
        "global_batch": total,
        "base_batch": base,
    }


def _accumulation(devices: int, per: float, steps: int | None, total: float, deduced: dict[str, str]) -> int:
    if steps is None:
        deduced["accumulation"] = "global batch / (devices × per-device batch)"
        return _whole(total, devices * per, "accumulation", "global-batch / (gpus × per-device-batch)")
    product = devices * per * steps
    if abs(product - total) > 1e-9 * product:
        raise UsageError(
            f"global-batch {total:g} is not gpus {devices} × per-device-batch {per:g} × accumulation {steps}"
            f" = {product:g}",
            hint="which of the four is wrong? leave it out and it is deduced from the others",
        )
    return steps


def _whole(total: float, part: float, name: str, how: str) -> int:
    quotient = total / part
    if abs(quotient - round(quotient)) > 1e-9 or round(quotient) < 1:
        raise UsageError(
            f"global-batch {total:g} gives {name} = {quotient:g}, which is not whole ({how})",
            hint="which of these is wrong: global-batch, gpus, per-device-batch or accumulation?",
        )
    return round(quotient)


def _base(  # noqa: PLR0913, PLR0917 - what is known, and where it came from
    values: Mapping[str, Any],
    weak: set[str],
    per: float | None,
    steps: int,
    total: float | None,
    deduced: dict[str, str],
) -> float | None:
    """Conclude the batch of the recipe on one device from which batch was written down.

    A per-device batch stays as it is on every device, so the same script alone has per-device × accumulation. A total
    that is split over the devices stays the total.
    """
    written_per = "per_device_batch" in values and "per_device_batch" not in weak
    if total is not None and "global_batch" in values and not written_per:
        deduced["base_batch"] = "the global batch was written down, so it is split and one device has it whole"
        return total
    if per is not None:
        deduced["base_batch"] = "the per-device batch was written down, so one device alone has as much"
        return per * steps
    return None
