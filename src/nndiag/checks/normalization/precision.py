"""Do the numbers fit into the dtype they are stored and computed in?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.findings import Evidence, Judged, Measurement, Severity
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.core.findings import Observation
    from nndiag.science.moments_profile import Profile

HALF_MAX = 65504.0
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


def examine_precision(profile: Profile, model_dtype: str = "") -> Iterator[Observation]:
    """NRM013: values that overflow in half precision. Magnitude alone costs no relative precision in a float."""
    moments = profile.moments
    if not moments.count.sum():
        return
    largest = float(max(abs(moments.low.min()), abs(moments.high.max())))
    half_data, half_model = profile.dtype == "float16", model_dtype == "float16"
    dtype = model_dtype or profile.dtype
    if dtype in EPS:
        offset = float((abs(moments.mean) / (moments.sd + 1e-300))[moments.sd > 0].max(initial=0.0))
        yield Measurement("digits_lost_to_offset", offset * EPS[dtype], "sd", dtype)
    yield Judged("NRM013")
    if not (half_data or half_model):
        return
    infinite = half_data and moments.nonfinite.any() and largest > HALF_MAX / 4
    if (half_model and largest > HALF_MAX) or infinite:
        yield found(
            "NRM013",
            f"inputs reach {largest:.6g}"
            + (
                " and the rest became infinite in float16"
                if infinite
                else f": above float16's largest number {HALF_MAX:g}"
            ),
            evidence=Evidence(largest, "", threshold=HALF_MAX, n={"rows": profile.rows}),
            means="they are infinite before the first layer, and the loss is NaN",
            fix="scale the inputs in float32 before casting, or use bfloat16 (x.to(torch.bfloat16))",
        )
    elif largest**2 > HALF_MAX:
        yield found(
            "NRM013",
            f"inputs reach {largest:.6g} in float16: their square {largest**2:.4g} exceeds {HALF_MAX:g}",
            evidence=Evidence(largest**2, "", threshold=HALF_MAX, n={"rows": profile.rows}, detail="largest square"),
            means="any variance, norm or squared loss taken in float16 is infinite",
            fix="scale the inputs in float32 before casting, or use bfloat16 (x.to(torch.bfloat16))",
            severity=Severity.WARNING,
        )


def overflowing_forward(bench: Bench) -> Iterator[Observation]:
    """NRM013 inside the model: a float16 layer that overflows where float32 does not."""
    if bench.dtype != "float16":
        return
    from nndiag.core.errors import NndiagError
    from nndiag.lab.firstlayer_units import first_overflow

    try:
        place = first_overflow(bench.make(training=False), bench.batch)
        twin = first_overflow(bench.make(training=False).float(), bench.batch)
    except NndiagError:
        return
    yield Judged("NRM013")
    if place is None or twin is not None:
        return
    yield found(
        "NRM013",
        f"'{place.module}' overflows in float16 on finite inputs; in float32 it does not",
        where=place,
        evidence=Evidence(threshold=HALF_MAX, detail="first module whose output is not finite"),
        means="everything behind it is infinite or NaN",
        fix="scale the inputs, keep this layer in float32 (torch.autocast does), or use bfloat16",
    )
