"""Did the owner of these batch-norm statistics see inputs prepared as they are here?"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Evidence, Judged, Measurement, Skip, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Subject, WeightSource
    from nndiag.lab.batchnorm import Fit, Remembered
    from nndiag.science.moments_profile import Profile

    Fitting: TypeAlias = Callable[[Callable[[Any], Any]], Fit | None]

APART = 0.5  # nats: preprocessing disagrees
TOLD = 0.1  # share of the KL that may be left when the right transform is undone
SURE = 0.1  # nats left at most where the layer was guessed from names
SETTLED = 20  # updates after which statistics forget their start (momentum 0.1 leaves 12 %)
ROWS = 256  # of the data that weights without a model are held against


def examine_preprocessing(bench: Bench, view: View, known: list[Remembered]) -> Any:
    """NRM104: the transform of these inputs under which the first batch norm recognises its training data."""
    from nndiag.lab.batchnorm import first_fit
    from nndiag.lab.firstlayer import with_input

    first = known[0]
    if first.as_built or first.start_left > 0.05 or bench.first is None or bench.first.kind == "embedding":
        yield Skip("NRM104", "no batch norm near the inputs that was trained long enough")
        return False
    model = bench.make()

    def fit(change: Callable[[Any], Any]) -> Fit | None:
        return first_fit(model, bench.batch, lambda batch: with_input(batch, lambda x: change(_floating(x))))

    own = first_fit(model, bench.batch, lambda batch: batch)
    if own is None:
        yield Skip("NRM104", "no batch norm sees the inputs in eval mode")
        return False
    yield Judged("NRM104")
    yield Measurement("first_batchnorm_kl", own.kl, "nats", own.name)
    best = _best(view, own, fit, APART)
    if best is None:
        return False
    counts = {"samples": min(bench.rows, 128), "channels": len(first.mean)}
    yield _disagrees(own, best, first.where, counts)
    return True


def examine_weights(subject: Subject, view: View, weights: WeightSource) -> Iterator[Observation]:
    """NRM104 without a model: the data through the layer that the file says comes first."""
    import torch

    from nndiag.lab.firstweights import stored_first

    rows = _rows(subject)
    axis = view.profile.layout.axis if view.profile.layout.kind == "images" else None

    def channels_first(x: Any) -> Any:
        return x.movedim(axis, 1) if axis is not None else x

    first = None
    if rows is not None and rows.dim() > 1:
        first = stored_first(weights, tuple(channels_first(rows).shape[1:]))
    if first is None or rows is None:
        yield Skip("NRM104", "which normaliser reads the data cannot be told from these weights: name their model")
        return
    if first.as_built or (first.updates is not None and first.updates < SETTLED):
        yield Skip("NRM104", f"'{first.name}' was not trained long enough to remember the data")
        return

    def fit(change: Callable[[Any], Any]) -> Fit | None:
        with torch.no_grad():
            return first.fit(channels_first(change(_floating(rows))))

    own = fit(lambda x: x)
    assert own is not None
    yield Measurement("first_batchnorm_kl", own.kl, "nats", own.name)
    best = _best(view, own, fit, SURE)
    if best is None and own.kl >= APART:
        yield Skip("NRM104", f"what lies between the data and '{own.name}' cannot be told: name the model")
        return
    yield Judged("NRM104")
    if best is not None:
        yield _disagrees(own, best, Where(module=first.name), {"samples": len(rows), "channels": len(first.mean)})


def _rows(subject: Subject) -> Any:
    """The first rows of the data as one tensor; None where they are no plain rows."""
    import torch

    from nndiag.lab.forward import as_tensors, main_input

    kept: list[Any] = []
    for batch in itertools.islice(subject.data.batches() if subject.data else (), 64):
        main = main_input(as_tensors(batch.inputs))
        if main is None or main.dim() == 0 or (kept and main.shape[1:] != kept[0].shape[1:]):
            return None
        kept.append(main)
        if sum(map(len, kept)) >= ROWS:
            break
    return torch.cat(kept)[:ROWS] if kept else None


def _floating(item: Any) -> Any:
    return item if item.is_floating_point() else item.float()


def _best(view: View, own: Fit, fit: Fitting, limit: float) -> tuple[str, float] | None:
    """The named transform of the inputs that is recognised, with the KL it leaves; None where none is needed or fits.

    The common ones come first, and of equally good ones the first is taken.
    """
    if own.kl < APART:
        return None
    tried = [
        (name, found.kl) for name, change in _transforms(view) if (found := fit(change)) and found.name == own.name
    ]
    best = min(tried, key=lambda item: item[1], default=None)
    return best if best is not None and best[1] <= min(TOLD * own.kl, limit) else None


def _transforms(view: View) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Maps from these inputs to what training may have fed."""
    from nndiag.checks.normalization.bench import standardiser

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
    yield from _pipelines(profile)
    for k in range(-24, 25):
        factor = 10 ** (k / 6)
        if abs(k) > 3:  # smaller factors are what another domain looks like
            yield f"multiplied by about {factor:.2g}", _affine(factor, 0.0)


def _pipelines(profile: Profile) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """From the pipeline that made these pixels to every other one that is known."""
    import torch

    from nndiag.science.preprocessing import RAW, UNIT, normalisers, recognise
    from nndiag.science.preprocessing_names import between

    if profile.layout.kind != "images" or profile.features not in {1, 3} or not len(profile.finite_sample):
        return
    channels, moments = profile.features, profile.moments
    here = recognise(profile.finite_sample.swapaxes(1, 2).reshape(-1, channels)[:400_000])
    if here is None and moments.low.min() < 0:
        return
    here = here or (RAW if float(moments.high.max()) > 1.5 else UNIT)
    shape = [1] * (len(profile.shape) + 1)
    if profile.layout.axis is not None:
        shape[profile.layout.axis] = channels
    for one in normalisers(channels):
        if one != here and not one.twice:
            change = between(here, one, channels)
            slope, offset = (torch.as_tensor(part).reshape(shape) for part in (change.slope, change.offset))
            yield (f"as {one.name}" if one in {RAW, UNIT} else f"with {one.name}"), _affine(slope, offset)


def _affine(slope: Any, offset: Any) -> Callable[[Any], Any]:
    return lambda x: (x.double() * slope + offset).to(x.dtype)


def _disagrees(own: Fit, best: tuple[str, float], where: Where, counts: dict[str, int]) -> Finding:
    """NRM104."""
    import numpy as np

    from nndiag.science.resampling import jackknife

    return found(
        "NRM104",
        f"the checkpoint was trained on inputs {best[0]}: its first batch norm '{own.name}' is {own.kl:.3g} nats off "
        f"the data as they are, {best[1]:.2g} after that",
        where=where,
        evidence=Evidence(
            own.kl,
            "nats",
            jackknife(own.kl, np.array(own.without)),
            threshold=APART,
            n=counts,
            detail="median KL over channels of the data from the remembered statistics",
        ),
        means="the model remembers another preparation of its inputs than the one it is fed here",
        fix=f"feed it the same data {best[0]}",
    )
