"""Borrow a model, and give it back bit for bit, whatever happened in between."""

from __future__ import annotations

import contextlib
import hashlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nndiag.lab.snapshot import ModelSnapshot, OptimizerSnapshot, bits

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def borrow(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, weights: bool = True
) -> Iterator[nn.Module]:
    """Lend the model itself; on the way out everything is as it came, also after an exception.

    Restored are parameters and buffers (the objects and their bits, also where they were re-assigned), gradients
    (absent or present), `requires_grad`, the training flag of every module by itself (`eval(); train()` would
    unfreeze a frozen batch norm), hooks, child modules, plain attributes, the optimizer's state and groups, the
    random state of torch, NumPy and Python, and the autograd switches.

    Args:
        model: Lent as it is: the same object.
        optimizer: Given back too, when one is passed.
        weights: Whether the values of parameters are kept to be put back. A copy of our own that only runs forward
            needs no such care, and copying the weights of a large model takes as long as running it.

    Yields:
        The model.
    """
    lent = ModelSnapshot.of(model, weights=weights)
    state = OptimizerSnapshot.of(optimizer) if optimizer is not None else None
    randomness = RandomState.now()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    with contextlib.ExitStack() as back:  # each of these happens, also when another of them fails
        back.callback(torch.set_default_dtype, dtype)
        back.callback(torch.set_grad_enabled, grad)
        back.callback(randomness.restore)
        if state is not None:
            back.callback(state.restore)
        back.callback(lent.restore)
        yield model


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python inside; afterwards each goes on as if nothing had been drawn."""
    before = RandomState.now()
    try:
        seed_all(seed)
        yield
    finally:
        before.restore()


@contextlib.contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """As `seeded`, and deaf to seeds that the code inside sets: what it draws is drawn anew.

    Reached are the functions that PyTorch, NumPy, Python, and through them Keras, Lightning and Transformers seed
    with. A generator of the code's own keeps its seed.
    """
    owners: tuple[tuple[Any, str], ...] = (
        (torch, "manual_seed"), (torch.random, "manual_seed"), (torch.cuda, "manual_seed"),
        (torch.cuda, "manual_seed_all"), (np.random, "seed"), (random, "seed"),
    )  # fmt: skip
    with seeded(seed), contextlib.ExitStack() as back:
        for owner, name in owners:
            back.callback(setattr, owner, name, getattr(owner, name))
        for owner, name in owners:
            setattr(owner, name, lambda *_args, **_kwargs: torch.default_generator)
        yield


def seed_all(seed: int) -> None:
    """Seed torch on every device, NumPy's global generator and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is the user's global generator that is forked
    random.seed(seed)


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class RandomState:
    """The random state of torch on every device in use, of NumPy and of Python."""

    def __init__(self) -> None:
        """Take it as it is now."""
        self._torch = torch.get_rng_state()
        self._numpy = np.random.get_state()  # noqa: NPY002 - likewise
        self._python = random.getstate()
        self._cuda = torch.cuda.get_rng_state_all() if _cuda_in_use() else None
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    @classmethod
    def now(cls) -> RandomState:
        """Return the present state."""
        return cls()

    def restore(self) -> None:
        """Put it back."""
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)  # noqa: NPY002 - likewise
        random.setstate(self._python)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> str:
    """Return a digest of everything about a model that `borrow` promises to give back.

    Bits, not values: NaN payloads and the sign of zero count. Which gradient is None counts too.
    """
    digest = hashlib.sha256()

    def add(*words: object) -> None:
        digest.update("\0".join(map(str, words)).encode() + b"\n")

    for name, module in model.named_modules(remove_duplicate=False):
        add("module", name, type(module).__module__, type(module).__qualname__, module.training)
        for key, value in sorted(vars(module).items()):
            if key.endswith("_hooks") and isinstance(value, dict):
                add(
                    "hooks",
                    key,
                    [getattr(hook, "__qualname__", type(hook).__name__) for hook in value.values()],
                )
        for kind in ("_parameters", "_buffers"):
            for key, tensor in module.__dict__.get(kind, {}).items():
                add(kind, key)
                _add_tensor(digest, tensor)
        add("non-persistent", sorted(module.__dict__.get("_non_persistent_buffers_set", ())))
    if optimizer is not None:
        _add_state(digest, optimizer.state_dict())
    return digest.hexdigest()


def _add_tensor(digest: hashlib._Hash, tensor: Tensor | None) -> None:
    if tensor is None:
        digest.update(b"none")
        return
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
        digest.update(b"lazy")
        return
    grad = tensor.grad if tensor.is_leaf else None
    hooks = getattr(tensor, "_backward_hooks", None)
    about = (
        tuple(tensor.shape),
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
        len(hooks or ()),
        grad is None,
    )
    digest.update(repr(about).encode())
    digest.update(bits(tensor))
    if grad is not None:
        digest.update(bits(grad))


def _add_state(digest: hashlib._Hash, thing: Any) -> None:
    """Feed nested optimizer state, mappings in sorted order."""
    if isinstance(thing, Tensor):
        _add_tensor(digest, thing)
    elif isinstance(thing, dict):
        for key in sorted(thing, key=str):
            digest.update(f"{key}:".encode())
            _add_state(digest, thing[key])
    elif isinstance(thing, list | tuple):
        for item in thing:
            _add_state(digest, item)
    else:
        digest.update(repr(thing).encode())
