"""A table too large to hold still has a model behind it: build that model with fewer rows."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


@contextlib.contextmanager
def smaller_tables(rows: Mapping[int, int]) -> Iterator[None]:
    """Inside, embeddings of V rows, and linear layers to or from V features, are built with fewer.

    The softmax head of a language model shrinks with its table, so that tying them still works.

    Args:
        rows: V -> rows to build instead.
    """
    kinds: tuple[tuple[type[nn.Module], tuple[int, ...]], ...] = (
        (nn.Embedding, (0,)),
        (nn.EmbeddingBag, (0,)),
        (nn.Linear, (0, 1)),
    )
    before = {kind: kind.__init__ for kind, _ in kinds}
    try:
        for kind, places in kinds:
            kind.__init__ = _clamped(kind.__init__, places, rows)  # type: ignore[method-assign]
        yield
    finally:
        for kind, _ in kinds:
            kind.__init__ = before[kind]  # type: ignore[method-assign]


_WORDS = ("num_embeddings", "in_features", "out_features")


def _clamped(init: Callable[..., None], places: tuple[int, ...], rows: Mapping[int, int]) -> Callable[..., None]:
    @functools.wraps(init)
    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        values = [
            rows.get(item, item) if i in places and isinstance(item, int) else item for i, item in enumerate(args)
        ]
        for word in _WORDS:
            if isinstance(kwargs.get(word), int):
                kwargs[word] = rows.get(kwargs[word], kwargs[word])
        if "_weight" in kwargs and isinstance(kwargs["_weight"], torch.Tensor):
            kwargs["_weight"] = kwargs["_weight"][: values[0] if values else kwargs["num_embeddings"]]
        init(self, *values, **kwargs)
        if getattr(self, "padding_idx", None) is not None:  # a padding row beyond the smaller table
            self.padding_idx = min(int(self.padding_idx), int(self.num_embeddings) - 1)

    return built


def shrink(model: nn.Module, rows: Mapping[int, int], bare: Sequence[str] = ()) -> None:
    """Cut embeddings of V rows, and what is V wide beside them, in a model that is already built.

    Args:
        model: Changed in place: give a private copy.
        rows: V -> rows to keep.
        bare: Names of parameters that are tables without a module of their own.
    """
    kept: dict[int, nn.Parameter] = {}

    def cut(parameter: nn.Parameter, axes: tuple[int, ...]) -> nn.Parameter:
        if id(parameter) not in kept:
            data = parameter.detach()
            for axis in axes:
                if axis < data.dim() and data.shape[axis] in rows:
                    data = data.narrow(axis, 0, rows[data.shape[axis]])
            kept[id(parameter)] = nn.Parameter(data.clone(), requires_grad=parameter.requires_grad)
        return kept[id(parameter)]

    for module in model.modules():
        _shrink_layer(module, rows, cut)
    for name in bare:
        path, _, word = name.rpartition(".")
        owner = model.get_submodule(path)
        setattr(owner, word, cut(getattr(owner, word), (0,)))


def _shrink_layer(
    module: nn.Module, rows: Mapping[int, int], cut: Callable[[nn.Parameter, tuple[int, ...]], nn.Parameter]
) -> None:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.num_embeddings in rows:
        module.weight = cut(cast("nn.Parameter", module.weight), (0,))
        module.num_embeddings = rows[module.num_embeddings]
        if module.padding_idx is not None:
            module.padding_idx = min(module.padding_idx, module.num_embeddings - 1)
    elif isinstance(module, nn.Linear) and (module.out_features in rows or module.in_features in rows):
        module.weight = cut(cast("nn.Parameter", module.weight), (0, 1))
        if module.bias is not None and module.out_features in rows:
            module.bias = cut(module.bias, (0,))
        module.out_features, module.in_features = module.weight.shape
