"""Is dropout on exactly when it should be? DRP101, DRP102, DRP002, and randomness that is no dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.dropout.case import is_augmentation, on_purpose
from nndiag.checks.dropout.inert import judge_inert
from nndiag.core.findings import Evidence, Judged, Severity, Skip, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation
    from nndiag.lab.dropout.graph import Seen

_SHORT = {"scaled_dot_product_attention": "scaled_dot_product_attention(dropout_p=…)", "mask": "a hand-written mask"}


def judge_modes(case: Case) -> Iterator[Observation]:
    """Yield what is wrong with the times at which dropout acts."""
    yield from _active_in_eval(case)
    yield from _inactive_in_training(case)
    yield from judge_inert(case)


def stays_on(case: Case) -> list[Seen]:
    """Dropouts that act in eval mode, less those that say they are meant to."""
    from nndiag.lab.dropout.sites import Site

    trained = {site.seen.key: site for site in case.sites}
    found_: list[Seen] = []
    for seen in case.verdict.acting:
        site = trained.get(seen.key)
        meant = isinstance(site, Site) and (on_purpose(site) or is_augmentation(site))
        if not meant and not (site is None and _meant(seen)):
            found_.append(seen)
    return found_


def _meant(seen: Seen) -> bool:
    from nndiag.checks.dropout.case import ON_PURPOSE

    return bool(ON_PURPOSE & seen.words)


def _active_in_eval(case: Case) -> Iterator[Observation]:
    verdict = case.verdict
    if verdict.error:
        yield Skip("DRP101", f"the model does not run in eval mode: {verdict.error}")
        return
    if not verdict.compared and not verdict.acting:
        yield Skip("DRP101", "the output holds no tensor to compare")
        return
    yield Judged("DRP101")
    acting = stays_on(case)
    for places in grouped(acting):
        seen = places[0]
        what = _SHORT.get(seen.variant, seen.variant)
        differ = (
            f"two eval passes differ by {verdict.difference:.2g} standard deviations of the output"
            if not verdict.same
            else "the outputs of two eval passes still agree on this batch"
        )
        yield found(
            "DRP101",
            f"{what} with p = {seen.dial.p:.3g} drops in eval mode{_others(places)}: {differ}",
            where=_followed(case, seen),
            evidence=Evidence(
                value=verdict.difference, unit="standard deviations", threshold=0.0,
                n={"samples": case.bench.rows, "passes": 2}, seed=case.subject.run.seed,
                detail="largest difference between two eval passes under different seeds",
            ),
            means="predictions are random and lose what the dropped units carry; validation scores are too low",
            fix=_fix_for(seen),
            severity=Severity.WARNING if _said(seen) else None,
        )  # fmt: skip
    if (not verdict.same and not verdict.acting) or (not verdict.same and not acting and verdict.chances):
        yield _other_randomness(case)


def _followed(case: Case, seen: Seen) -> Where:
    """Where a dropout is, with the module that reads it: in a forward with several calls that tells which one."""
    site = next((site for site in case.sites if site.seen.key == seen.key), None)
    following = case.map.next_module(site.affine) if site is not None else None
    return replace(seen.where, next=following) if following else seen.where


def _said(seen: Seen) -> bool:
    """Whether the call says True in so many letters where that is the default: some mean it (Tacotron's prenet)."""
    from nndiag.lab.dropout.names import SAID_ON

    return SAID_ON in seen.words and "alpha" not in seen.variant


def _fix_for(seen: Seen) -> str:
    if seen.variant == "scaled_dot_product_attention":
        return "pass dropout_p=self.p if self.training else 0.0: the function does not know the mode"
    if seen.handmade:
        return "draw the mask only if self.training (Keras: if training), or use nn.Dropout"
    if _said(seen):
        return "pass training=self.training; if it is meant (Monte Carlo, Tacotron's prenet), [[ignore]] it by name"
    return f"pass training=self.training to {seen.variant}: its default is True (Keras: pass training=training on)"


def _other_randomness(case: Case) -> Observation:
    """A note where the operation is known or it is rounding, else a warning: a VAE samples in eval by design."""
    verdict = case.verdict
    chance = verdict.chances[0] if verdict.chances else None
    named = verdict.same_seed and chance is not None
    if not verdict.same_seed:
        cause, fix = (
            "rounding, as of a kernel that adds in no fixed order"
            if verdict.rounding
            else "equal seeds give different outputs: a kernel is not deterministic, or the forward keeps a state",
            ("torch.use_deterministic_algorithms(True) names the operation"),
        )
    elif chance is not None:
        cause, fix = (
            f"{chance.what} draws in eval mode; it is no dropout",
            ("seed it per input, or take its mean, if predictions must be repeatable; suppress this if it is meant"),
        )
    else:
        cause, fix = (
            "something draws random numbers in eval mode, and no dropout explains it",
            ("look for NumPy's and Python's generators in forward"),
        )
    return found(
        "NND901",
        f"two eval passes differ by {verdict.difference:.2g} standard deviations of the output: {cause}",
        where=chance.where if chance is not None else (case.subject.model.where if case.subject.model else Where()),
        evidence=Evidence(
            value=verdict.difference, unit="standard deviations", threshold=0.0,
            n={"samples": case.bench.rows, "passes": 2}, seed=case.subject.run.seed,
        ),
        means="too small for any rule to see"
        if verdict.rounding
        else "rules that compare training with eval see this randomness too",
        fix=fix,
        severity=Severity.NOTE if named or (verdict.rounding and not verdict.same_seed) else None,
    )  # fmt: skip


def _inactive_in_training(case: Case) -> Iterator[Observation]:
    yield Judged("DRP102")
    dead = [site.seen for site in case.sites if _switched_off(site.seen)]
    for places in grouped(dead):
        seen = places[0]
        alpha = "alpha" in seen.variant
        why = "its default is training=False" if alpha and not _is_module(seen) else "its training flag is False"
        if _is_module(seen):
            why = "the module is left in eval mode by the model's train()"
        fix = (
            "call self.dropout's train() with the rest"
            if _is_module(seen)
            else f"pass training=self.training to {seen.variant}, or use the module"
        )
        yield _drops_nothing(case, places, why, fix)
    yield from _asleep(case)


def _drops_nothing(case: Case, places: list[Seen], why: str, fix: str) -> Observation:
    seen = places[0]
    return found(
        "DRP102",
        f"{seen.variant} with p = {seen.dial.p:.3g} drops nothing in training mode{_others(places)}: {why}",
        where=_followed(case, seen),
        evidence=Evidence(value=0.0, unit="share dropped", threshold=seen.dial.p, detail="arguments of the call"),
        means="the model trains without the regularisation that the code promises",
        fix=fix,
    )


def _asleep(case: Case) -> Iterator[Observation]:
    """Dropouts in a part that stays in eval mode: meant where the part is frozen, a fault where it learns."""
    from nndiag.lab.dropout.asleep import asleep_around, learns, put_to_sleep

    model = case.bench.model
    model.train()
    parts: dict[str, list[Seen]] = {}
    in_forward: set[str] = set()
    for site in case.sites:
        seen = site.seen
        if seen.dial.on or seen.dial.p <= 0 or _switched_off(seen):
            continue
        part = asleep_around(model, seen.key[0])
        if part is None and seen.module is not None and not seen.owner_training:
            part = put_to_sleep(case.bench, seen.key[0])
            in_forward.add(part)
        if part is not None:
            parts.setdefault(part, []).append(seen)
    for part, seen_ in parts.items():
        name = f"'{part}'" if part else "the whole model"
        if not learns(case.bench, part, case.subject.training):
            yield Skip(
                "DRP102", f"{name} stays in eval mode in training; it is frozen, so this is taken as meant", part
            )
            continue
        how = "is put in eval mode by a forward" if part in in_forward else "stays in eval mode when the model trains"
        why = f"{name} {how}, though it learns"
        fix = f"let {name} follow train(mode); if it is to be frozen, set requires_grad_(False) on it as well"
        for places in grouped(seen_):
            yield _drops_nothing(case, places, why, fix)


def _is_module(seen: Seen) -> bool:
    from nndiag.lab.dropout.names import is_dropout_module

    return seen.module is not None and (is_dropout_module(seen.module) or seen.variant in _LAYERS)


_LAYERS = frozenset({"multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu"})


def _switched_off(seen: Seen) -> bool:
    """Off in training although what surrounds it trains: a frozen backbone is meant."""
    if seen.dial.on or seen.dial.p <= 0:
        return False
    if seen.owner_training:
        return True
    return _is_module(seen) and seen.parent_training


def grouped(seen: list[Seen]) -> list[list[Seen]]:
    """Sites that differ only in a layer number and stand on one line are one cause."""
    from nndiag.lab.dropout.sites import pattern

    groups: dict[Any, list[Seen]] = {}
    for item in seen:
        where = item.where
        groups.setdefault((pattern(where.module or ""), where.file, where.line, item.variant), []).append(item)
    return list(groups.values())


def _others(places: list[Seen]) -> str:
    names = list(dict.fromkeys(seen.where.module or "" for seen in places[1:]))
    names = [name for name in names if name != places[0].where.module]
    return f" (and in {len(names)} more layers like it)" if names else ""
