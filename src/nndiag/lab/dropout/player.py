"""Play one forward with every dropout under control: off, drawn, fed with given inputs, at another rate."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nndiag.core.findings import Where
from nndiag.lab.dropout.graph import Chance, Film, Key, Seen, Span, Step
from nndiag.lab.dropout.meeting import bare, handed, in_place, learns, mask_meeting, replaced, swapped
from nndiag.lab.dropout.names import ancestors, flags, is_dropout_module, named_layers, place_of_call, words_of
from nndiag.lab.dropout.ops import (
    FROM_OUTSIDE,
    PLUMBING,
    RANDOM_FUNCTIONS,
    SHAPE_ONLY,
    SOURCES,
    WEIGHT,
    Dial,
    MaskFacts,
    dial_of,
    identity_of,
    is_dropout,
    mask_facts,
    with_rate,
)
from nndiag.lab.dropout.recurrent import layer_by_layer, stacked
from nndiag.lab.dropout.script import Script
from nndiag.lab.dropout.tags import FOREIGN, Luck, Tag, Tags, luck_of
from nndiag.lab.forward import call, tensors_in
from nndiag.lab.watch.built import class_name, locate
from nndiag.lab.watch.roles import role_of_function

if TYPE_CHECKING:
    from collections.abc import Iterator

_TENSOR_PROPERTIES = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})
_LOGICAL = frozenset({"__bool__", "item", "__float__", "__int__", "tolist", "__index__", "numpy"})


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
        self._tags = Tags(model, self.film.foreign, script.drawn)

    def play(self, inputs: Any, **more: Any) -> Any:
        """Run the model; the film is in `film` afterwards."""
        for tensor in tensors_in((inputs, more)):
            self._tags.put(tensor, data=True)
            self.film.inputs.add(self._tags.of(tensor).id)
        with self._attached(), self:
            output = call(self.model, inputs) if not more else self.model(inputs, **more)
        self.film.outputs = tuple(self._tags.of(item).id for item in tensors_in(output))
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
        reads = tuple(self._tags.of(item).id for item in tensors_in((args, kwargs)))
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
        makes = tuple(self._tags.of(item).id for item in made)
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
        if stacked(op, args):
            with self:
                return layer_by_layer(func, args)
        if name in _LOGICAL:
            self._decided(args)
        if op in PLUMBING or name in _LOGICAL:
            return func(*args, **kwargs)
        given = tensors_in((args, kwargs))
        tags = [self._tags.of(item) for item in given]
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

    def _step(self, op: str, given: list[Tensor], tags: list[Tag], args: Any, kwargs: Any, *, masked: bool) -> Step:  # noqa: PLR0913 - torch hands a call over in these parts
        reads = tuple((slot, tag.id) for slot, tag in enumerate(tags) if tag.data)
        weights = tuple(slot for slot, item in enumerate(given) if isinstance(item, nn.Parameter))
        role = role_of_function(op, activations=len(reads) - len(weights), weights=len(weights))
        number = None
        if op in {"mul", "div", "multiply", "divide"}:
            number = next((float(a) for a in args if isinstance(a, int | float) and not isinstance(a, bool)), None)
        learning = op == "batch_norm" and learns(args, kwargs)
        # Scales and masks come and go with the mode: they are numbered apart, so that all else keeps its number.
        kind = "mask" if masked else "scale" if op in {"mul", "div"} and role == "shape" else op
        owner = self._stack[-1][0] if self._stack else ""
        count = self._counts[owner, kind]
        self._counts[owner, kind] = count + 1
        key = (owner, kind, count)
        return Step(len(self.film.steps), key, role, reads, weights, (), number, learning)

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

    def _without_data(self, func: Any, name: str, op: str, args: Any, kwargs: Any, lucky: Luck | None) -> Any:  # noqa: PLR0913, PLR0917 - torch hands a call over in these parts
        """Constants, and what is made of luck alone."""
        if is_dropout(op) and tensors_in(args):
            dial = dial_of(op, args, kwargs)
            result = func(*args, **kwargs)
            if dial is not None and dial.acts:
                self._tags.put(result, data=False, luck=Luck(op, 1 - dial.p))
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
                self._tags.put(item, data=False, luck=luck)
        elif op not in FROM_OUTSIDE:
            for item in tensors_in(result):
                self._tags.put(item, data=False)
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
        inplace = bool(kwargs.get("inplace", is_dropout(op) and len(args) > 3 and args[3] is True))
        args, kwargs = handed(args, kwargs, self.script.feed.get(key, ()), inplace=inplace)
        if not self.script.acts(key):
            if is_dropout(op):
                return identity_of(tensors_in(args)[0])
            args, kwargs = with_rate(op, args, kwargs, 0.0)
        result = func(*args, **kwargs)
        return identity_of(result) if isinstance(result, Tensor) and result is source else result

    def _met_chance(self, func: Any, name: str, op: str, key: Key, args: Any, kwargs: Any, lucky: Luck) -> Any:  # noqa: PLR0913, PLR0917 - torch hands a call over in these parts
        """Data met a random tensor: a mask written by hand, or some other use of chance."""
        meeting = mask_meeting(op, args, kwargs, self._tags.of)
        if meeting is None or not lucky.plain:
            self._chance(lucky.source)
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - looking is no computing
            facts = mask_facts(meeting.mask, meeting.data, weight=isinstance(meeting.data, nn.Parameter))
            drawn_rate = facts.kept / max(1, facts.total)
        whole = facts.kept in (0, facts.total) and lucky.rate is None
        if not facts.binary or (whole and (facts.total > 8 or lucky.source == FOREIGN)):
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
            (fed,) = self.script.feed.get(key, (None,))
            if fed is not None and fed.shape == meeting.data.shape:
                if in_place(name):
                    meeting.data.copy_(fed)
                else:
                    args, kwargs = swapped(args, kwargs, meeting.data, fed)
                    meeting.data = fed
            if not self.script.acts(key):
                mean = meeting.data * (keep * facts.scale)
                if in_place(name):
                    meeting.data.copy_(mean)
                    return None if name == "__setitem__" else meeting.data
                return mean.to(meeting.data.dtype)
        return func(*args, **kwargs)

    def _recorded(self, step: Step, result: Any, name: str, given: list[Tensor]) -> Any:
        made = tensors_in(result)
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and not made):
            made = given[:1]
        for item in made:
            self._tags.put(item, data=True)
        makes = tuple(self._tags.of(item).id for item in made)
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
        place, words = place_of_call()
        where = Where(
            module=owner, cls=class_name(module) if module is not None else None, file=place.file, line=place.line
        )
        if module is not None and is_dropout_module(module):
            where = locate(module, owner, otherwise=place)
        elif place.file is None and module is not None:
            where = locate(module, owner)
        around = ancestors(self.model, self._modules, owner)
        words |= words_of(owner, *(type(m).__name__ for m in around), *flags(around))
        seen = Seen(
            key, variant, where, len(self.film.steps), dial,
            bool(module.training) if module is not None else False,
            bool(parent.training) if parent is not None else False,
            frozenset(words), mask, module,
        )  # fmt: skip
        self.film.sites.append(seen)
        return seen

    def _chance(self, what: str) -> None:
        place = place_of_call()[0] if self.script.places else Where()
        owner = self._stack[-1][0] if self._stack else ""
        where = Where(module=owner, file=place.file, line=place.line)
        self.film.chances.append(Chance(what, where, len(self.film.steps)))

    def _decided(self, args: Any) -> None:
        """A random number became a Python value: control flow may hang on it."""
        for item in tensors_in(args):
            tag = self._tags.of(item)
            if tag.luck is not None and not tag.data:
                self._chance("a decision by chance")
