"""Play one forward with every dropout under control: off, drawn, fed with given inputs, at another rate."""

from __future__ import annotations

import contextlib
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nndiag.core.findings import Where
from nndiag.lab.blame import is_users, shown
from nndiag.lab.built import class_name, locate
from nndiag.lab.dropout_graph import Chance, Film, Key, Seen, Span, Step
from nndiag.lab.dropout_ops import (
    FOREIGN,
    FROM_OUTSIDE,
    RANDOM_FUNCTIONS,
    SHAPE_ONLY,
    SOURCES,
    WEIGHT,
    Dial,
    Luck,
    MaskFacts,
    dial_of,
    fingerprint,
    identity_of,
    is_dropout,
    luck_of,
    mask_facts,
    with_rate,
)
from nndiag.lab.forward import call, mapped, tensors_in
from nndiag.lab.roles import role_of_function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

_PLUMBING = frozenset(
    [
        "size",
        "stride",
        "numel",
        "nelement",
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "item",
        "tolist",
        "get_device",
        "element_size",
        "data_ptr",
        "storage_offset",
        "ndimension",
        "untyped_storage",
        "storage",
        "numpy",
        "set_grad_enabled",
        "is_same_size",
        "equal",
        "allclose",
    ]
)
_TENSOR_PROPERTIES = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})
_LOGICAL = frozenset({"__bool__", "item", "__float__", "__int__", "tolist", "__index__", "numpy"})
_MASKING = frozenset({"mul", "multiply", "where", "masked_fill", "setitem", "einsum"})


@dataclass(slots=True)
class _Tag:
    id: int
    data: bool
    luck: Luck | None = None


@dataclass(frozen=True)
class Watch:
    """Who looks at a tensor argument before a step runs; what it returns takes the tensor's place."""

    slot: int
    reader: Callable[[Tensor, Any, Any], Tensor | None]


@dataclass
class Script:
    """How a forward is to be played."""

    off: bool = False  # every site passes its mean on
    only: frozenset[Key] | None = None  # sites that act; the others pass their mean on
    rates: Mapping[Key, float] = field(default_factory=dict)  # keep rates of hand-written masks, for their means
    feed: Mapping[Key, Tensor] = field(default_factory=dict)  # what sites are fed with
    watch: Mapping[Key, list[Watch]] = field(default_factory=dict)  # step -> readers of its tensor arguments
    after: Mapping[Key, list[Callable[[Tensor], None]]] = field(default_factory=dict)  # step -> readers of its output
    after_module: Mapping[tuple[str, int], list[Callable[[Tensor], None]]] = field(default_factory=dict)
    at_site: Callable[[Seen, Tensor, Any], None] | None = None  # sees (site, its input, arguments)
    places: bool = True  # look up source lines
    drawn: frozenset[int] = frozenset()  # tensors from outside torch whose values change from run to run, by order

    def acts(self, key: Key) -> bool:
        """Whether a site draws its mask."""
        return not self.off and (self.only is None or key in self.only)


class Player(TorchFunctionMode):
    """A torch function mode and module hooks around one forward."""

    def __init__(self, model: nn.Module, script: Script) -> None:
        """Prepare for one forward; nothing is attached yet."""
        super().__init__()
        self.model, self.script, self.film = model, script, Film()
        self._names = dict(named_layers(model))
        self._modules = {name: module for module, name in self._names.items()}
        self._stack: list[tuple[str, int, tuple[int, ...]]] = []
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._next = 1
        self._known = {id(item) for item in model.buffers()}

    def play(self, inputs: Any, **more: Any) -> Any:
        """Run the model; the film is in `film` afterwards."""
        for tensor in tensors_in((inputs, more)):
            self._tag(tensor, data=True)
            self.film.inputs.add(self._tag_of(tensor).id)
        with self._attached(), self:
            output = call(self.model, inputs) if not more else self.model(inputs, **more)
        self.film.outputs = tuple(self._tag_of(item).id for item in tensors_in(output))
        return output

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        handles = []
        try:
            for module in self._names:
                with contextlib.suppress(Exception):  # compiled modules of whatever make refuse hooks
                    handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                    handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        name = self._names.get(module, "")
        self.film.ran[name] = self.film.ran.get(name, 0) + 1
        reads = tuple(self._tag_of(item).id for item in tensors_in((args, kwargs)))
        self._stack.append((name, len(self.film.steps), reads))

    def _leave(self, module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        name = self._names.get(module, "")
        while self._stack and self._stack[-1][0] != name:
            self._stack.pop()  # a forward that raised and was caught
        if not self._stack:
            return
        _, first, reads = self._stack.pop()
        made = tensors_in(output)
        repeat = self.film.ran.get(name, 1) - 1
        makes = tuple(self._tag_of(item).id for item in made)
        self.film.spans.append(Span(name, repeat, module, reads, makes, first, len(self.film.steps)))
        for reader in self.script.after_module.get((name, repeat), ()) if made else ():
            with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
                reader(made[0])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function under the script and record it."""
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        if name == "__get__":
            name = str(getattr(getattr(func, "__self__", None), "__name__", name))
            if name not in _TENSOR_PROPERTIES:
                return func(*args, **kwargs)
        op = bare(name)
        if name in _LOGICAL:
            self._decided(args)
        if op in _PLUMBING or name in _LOGICAL:
            return func(*args, **kwargs)
        given = tensors_in((args, kwargs))
        tags = [self._tag_of(item) for item in given]
        lucky = next((tag.luck for tag in tags if tag.luck is not None), None)
        counted = tags[:1] if op == "to" else tags  # x.to(y) takes no value of y
        data = any(tag.data for tag in counted) and op not in SHAPE_ONLY
        if not data:
            return self._without_data(func, name, op, args, kwargs, lucky)
        masked = lucky is not None and not is_dropout(op)
        step = self._step(op, given, tags, args, kwargs, masked=masked)
        key = step.key
        args, kwargs = self._watched(step, args, kwargs)
        if lucky is not None and masked:
            result = self._met_chance(func, name, op, key, args, kwargs, lucky)
        else:
            result = self._with_data(func, op, key, args, kwargs)
        return self._recorded(step, result, name, given)

    def _step(self, op: str, given: list[Tensor], tags: list[_Tag], args: Any, kwargs: Any, *, masked: bool) -> Step:  # noqa: PLR0913 - the parts of a call
        reads = tuple((slot, tag.id) for slot, tag in enumerate(tags) if tag.data)
        weights = tuple(slot for slot, item in enumerate(given) if isinstance(item, nn.Parameter))
        role = role_of_function(op, activations=len(reads) - len(weights), weights=len(weights))
        number = None
        if op in {"mul", "div", "multiply", "divide"}:
            number = next((float(a) for a in args if isinstance(a, int | float) and not isinstance(a, bool)), None)
        learns = op == "batch_norm" and _learns(args, kwargs)
        # Scales and masks come and go with the mode: they are numbered apart, so that all else keeps its number.
        kind = "mask" if masked else "scale" if op in {"mul", "div"} and role == "shape" else op
        owner = self._stack[-1][0] if self._stack else ""
        count = self._counts[owner, kind]
        self._counts[owner, kind] = count + 1
        key = (owner, kind, count)
        return Step(len(self.film.steps), key, role, reads, weights, (), number, learns)

    def _watched(self, step: Step, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Show the tensor at a watched step to its reader, and put in what it returns."""
        for watch in self.script.watch.get(step.key, ()):
            current = tensors_in((args, kwargs))
            if watch.slot >= len(current):
                continue
            with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
                other = watch.reader(current[watch.slot], args, kwargs)
            if other is not None:
                args, kwargs = replaced(args, kwargs, watch.slot, other)
        return args, kwargs

    def _without_data(self, func: Any, name: str, op: str, args: Any, kwargs: Any, lucky: Luck | None) -> Any:  # noqa: PLR0913, PLR0917 - the parts of a call
        """Constants, and what is made of luck alone."""
        if is_dropout(op) and tensors_in(args):
            dial = dial_of(op, args, kwargs)
            result = func(*args, **kwargs)
            if dial is not None and dial.acts:
                self._tag(result, data=False, luck=Luck(op, 1 - dial.p))
            return result
        luck = None
        if op in SOURCES or name in SOURCES:
            luck = luck_of(name if name in SOURCES else op, args, kwargs)
        elif lucky is not None:
            others = [item for item in (*args, *kwargs.values()) if not isinstance(item, Tensor)]
            luck = lucky.after(op, others, swapped=name.startswith("__r"))
        result = func(*args, **kwargs)
        if luck is not None:
            for item in tensors_in(result):
                self._tag(item, data=False, luck=luck)
        elif op not in FROM_OUTSIDE:
            for item in tensors_in(result):
                self._tag(item, data=False)
        return result

    def _with_data(self, func: Any, op: str, key: Key, args: Any, kwargs: Any) -> Any:
        """A computation on data; if it is one of torch's dropouts, under the script."""
        dial = dial_of(op, args, kwargs)
        if dial is None or (dial.p == 0 and not is_dropout(op)):
            if (op in SOURCES or op in RANDOM_FUNCTIONS) and not (op == "rrelu" and not kwargs.get("training", False)):
                self._chance(op)
            return func(*args, **kwargs)
        weight = isinstance(tensors_in(args)[0], nn.Parameter)
        if weight:
            dial = Dial(dial.p, dial.on, WEIGHT)
        site = self._site(key, op, dial)
        source = tensors_in(args)[0]
        if self.script.at_site is not None:
            with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
                self.script.at_site(site, source, (args, kwargs))
        fed = self.script.feed.get(key)
        inplace = bool(kwargs.get("inplace", len(args) > 3 and args[3] is True))
        if fed is not None and fed.shape == source.shape and is_dropout(op):
            if inplace:
                source.copy_(fed)
            else:
                args, kwargs = replaced(args, kwargs, 0, fed)
        if not self.script.acts(key):
            if is_dropout(op):
                return identity_of(tensors_in(args)[0])
            args, kwargs = with_rate(op, args, kwargs, 0.0)
        result = func(*args, **kwargs)
        return identity_of(result) if isinstance(result, Tensor) and result is source else result

    def _met_chance(self, func: Any, name: str, op: str, key: Key, args: Any, kwargs: Any, lucky: Luck) -> Any:  # noqa: PLR0913, PLR0917 - the parts of a call
        """Data met a random tensor: a mask written by hand, or some other use of chance."""
        meeting = mask_meeting(op, args, kwargs, self._tag_of)
        if meeting is None or not lucky.plain:
            self._chance(lucky.source)
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
            facts = mask_facts(meeting.mask, meeting.data, weight=isinstance(meeting.data, nn.Parameter))
            drawn_rate = facts.kept / max(1, facts.total)
        whole = facts.kept in (0, facts.total) and lucky.rate is None
        if not facts.binary or (whole and facts.total > 8):
            self._chance(lucky.source)
            return func(*args, **kwargs)
        rate = self.script.rates.get(key)
        known = lucky.rate if lucky.rate is not None else rate
        keep = known if known is not None else drawn_rate
        if meeting.inverted and lucky.rate is not None and rate is None:
            keep = 1 - lucky.rate
        site = self._site(key, "mask", Dial(1 - keep, on=True, unit=facts.unit), facts)
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
            if self.script.at_site is not None:
                self.script.at_site(site, meeting.data, (args, kwargs))
            fed = self.script.feed.get(key)
            if fed is not None and fed.shape == meeting.data.shape:
                if name.endswith("_") or name == "__setitem__":
                    meeting.data.copy_(fed)
                else:
                    args, kwargs = swapped(args, kwargs, meeting.data, fed)
                    meeting.data = fed
            if not self.script.acts(key):
                mean = meeting.data * (keep * facts.scale)
                if name.endswith("_") or name == "__setitem__":
                    return meeting.data.copy_(mean) if name != "__setitem__" else meeting.data.copy_(mean) and None
                return mean.to(meeting.data.dtype)
        return func(*args, **kwargs)

    def _recorded(self, step: Step, result: Any, name: str, given: list[Tensor]) -> Any:
        made = tensors_in(result)
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and not made):
            made = given[:1]
        for item in made:
            self._tag(item, data=True)
        makes = tuple(self._tag_of(item).id for item in made)
        self.film.steps.append(
            Step(step.index, step.key, step.role, step.reads, step.weights, makes, step.number, step.batch_statistics)
        )
        for reader in self.script.after.get(step.key, ()) if made else ():
            with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
                reader(made[0])
        return result

    def _site(self, key: Key, variant: str, dial: Dial, mask: MaskFacts | None = None) -> Seen:
        owner, module = key[0], self._modules.get(key[0])
        if not self.script.places:
            seen = Seen(key, variant, Where(module=owner), len(self.film.steps), dial, mask=mask, module=module)
            self.film.sites.append(seen)
            return seen
        parent = self._modules.get(owner.rpartition(".")[0]) if owner else module
        place, words = self._place()
        where = Where(
            module=owner, cls=class_name(module) if module is not None else None, file=place.file, line=place.line
        )
        if module is not None and is_dropout_module(module):
            where = locate(module, owner, otherwise=place)
        elif place.file is None and module is not None:
            where = locate(module, owner)
        words |= words_of(owner, *(type(m).__name__ for m in self._ancestors(owner)), *self._flags(owner))
        seen = Seen(
            key, variant, where, len(self.film.steps), dial,
            bool(module.training) if module is not None else False,
            bool(parent.training) if parent is not None else False,
            frozenset(words), mask, module,
        )  # fmt: skip
        self.film.sites.append(seen)
        return seen

    def _ancestors(self, owner: str) -> list[nn.Module]:
        parts = owner.split(".")
        found = [self._modules.get(".".join(parts[: n + 1])) for n in range(len(parts))]
        return [self.model, *(module for module in found if module is not None)]

    def _flags(self, owner: str) -> list[str]:
        """Names of attributes that are switched on, on the way down to the owner."""
        return [
            name for module in self._ancestors(owner) for name, value in vars(module).items()
            if value is True and name != "training" and not name.startswith("_")
        ]  # fmt: skip

    def _chance(self, what: str) -> None:
        place, _ = self._place()
        owner = self._stack[-1][0] if self._stack else ""
        where = Where(module=owner, file=place.file, line=place.line)
        self.film.chances.append(Chance(what, where, len(self.film.steps)))

    def _decided(self, args: Any) -> None:
        """A random number became a Python value: control flow may hang on it."""
        for item in tensors_in(args):
            tag = self._tag_of(item)
            if tag.luck is not None and not tag.data:
                self._chance("a decision by chance")

    def _place(self) -> tuple[Where, set[str]]:
        if not self.script.places:
            return Where(), set()
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - looking is no computing
        words: set[str] = set()
        inside = False
        while frame is not None:
            filename = frame.f_code.co_filename
            if filename.endswith("lab/forward.py"):
                break  # above it is whoever called nndiag
            if is_users(filename):
                words |= words_of(frame.f_code.co_name)
                if not inside:
                    return Where(file=shown(filename), line=frame.f_lineno), words
                inside = True
            frame = frame.f_back
        return Where(), words

    def _tag_of(self, tensor: Tensor) -> _Tag:
        tag = getattr(tensor, "_nndiag_tag", None)
        if tag is None or tag[0] is not self:
            self._tag(tensor, data=isinstance(tensor, nn.Parameter), luck=self._foreign(tensor))
            tag = tensor._nndiag_tag  # type: ignore[attr-defined]  # noqa: SLF001 - looking is no computing
        found: _Tag = tag[1]
        return found

    def _foreign(self, tensor: Tensor) -> Luck | None:
        """Note a tensor that no torch function made: NumPy's and Python's generators hide behind these."""
        if isinstance(tensor, nn.Parameter) or id(tensor) in self._known:
            return None
        order = len(self.film.foreign)
        self.film.foreign.append(fingerprint(tensor))
        return Luck(FOREIGN) if order in self.script.drawn else None

    def _tag(self, tensor: Tensor, *, data: bool, luck: Luck | None = None) -> None:
        tensor._nndiag_tag = (self, _Tag(self._next, data, luck))  # type: ignore[attr-defined]  # noqa: SLF001 - looking is no computing
        self._next += 1


@dataclass
class Meeting:
    """A mask and the data it is put on."""

    mask: Tensor
    data: Tensor
    inverted: bool = False  # a nonzero mask element drops


def mask_meeting(op: str, args: Any, kwargs: Any, tag_of: Callable[[Tensor], _Tag]) -> Meeting | None:
    """Say which operand is the mask and which the data; None where this is no masking."""
    if op not in _MASKING:
        return None
    tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
    masks = [item for item in tensors if tag_of(item).luck is not None and not tag_of(item).data]
    data = [item for item in tensors if tag_of(item).data]
    if len(masks) != 1 or len(data) != 1 or not data[0].is_floating_point():
        return None
    if op == "where":
        return _where(masks[0], data[0], args, kwargs)
    if op in {"masked_fill", "setitem"}:
        value = args[2] if len(args) > 2 else kwargs.get("value", 1.0)
        empty = not isinstance(value, bool) and float(value) == 0
        fits = op == "masked_fill" or masks[0].dtype == torch.bool
        return Meeting(~masks[0].bool(), data[0], inverted=True) if empty and fits else None
    return Meeting(masks[0], data[0]) if len(tensors) == 2 else None


def _where(condition: Tensor, data: Tensor, args: Any, kwargs: Any) -> Meeting | None:
    parts = [*args, *kwargs.values()]
    if len(parts) != 3 or parts[0] is not condition:
        if len(parts) == 3 and parts[0] is data:  # x.where(mask, 0)
            parts = [parts[1], parts[0], parts[2]]
        else:
            return None
    other = parts[2] if parts[1] is data else parts[1]
    empty = bool((other == 0).all()) if isinstance(other, Tensor) else float(other) == 0
    if not empty:
        return None
    inverted = parts[1] is not data
    return Meeting(~condition.bool() if inverted else condition.bool(), data, inverted=inverted)


def bare(name: str) -> str:
    """The name without in-place and dunder underscores."""
    plain = name.strip("_") if name.startswith("__") or name.endswith("_") else name
    if name.startswith("__") and plain[:1] in "ri" and plain[1:] in {
        "add", "sub", "mul", "truediv", "matmul", "pow", "div", "and", "or", "xor",
    }:  # fmt: skip
        plain = ("r" if plain == "rsub" else "") + plain[1:]
    return {
        "truediv": "div",
        "true_divide": "div",
        "multiply": "mul",
        "divide": "div",
        "masked_fill_": "masked_fill",
    }.get(plain, plain)


def replaced(args: Any, kwargs: Any, slot: int, other: Tensor) -> tuple[Any, dict[str, Any]]:
    """Return the arguments with the tensor in one slot exchanged."""
    seen = iter(range(10**9))
    changed = mapped(tuple(args), lambda item: other if next(seen) == slot else item)
    return changed, mapped(dict(kwargs), lambda item: other if next(seen) == slot else item)


def swapped(args: Any, kwargs: Any, old: Tensor, new: Tensor) -> tuple[Any, dict[str, Any]]:
    """Return the arguments with one tensor exchanged for another."""
    return (
        mapped(tuple(args), lambda item: new if item is old else item),
        mapped(dict(kwargs), lambda item: new if item is old else item),
    )


def words_of(*texts: str) -> set[str]:
    """The words in identifiers of any style: MCDropout gives mc and dropout."""
    found: set[str] = set()
    for text in texts:
        for part in re.split(r"[^A-Za-z]+", text):
            found.update(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part))
    return found


def is_dropout_module(module: nn.Module) -> bool:
    """Whether a module is nothing but a dropout."""
    return "dropout" in type(module).__name__.lower() and next(module.children(), None) is None


def named_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield every module with its dotted name; Keras hides its layers from `named_modules`."""
    for name, module in model.named_modules():
        yield module, name
    for layer in getattr(model, "_flatten_layers", lambda **_: ())(include_self=False, recursive=True):
        yield layer, str(layer.name)


def _learns(args: Any, kwargs: Any) -> bool:
    """Whether F.batch_norm normalises by the batch and keeps running statistics."""
    running = args[1] if len(args) > 1 else kwargs.get("running_mean")
    return running is not None and bool(args[5] if len(args) > 5 else kwargs.get("training", False))
