"""Where each dropout stands: what feeds it, what reads it, and which batch norms its noise reaches."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

from nndiag.lab.dropout.graph import Chance
from nndiag.lab.dropout.ops import FUSED, RECURRENT

if TYPE_CHECKING:
    from nndiag.lab.dropout.graph import Film, Seen, Span, Step

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu", "clamp_min"})
SOFTMAX = frozenset({"softmax", "log_softmax"})
REGRESSION_LOSSES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss"})
CLASS_LOSSES = frozenset({
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "ctc_loss",
    "multi_margin_loss", "kl_div",
})  # fmt: skip
AFFINE = frozenset({"affine"})
# What lies beside a dropped tensor behind these did not come through the dropout.
JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "row_stack"})


@dataclass(frozen=True, slots=True)
class End:
    """Where a chain of harmless steps from a tensor ends."""

    kind: str  # role of the step, "output", "loss", "softmax" or "nowhere"
    step: Step | None = None
    tensor: int = 0  # the id of the tensor that arrives there
    passed: tuple[str, ...] = ()
    scaled: bool = False  # a multiplication by a number lies in between
    output: int = -1  # which tensor of the output
    alone: bool = True  # nothing else reads the tensor that arrives
    way: tuple[int, ...] = ()  # ids of the tensors on the way


@dataclass(frozen=True)
class Site:
    """A dropout with its surroundings."""

    seen: Seen
    label: str
    source: int  # id of the tensor it drops
    out: int
    anchor: End  # through scales and reshapes only
    affine: End  # and through positively homogeneous activations
    activation: Span | Step | None = None  # elementwise, behind the affine map or directly behind the dropout
    direct: bool = False  # no affine map between
    feeder: str = ""  # the operation that made what it drops: relu, selu, conv2d, softmax, layer_norm, input, …
    stacked: tuple[Seen, ...] = ()  # dropouts behind it with nothing but homogeneous steps between
    norms: tuple[Step, ...] = field(default=())  # batch norms whose input its noise reaches, nearest first
    between: tuple[str, ...] = ()  # roles and operations on the way to the first of them

    @property
    def p(self) -> float:
        """Drop probability."""
        return self.seen.dial.p

    @property
    def fused(self) -> bool:
        """Whether the dropout is inside a function that does more."""
        return self.seen.variant in FUSED | RECURRENT


class Map:
    """The film of one training forward, indexed for walking."""

    def __init__(self, film: Film) -> None:
        """Index who reads and who makes each tensor."""
        self.film = film
        self.readers, self.makers = film.readers(), film.makers()
        self.site_at = {seen.index: seen for seen in film.sites}
        self.by_name = {span.name: span for span in film.spans}
        self.span_of: dict[int, Span] = {}
        for span in film.spans:
            if span.last - span.first > 1 and next(span.module.children(), None) is None:
                for number in span.reads:
                    self.span_of.setdefault(number, span)

    def sites(self) -> list[Site]:
        """Every dropout with its surroundings."""
        found = [site for seen in self.film.sites if (site := self._site(seen)) is not None]
        hand = [site for site in found if site.seen.handmade]
        # By line: where a recurrence starts from zeros, the first choice is between those and one tensor of data.
        mixed = {_line(site) for one, other in combinations(hand, 2) if _mixes(one, other) for site in (one, other)}
        for site in hand:
            if _line(site) in mixed:
                chance = Chance("a random choice between two tensors", site.seen.where, site.seen.index)
                self.film.chances.append(chance)
        return [site for site in found if not (site.seen.handmade and _line(site) in mixed)]

    def _site(self, seen: Seen) -> Site | None:
        step = self.film.step_of(seen)
        if step is None or not step.makes:
            return None
        source, out = self._dropped(step), step.makes[0]
        if seen.variant in FUSED | RECURRENT:
            end = End("fused")
            anchor = end if seen.variant in RECURRENT else self.walk(out, join=False)
            return Site(seen, label(seen), source, out, anchor, end, feeder=seen.variant)
        anchor = self.walk(out, join=False)
        affine = self.walk(out, through=HOMOGENEOUS, join=False)
        activation, direct = self._activation(affine)
        norms, between = self._norms(out)
        return Site(
            seen, label(seen), source, out, anchor, affine, activation, direct,
            self.feeder(source), tuple(self._stack(out)), norms, between,
        )  # fmt: skip

    def _dropped(self, step: Step) -> int:
        weighted = [number for slot, number in step.reads if slot in step.weights]
        plain = [number for slot, number in step.reads if slot not in step.weights]
        return (plain or weighted)[0]

    def walk(self, number: int, through: frozenset[str] = frozenset(), *, bias: bool = False, join: bool = True) -> End:
        """Follow a tensor through scales, reshapes and `through` to the first step that does something.

        Args:
            number: The tensor's id.
            through: Further operations to pass.
            bias: Pass the addition of a parameter too.
            join: Pass concatenations, behind which the tensor is one part among others.
        """
        stops = frozenset[str]() if join else JOINS
        return self._walk(End("nowhere", None, number), number, through, stops, bias=bias, left=64)

    def _walk(  # noqa: PLR0913 - a recursion carries its state
        self, so_far: End, number: int, through: frozenset[str], stops: frozenset[str], *, bias: bool, left: int
    ) -> End:
        here = replace(so_far, tensor=number, way=(*so_far.way, number))
        readers = self.readers.get(number, [])
        if not readers and number in self.film.outputs:
            return replace(here, kind="output", output=self.film.outputs.index(number))
        for step in readers if left > 0 else ():
            moves = step.role == "shape" or step.op in through or (bias and step.op == "add" and bool(step.weights))
            joins = step.op in stops and len(step.reads) > 1
            if not moves or joins or step.index in self.site_at or not step.makes:
                seen = self.site_at.get(step.index)
                kind = "dropout" if seen is not None and seen.variant not in FUSED | RECURRENT else kind_of(step)
                return replace(here, kind=kind, step=step, alone=self._alone(readers))
            onward = replace(here, passed=(*here.passed, step.op), scaled=here.scaled or step.op == "scale")
            rest = left - 1 - 8 * (len(readers) - 1)
            end = self._walk(onward, step.makes[0], through, stops, bias=bias, left=rest)
            if end.kind != "nowhere":  # what was computed and thrown away leads nowhere
                return end
        return replace(here, kind="nowhere")

    def _alone(self, readers: list[Step]) -> bool:
        return len({step.index for step in readers if step.role != "shape"}) <= 1

    def _activation(self, affine: End) -> tuple[Span | Step | None, bool]:
        """The elementwise function behind the affine map, or directly behind the dropout."""
        if affine.kind == "activation" and affine.step is not None:
            return (self.span_of.get(affine.tensor) or affine.step, True) if affine.alone else (None, True)
        if affine.kind == "softmax":
            return affine.step, True
        if affine.kind != "affine" or affine.step is None or not affine.step.makes:
            return None, False
        after = self.walk(affine.step.makes[0], bias=True)
        span = self.span_of.get(after.tensor)
        if span is not None and after.step is not None and span.first <= after.step.index < span.last:
            plain = next(span.module.parameters(), None) is None and "norm" not in type(span.module).__name__.lower()
            return (span if plain and len(span.reads) == 1 else None), False
        if after.kind == "activation" and after.alone:
            return after.step, False
        return None, False

    def feeder(self, number: int) -> str:
        """The operation that made a tensor, seen through reshapes, scales, pools and other dropouts."""
        for _ in range(64):
            if number in self.film.inputs:
                return "input"
            step = self.makers.get(number)
            if step is None:
                return "parameter"
            seen = self.site_at.get(step.index)
            thins = seen is not None and seen.variant not in FUSED | RECURRENT
            if step.role not in {"shape", "pool"} and not thins:
                return step.op
            number = self._dropped(step)
        return ""

    def _stack(self, out: int) -> list[Seen]:
        """Dropouts that follow with nothing but steps that leave a dropped unit dropped."""
        found: list[Seen] = []
        keeps_zero = HOMOGENEOUS | {
            "gelu", "silu", "elu", "selu", "celu", "tanh", "mish", "hardtanh", "relu6", "hardswish",
        }  # fmt: skip
        number = out
        for _ in range(8):
            end = self.walk(number, through=keeps_zero)
            seen = self.site_at.get(end.step.index) if end.step is not None else None
            if end.step is None or seen is None or seen.variant in FUSED | RECURRENT:
                break  # a dropout inside attention drops its weights, not what was dropped before
            found.append(self.site_at[end.step.index])
            number = end.step.makes[0]
        return [seen for seen in found if seen.dial.acts and seen.variant not in FUSED | RECURRENT]

    def _norms(self, out: int) -> tuple[tuple[Step, ...], tuple[str, ...]]:
        """Batch norms reached before any other normaliser, with the way to the first."""
        queue: list[tuple[int, tuple[str, ...]]] = [(out, ())]
        seen: set[int] = set()
        found: list[Step] = []
        way: tuple[str, ...] = ()
        while queue and len(seen) < 4000:
            number, trail = queue.pop(0)
            for step in self.readers.get(number, []):
                if step.index in seen:
                    continue
                seen.add(step.index)
                if step.op == "batch_norm":
                    if step.batch_statistics:
                        way = way if found else trail
                        found.append(step)
                    continue
                if step.role == "normaliser" or self._in_norm(step):
                    continue
                queue.extend((made, (*trail, step.op)) for made in step.makes)
        return tuple(found), way

    def straight(self, site: Site, norm: Step) -> bool:
        """Whether a dropout's noise enters a norm with nothing between that weighs, pools or adds."""
        queue, seen = [site.out], {site.out}
        for number in queue:  # grows on the way
            for step in self.readers.get(number, []):
                if step.key == norm.key:
                    return True
                if step.role in {"shape", "activation"} or step.op in JOINS or step.index in self.site_at:
                    queue.extend(made for made in step.makes if made not in seen)
                    seen.update(step.makes)
        return False

    def _in_norm(self, step: Step) -> bool:
        span = self.by_name.get(step.owner)
        if span is None or next(span.module.children(), None) is not None:
            return False  # a PreNorm around a whole block is no normaliser
        return type(span.module).__name__.lower().endswith(("norm", "norm1d", "norm2d"))

    def end_name(self, end: End) -> str:
        """How to call what reads the dropout in a table: the module if it is a leaf, else the operation."""
        if end.step is None:
            return end.kind
        span = next((s for s in self.film.spans if s.name == end.step.owner and s.name), None)
        if span is not None and next(span.module.children(), None) is None:
            return f"{span.name} {type(span.module).__name__}"
        return "residual add" if end.kind == "add" else end.step.op

    def next_module(self, end: End) -> str | None:
        """The dotted name of the leaf module that reads the dropout."""
        name = self.end_name(end)
        return name.split(" ")[0] if end.step is not None and " " in name and name != "residual add" else None


def _mixes(one: Site, other: Site) -> bool:
    """Whether a mask and its complement choose between two tensors, as zoneout does: m·a + (1-m)·b drops nothing."""
    first, second = one.seen.mask, other.seen.mask
    if first is None or second is None or one.anchor.step is None or other.anchor.step is None:
        return False
    same = one.anchor.kind == "add" and one.anchor.step.index == other.anchor.step.index
    return same and first.total == second.total == first.kept + second.kept


def _line(site: Site) -> tuple[str | None, str | None, int | None]:
    where = site.seen.where
    return where.module, where.file, where.line


def kind_of(step: Step) -> str:
    """The role of a step, with the losses and softmax told apart."""
    if step.op in REGRESSION_LOSSES | CLASS_LOSSES:
        return "loss"
    return "softmax" if step.op in SOFTMAX else step.role


def label(seen: Seen) -> str:
    """A short name of a site: its module, or the enclosing module and the function."""
    owner, _, count = seen.key
    if seen.where.module and seen.module is not None and "dropout" in type(seen.module).__name__.lower():
        return owner if count == 0 else f"{owner} #{count + 1}"
    what = "mask" if seen.handmade else seen.variant
    short = {"scaled_dot_product_attention": "sdpa", "multi_head_attention_forward": "attention"}.get(what, what)
    name = f"{owner} {short}".strip()
    return name if count == 0 else f"{name} #{count + 1}"


def pattern(name: str) -> str:
    """A module name with its layer numbers wiped out: sites that differ only there are alike."""
    return re.sub(r"\d+", "*", name)
