"""Which transform should be inserted, as code?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nndiag.science.moments import Array
    from nndiag.science.moments_profile import Profile

SHOWN = 6  # constants spelled out


def range_name(profile: Profile) -> str:
    """What the range of these numbers is known for, or nothing."""
    import numpy as np

    moments = profile.moments
    low, high = float(moments.low.min()), float(moments.high.max())
    sample = profile.finite_sample.reshape(-1)[:200_000]
    whole = len(sample) > 0 and bool((sample == np.round(sample)).all())
    pixels = profile.layout.kind == "images" or profile.features >= 16
    if profile.dtype == "uint8" or (
        pixels and whole and low >= 0 and 128 <= high <= 255 and len(np.unique(sample)) > 16
    ):
        return "0-255 pixel values"
    if profile.dtype == "int16" or (whole and low < -1000 and low >= -32768 and high <= 32767):
        return "16-bit audio" if low < -1000 and high > 1000 else "16-bit integers"
    if profile.dtype == "uint16" and high > 255:
        return "16-bit pixel values"
    levels = sample * 255.0 * 255.0
    if low >= 0 and 0.5 / 255 < high <= 1.001 / 255 and len(sample) and np.abs(levels - levels.round()).max() < 0.02:
        return "pixels divided by 255 twice"
    return ""


def cure_for(profile: Profile) -> str:
    """Return the transform to insert, constants included, for torch and Keras."""
    called = range_name(profile)
    if called == "0-255 pixel values":
        mean, sd = profile.moments.mean / 255.0, profile.moments.sd / 255.0
        spelled = _constants(mean, sd) if profile.layout.kind == "images" else ""
        then = f", then (x - mean) / sd with {spelled}" if spelled else ""
        return f"divide by 255 (torch: x = x.float() / 255{then}; Keras: layers.Rescaling(1/255)), in serving too"
    if called == "pixels divided by 255 twice":
        return "remove one of the two divisions by 255 (ToTensor and Rescaling(1/255) divide already)"
    if called == "16-bit audio":
        return "divide by 32768 (torch: x = x.float() / 32768; Keras: layers.Rescaling(1/32768)), in serving too"
    return standardise_code(profile)


def brief_cure(profile: Profile) -> str:
    """The transform in a few words, where its code is said elsewhere."""
    named = {
        "0-255 pixel values": "divide by 255",
        "pixels divided by 255 twice": "remove one of the two divisions by 255",
        "16-bit audio": "divide by 32768",
    }
    return named.get(range_name(profile), "standardise the inputs")


def standardise_code(profile: Profile) -> str:
    """Return code that standardises with the constants of this training set."""
    spelled = _constants(profile.moments.mean, profile.moments.sd)
    if not spelled:
        return (
            "standardise each feature with the mean and sd of the training rows (torch: x = (x - mean) / sd, kept as "
            "buffers; Keras: layers.Normalization(axis=-1) and adapt(train); sklearn: StandardScaler fitted on the "
            "training rows only), and use the same constants in serving"
        )
    axis = profile.layout.axis if profile.layout.axis is not None else -1
    shape = ""
    if profile.layout.kind == "images" and axis == 1 and profile.features > 1:
        shape = f".view(-1{', 1' * (len(profile.shape) - 1)})"
    code = spelled.replace("mean = ", "mean = torch.tensor(").replace(", sd = ", f"){shape}, sd = torch.tensor(")
    return (
        f"standardise with the training constants {spelled} "
        f"(torch: {code}){shape}, x = (x - mean) / sd; Keras: layers.Normalization(axis={axis}, mean=mean, "
        "variance=sd**2)), and use the same constants in serving"
    )


def _constants(mean: Array, sd: Array) -> str:
    """Mean = [..], sd = [..], or nothing when there are too many to read."""
    if len(mean) > SHOWN:
        return ""
    safe = [value if value > 0 else 1.0 for value in sd]
    return f"mean = [{_list(mean)}], sd = [{_list(safe)}]"


def _list(values: Array | list[float]) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values)
