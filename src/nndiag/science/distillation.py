"""The least value of a distillation loss that mixes labels with a teacher (Hinton, Vinyals & Dean 2015, section 2).

    f(z) = a CE(y, softmax(z)) + (1-a) T^2 KL(q || softmax(z/T)),    q = softmax(teacher / T)                        (1)

f is convex in the logits z. At T = 1 the optimum is p = a y + (1-a) q and the floor H(p) - (1-a) H(q); otherwise labels
and teacher ask for different logits, and the floor is not the sum of their minima. Both parts are log-sum-exp less a
linear term, so the excess over the floor is exactly

    f(z) - f(z*) = a KL(p* || p) + (1-a) T^2 KL(p*_T || p_T)                                                         (2)

(the Bregman divergence of log-sum-exp; Banerjee et al. 2005), which loses no digits near the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nndiag.science.entropy import kl, log_softmax, xlogx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

LEAST = -60.0  # a log probability below it is none
STEPS = 60
SMALL = 1e-12


@dataclass(frozen=True)
class Mixture:
    """Weights and temperature of equation (1)."""

    alpha: float  # weight of the labels
    temperature: float

    def loss(self, z: Floats, y: Floats, q: Floats) -> Floats:
        """Return f(z) per row (rows,), nats.

        Args:
            z: Logits (rows, classes).
            y: Labels (rows, classes), rows sum to one.
            q: The teacher's probabilities at the temperature (rows, classes).
        """
        return self.mean_loss(z, y, q, -xlogx(q).sum(-1))

    def mean_loss(self, z: Floats, y: Floats, q: Floats, entropy: float | Floats) -> Floats:
        """Return f(z) for means y and q over rows; `entropy` is the mean entropy of the rows behind q."""
        t = self.temperature
        hard = -(y * log_softmax(z)).sum(-1)
        soft = -(q * log_softmax(z / t)).sum(-1) - entropy
        return np.asarray(self.alpha * hard + (1.0 - self.alpha) * t**2 * soft)

    def excess(self, z: Floats, best: Floats) -> Floats:
        """Return f(z) - f(best) per row (rows,), equation (2)."""
        t = self.temperature
        hard = kl(np.exp(log_softmax(best)), log_softmax(z))
        soft = kl(np.exp(log_softmax(best / t)), log_softmax(z / t))
        return np.asarray(self.alpha * hard + (1.0 - self.alpha) * t**2 * soft)

    def optimum(self, y: Floats, q: Floats) -> Floats:
        """Return the logits (rows, classes) of the least loss, by Newton steps with halving.

        The Hessian is a diagonal less two outer products, so a step costs O(classes).
        """
        with np.errstate(divide="ignore"):
            taught = np.exp(log_softmax(self.temperature * np.maximum(np.log(q), LEAST)))
            # exact at T = 1; elsewhere a start that neither labels nor teacher hold impossible
            z = np.maximum(np.log(self.alpha * y + (1.0 - self.alpha) * taught), self.temperature * LEAST)
        if self.temperature == 1.0:
            return np.asarray(z)
        value = self.loss(z, y, q)
        for _ in range(STEPS):
            slope, step = self._newton(z, y, q)
            gain = (slope * step).sum(-1)  # the squared decrement (rows,)
            if float(gain.max(initial=0.0)) < SMALL**2:
                break
            length = np.ones(len(z))
            for _ in range(40):
                trial = z - length[:, None] * step
                reached = self.loss(trial, y, q)
                short = reached > value - 0.1 * length * gain + 1e-15 * np.abs(value)
                if not short.any():
                    break
                length = np.where(short, 0.5 * length, length)
            better = reached <= value
            z, value = np.where(better[:, None], trial, z), np.where(better, reached, value)
        return z

    def _newton(self, z: Floats, y: Floats, q: Floats) -> tuple[Floats, Floats]:
        """Gradient and Newton step (rows, classes): Sherman-Morrison-Woodbury on diag(d) - U U'."""
        a, t = self.alpha, self.temperature
        p, soft = np.exp(log_softmax(z)), np.exp(log_softmax(z / t))
        slope = a * (p - y) + (1.0 - a) * t * (soft - q)
        d = np.maximum(a * p + (1.0 - a) * soft, 1e-30)
        u = np.stack([np.sqrt(a) * p, np.sqrt(1.0 - a) * soft], axis=1)  # (rows, 2, classes)
        small = np.eye(2) - np.einsum("nik,njk->nij", u / d[:, None], u)
        # equal shifts of all logits change nothing: the small system is singular there, and its right side consistent
        inverse = np.linalg.pinv(small, rcond=1e-10, hermitian=True)
        inner = np.einsum("nij,nj->ni", inverse, np.einsum("nik,nk->ni", u, slope / d))
        return slope, slope / d + np.einsum("nik,ni->nk", u, inner) / d
