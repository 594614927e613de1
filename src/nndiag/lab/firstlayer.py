"""What does the first layer with weights see, and how steep is the loss along its weights?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nndiag.core.subject import Batch
from nndiag.lab.borrow import seeded
from nndiag.lab.forward import TARGET_KEYS, as_tensors, main_input, main_output, mapped, tensors_in
from nndiag.lab.objective import loss_of
from nndiag.lab.watch.roles import DROPOUT, EMBEDDING, MATMUL, NORMALISER, SHAPE, WEIGHTED
from nndiag.lab.watch.sites import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nndiag.core.findings import Where
    from nndiag.lab.objective import Objective
    from nndiag.lab.watch.sites import Call, Trace


VIEW = (0.5, 2.0)  # distance of means in sd, ratio of sds: another view of the same input
ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "neg", "pow", "sqrt"})  # of a tensor and a number


@dataclass(frozen=True)
class FirstLayer:
    """The first step with weights that the main input reaches."""

    name: str  # dotted module name
    where: Where
    kind: str  # a role: affine, recurrent, attention, embedding, matmul
    axis: int  # of features in `values`
    values: Tensor  # what it read
    raw: bool  # nothing but reshaping between the batch and it
    normaliser: str  # the normaliser on the way, if any
    parameters: tuple[str, ...]  # dotted names of its weights

    @property
    def same_shape(self) -> bool:
        """Whether it is a convolution, whose channels are axis 1."""
        return self.axis == 1 and self.values.dim() > 2


def first_layer(model: nn.Module, batch: Batch) -> FirstLayer | None:
    """Return the first weighted step behind the main input, as it runs in training mode; None without one."""
    trained = _usable_in_training(model, batch)
    run = trace(model, batch, training=trained, keep=True)
    inputs = as_tensors(batch.inputs)
    main = main_input(inputs)
    roots = [
        number for number, item in zip(run.inputs, tensors_in(inputs), strict=False) if main is None or item is main
    ]
    reached: dict[int, tuple[bool, str]] = dict.fromkeys(roots or run.inputs, (True, ""))
    for step in run.steps:
        read = [number for number in step.inputs if number in reached]
        if not read:
            continue
        raw, normaliser = reached[read[0]]
        if step.role in WEIGHTED or (step.role == MATMUL and step.parameters):
            return _described(model, run, step, read[0], (raw, normaliser))
        if step.role == NORMALISER:
            normaliser = normaliser or f"{step.target.rpartition('.')[2]} '{step.name}'"
        for number in _made(run, step):
            reached.setdefault(
                number, (raw and step.role in {SHAPE, DROPOUT} and step.op not in ARITHMETIC, normaliser)
            )
    return None


def _usable_in_training(model: nn.Module, batch: Batch) -> bool:
    """Whether batch norm can run in training mode on so few values."""
    few = main_input(as_tensors(batch.inputs))
    has_batchnorm = any(isinstance(item, nn.modules.batchnorm._BatchNorm) for item in model.modules())  # noqa: SLF001
    return (few is not None and (few.shape[0] > 1 if few.dim() else False)) or not has_batchnorm


def _made(run: Trace, step: Call) -> list[int]:
    return [number for number, makers in run.makers.items() if step.index in makers]


def _described(model: nn.Module, run: Trace, step: Call, read: int, way: tuple[bool, str]) -> FirstLayer | None:
    values = run.values.get(read)
    if values is None:
        return None
    convolution = isinstance(step.module, nn.modules.conv._ConvNd) or "conv" in step.op  # noqa: SLF001
    unbatched = convolution and values.dim() < 3
    if step.module is not None:
        prefix = f"{step.name}." if step.name else ""
        names = tuple(prefix + name for name, _ in step.module.named_parameters())
    else:
        names = step.parameters
    known = dict(model.named_parameters())
    return FirstLayer(
        step.name if step.kind == "module" else step.owner,
        step.place,
        EMBEDDING if step.role == EMBEDDING else step.role,
        1 if convolution and not unbatched else max(values.dim() - 1, 0),
        values.detach(),
        way[0],
        way[1],
        tuple(name for name in names if name in known),
    )


def with_input(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with its main floating-point (or byte) input changed, and every other view of the same kind.

    Two views of one sample, an anchor and a positive, are prepared by one pipeline; everything else stays as it is.
    """
    inputs = as_tensors(batch.inputs)
    main = main_input(inputs)
    rest = inputs
    if isinstance(inputs, Mapping):
        rest = {key: value for key, value in inputs.items() if key not in TARGET_KEYS}
    views = [item for item in tensors_in(rest) if main is not None and _alike(main, item)]
    return replace(
        batch,
        inputs=mapped(inputs, lambda item: change(item) if any(item is one for one in (main, *views)) else item),
    )


def _alike(main: Tensor, other: Tensor) -> bool:
    """Whether another input has the shape, the kind, and nearly the mean and spread of the main one."""
    if other is main or other.shape != main.shape or other.dtype != main.dtype or main.numel() < 2:
        return False
    (mean, sd), (mean_other, sd_other) = ((float(x.double().mean()), float(x.double().std())) for x in (main, other))
    return sd > 0 and abs(mean_other - mean) <= VIEW[0] * sd and sd / VIEW[1] <= sd_other <= sd * VIEW[1]


@dataclass(frozen=True)
class Standardiser:
    """x -> (x - mean) / sd along one axis (None: one mean and sd for all)."""

    mean: Tensor
    sd: Tensor
    axis: int | None

    def __call__(self, item: Tensor) -> Tensor:
        """Return the standardised tensor, in float32 or the tensor's own floating dtype."""
        x = item if item.is_floating_point() else item.float()
        shape = [1] * x.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        mean, sd = self.mean.reshape(shape), self.sd.reshape(shape)
        return ((x.double() - mean) / sd).to(x.dtype)


@dataclass(frozen=True)
class Start:
    """A model before its first step."""

    loss: float
    output: Tensor
    gradients: dict[str, float]  # parameter -> norm

    @property
    def gradient(self) -> float:
        """Norm of the whole gradient."""
        return math.sqrt(sum(value**2 for value in self.gradients.values()))


def start(model: nn.Module, batch: Batch, objective: Objective, *, seed: int = 0) -> Start:
    """Return loss, outputs and gradient norms of a private model in its present mode."""
    with seeded(seed), torch.enable_grad():
        model.zero_grad(set_to_none=True)
        loss, output = loss_of(model, batch, objective)
        if loss.requires_grad and bool(torch.isfinite(loss)):
            loss.backward()  # type: ignore[no-untyped-call]
    norms = {
        name: float((item.grad.to_dense() if item.grad.is_sparse else item.grad).double().norm())
        for name, item in model.named_parameters()
        if item.grad is not None
    }
    return Start(float(loss.detach()), main_output(output).detach(), norms)


def sharpness(  # noqa: PLR0913 - what is differentiated, and how long
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    names: Sequence[str],
    *,
    seed: int = 0,
    rounds: int = 24,
    seconds: float = math.inf,
) -> float:
    """Return the largest eigenvalue of the loss's Hessian along some parameters, by power iteration.

    The block's largest eigenvalue bounds that of the whole Hessian from below, so 2 / sharpness bounds the stable
    learning rate of gradient descent from above (Cohen et al. 2021, sec. 2).

    Args:
        model: A private copy, in the mode of training.
        batch: On which the loss is taken.
        objective: The loss.
        names: Parameters that span the block.
        seed: Of dropout and of the start vector.
        rounds: Iterations at most.
        seconds: After which no further iteration begins.

    Returns:
        λmax, nan when the loss is not finite, has no second derivative here, or time ran out before two iterations.
    """
    deadline = time.monotonic() + seconds
    known = dict(model.named_parameters())
    block = [known[name] for name in names if name in known and known[name].requires_grad]
    if not block:
        return math.nan
    with seeded(seed), torch.enable_grad():
        loss, _ = loss_of(model, batch, objective)
        if not loss.requires_grad or not bool(torch.isfinite(loss)):
            return math.nan
        try:
            first = torch.autograd.grad(loss, block, create_graph=True, allow_unused=True)
            return _power(first, block, rounds, deadline)
        except RuntimeError:  # some kernels have no second derivative
            return math.nan


def shrunk(model: nn.Module, names: Sequence[str], by: float) -> nn.Module:
    """Return the private model with the named weights divided, so that large inputs leave its units in their range.

    Large inputs saturate a softmax or a sigmoid at the start, and the curvature there is far below that of the basin
    that training must enter. Dividing the first layer by the inputs' root mean square gives the activations of unit
    inputs; the curvature along its weights is then the one that counts.
    """
    known = dict(model.named_parameters())
    with torch.no_grad():
        for name in names:
            if name in known and known[name].dim() > 1:
                known[name].div_(by)
    return model


def _power(first: Sequence[Tensor | None], block: Sequence[Tensor], rounds: int, deadline: float) -> float:
    """Power iteration with Hessian-vector products."""
    pairs = [(g, p) for g, p in zip(first, block, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return 0.0
    grads, params = [g for g, _ in pairs], [p for _, p in pairs]
    vector = [g.detach() + 1e-3 * g.detach().norm() * torch.randn_like(g) / math.sqrt(g.numel()) for g in grads]
    value = 0.0
    for done in range(rounds):
        if time.monotonic() > deadline:
            return value if done > 1 else math.nan
        norm = torch.stack([v.norm() for v in vector]).norm()
        if not bool(torch.isfinite(norm)) or float(norm) == 0:
            return value
        vector = [v / norm for v in vector]
        along = torch.stack([(g * v).sum() for g, v in zip(grads, vector, strict=True)]).sum()  # no grad_outputs: sympy
        product = torch.autograd.grad(along, params, retain_graph=True, allow_unused=True)
        vector, before = (
            [p if p is not None else torch.zeros_like(q) for p, q in zip(product, params, strict=True)],
            value,
        )
        value = float(torch.stack([v.norm() for v in vector]).norm())
        if abs(value - before) <= 1e-3 * abs(value):
            break
    return value


def reach(values: Tensor, axis: int, lr: float, fan_in: int) -> float:
    """Return how far a sign step (Adam's first) moves a unit of the first layer: lr · E|x| · inputs per unit."""
    return lr * float(values.double().abs().mean()) * fan_in if values.dim() > axis else 0.0


def fan_in(model: nn.Module, first: FirstLayer) -> int:
    """Return how many inputs one unit of the layer sums."""
    known = dict(model.named_parameters())
    weights = [known[name] for name in first.parameters if known[name].dim() > 1]
    if not weights:
        return int(first.values.shape[first.axis])
    weight = weights[0]
    if first.kind == MATMUL:
        return int(first.values.shape[-1])
    return int(weight[0].numel())
