"""Did the owner of these batch-norm statistics see inputs prepared as they are here?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Evidence, Judged, Measurement, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding
    from nndiag.core.subject import Batch
    from nndiag.lab.batchnorm import Remembered

APART = 0.5  # nats: preprocessing disagrees
TOLD = 0.1  # share of the KL that may be left when the right transform is undone


def examine_preprocessing(bench: Bench, view: View, known: list[Remembered]) -> Any:
    """NRM104: the transform of these inputs under which the first batch norm recognises its training data."""
    from nndiag.lab.batchnorm import first_fit

    first = known[0]
    if first.as_built or first.start_left > 0.05 or bench.first is None or bench.first.kind == "embedding":
        yield Skip("NRM104", "no batch norm near the inputs that was trained long enough")
        return False
    own = first_fit(bench.make(), bench.batch, lambda batch: batch)
    if own is None:
        yield Skip("NRM104", "no batch norm sees the inputs in eval mode")
        return False
    yield Judged("NRM104")
    yield Measurement("first_batchnorm_kl", own[1], "nats", own[0])
    if own[1] < APART:
        return False
    best = min(_tried(bench, view, own), key=lambda item: item[1])
    if best[1] > min(TOLD * own[1], APART):
        return False
    yield _disagrees(bench, own, best, first)
    return True


def _tried(bench: Bench, view: View, own: tuple[str, float]) -> Iterator[tuple[str, float]]:
    """Named transforms of the inputs with the KL that each leaves, the common ones first."""
    from nndiag.lab.batchnorm import first_fit
    from nndiag.lab.firstlayer import with_input

    yield ("", own[1])
    for name, change in _transforms(view):
        fit = first_fit(bench.make(), bench.batch, _on_input(change, with_input))
        if fit is not None and fit[0] == own[0]:
            yield (name, fit[1])


def _on_input(change: Callable[[Any], Any], with_input: Callable[..., Batch]) -> Callable[[Batch], Batch]:
    return lambda batch: with_input(batch, lambda item: change(item if item.is_floating_point() else item.float()))


def _transforms(view: View) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Maps from these inputs to what training may have fed."""
    import torch

    from nndiag.checks.normalization.bench import standardiser
    from nndiag.science.preprocessing import RAW, UNIT, normalisers

    yield "divided by 255", lambda x: x / 255
    yield "multiplied by 255", lambda x: x * 255
    yield "mapped to [-1, 1] (2x - 1)", lambda x: 2 * x - 1
    yield "mapped to [0, 1] ((x + 1) / 2)", lambda x: (x + 1) / 2
    yield "mapped to [-1, 1] (x / 127.5 - 1)", lambda x: x / 127.5 - 1
    yield "standardised with their own mean and sd", standardiser(view.profile)
    profile = view.profile
    if profile.layout.kind == "images" and profile.features == 3:
        axis = profile.layout.axis
        yield "with reversed channels (B, G, R)", lambda x: x.flip(axis if axis is not None else 1)
    if profile.layout.kind == "images" and profile.features in {1, 3} and profile.moments.low.min() >= 0:
        top = float(profile.moments.high.max())
        here = RAW if top > 1.5 else UNIT
        shape = [1] * (len(profile.shape) + 1)
        if profile.layout.axis is not None:
            shape[profile.layout.axis] = profile.features
        for one in normalisers(profile.features):
            if one in {RAW, UNIT} or one.twice:
                continue
            slope = torch.as_tensor(one.slope(profile.features) / here.slope(profile.features)).reshape(shape)
            offset = torch.as_tensor(one.offset(profile.features)).reshape(shape)
            yield f"with {one.name}", _affine(slope, offset)
    for k in range(-24, 25):
        factor = 10 ** (k / 6)
        if abs(k) > 3:  # smaller factors are what another domain looks like
            yield f"multiplied by about {factor:.2g}", _affine(factor, 0.0)


def _affine(slope: Any, offset: Any) -> Callable[[Any], Any]:
    return lambda x: (x.double() * slope + offset).to(x.dtype)


def _disagrees(bench: Bench, own: tuple[str, float], best: tuple[str, float], first: Remembered) -> Finding:
    """NRM104."""
    return found(
        "NRM104",
        f"the checkpoint was trained on inputs {best[0]}: its first batch norm '{own[0]}' is {own[1]:.3g} nats off the "
        f"data as they are, {best[1]:.2g} after that",
        where=first.where,
        evidence=Evidence(
            own[1],
            "nats",
            threshold=APART,
            n={"samples": min(bench.rows, 128), "channels": len(first.mean)},
            seed=bench.subject.run.seed,
            detail="median KL over channels of the data from the remembered statistics",
        ),
        means="the model remembers another preparation of its inputs than the one it is fed here",
        fix=f"feed it the same data {best[0]}",
    )
