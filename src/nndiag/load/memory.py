"""Arrays, lists and tensors in memory, as the records that the checks read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from nndiag.load.chunked import Chunked
    from nndiag.load.curves import Curve
    from nndiag.load.tokens import Tokens


def array_of(value: Any, name: str) -> Chunked:
    """Return labels or predictions in the form that the check reads: chunks of rows."""
    from nndiag.load.chunked import from_array
    from nndiag.load.labels import entropy_inputs

    if isinstance(value, str):
        materials: dict[str, Callable[[], Mapping[str, Any]]] = {
            "labels": lambda: entropy_inputs(value),
            "predictions": lambda: entropy_inputs(None, predictions=value),
            "logits": lambda: entropy_inputs(None, logits=value),
        }
        opened: Chunked = materials[name]()[name]
        return opened
    return from_array(numbers_of(value), name)


def numbers_of(value: Any) -> NDArray[Any]:
    """Return an array of our own from an array, a tensor or a list."""
    import numpy as np

    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        value = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.array(value)


def curve_of(curve: Any) -> Curve:
    """Return a logged loss from numbers in order, or from FILE:COLUMN."""
    from nndiag.load.curves import Curve, load_curve

    if isinstance(curve, str):
        return load_curve(curve)
    if isinstance(curve, Curve):
        return curve
    import numpy as np

    values = numbers_of(curve).astype(np.float64).reshape(-1)
    kept = np.isfinite(values)
    return Curve("curve", np.arange(len(values))[kept], values[kept], rounding=0.0)


def tokens_of(tokens: Any) -> Tokens:
    """Return a corpus from an array of ids, or from a file."""
    from nndiag.load.tokens import Tokens, load_tokens

    if isinstance(tokens, (str, Tokens)):
        return load_tokens(tokens) if isinstance(tokens, str) else tokens
    import numpy as np

    ids = numbers_of(tokens)
    if ids.dtype.kind not in "iu":
        raise UsageError(f"tokens are {ids.dtype}, not whole numbers", hint="pass the ids that the embedding is given")
    width = int(ids.shape[1]) if ids.ndim == 2 else None
    return Tokens("tokens", "ids", width, lambda: iter([ids.reshape(-1).astype(np.int64)]))
