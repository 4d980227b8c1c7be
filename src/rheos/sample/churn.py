r"""Churn: noise is added before a step, and the network is asked where the noise puts the state.

The state goes back to the time $\hat t < t$ whose noise, in EDM's measure $\sigma / \alpha$, is larger by $1 + \gamma$:

$$ \hat x = \frac{\hat\alpha}{\alpha} x + \sqrt{\hat\sigma^2 - (\hat\alpha \sigma / \alpha)^2}\, \epsilon, $$

which keeps the marginal on every path, and an Euler or Heun step leads from $\hat t$ to the end of the interval.

Reference: EDM, Karras et al. (2022), algorithm 2, https://arxiv.org/abs/2206.00364
"""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError
from rheos.core.paths import Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Solver, SolverState
from rheos.core.state import State, add, scale
from rheos.sample.jumps import check_forwards

__all__ = ["Churn"]


@final
@dataclass(frozen=True, kw_only=True)
class Churn(Solver):
    """EDM's stochastic sampler, on any affine path.

    Args:
        gamma: Noise is raised by this factor before a step, at least 0; 0 is the ODE.
        low: Only where EDM's noise sigma / alpha is at least this,
        high: and at most this.
        size: Factor on the fresh noise, EDM's S_noise; 1 keeps the marginals.
        heun: Whether the step has a second evaluation (except to t = 1), as EDM's; else it is Euler's.

    Raises:
        OptionError: For values out of range.
        TimeError: If the grid runs from data to noise.

    Example:
        >>> Churn.edm(40.0, steps=100).gamma
        0.4
    """

    gamma: float = 0.4
    low: float = 0.0
    high: float = math.inf
    size: float = 1.0
    heun: bool = True

    schedule_free = False
    stochastic = True
    kicks = True

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise OptionError(f"gamma must be at least 0 and finite, got {self.gamma}.")
        if not 0 <= self.low < self.high:
            raise OptionError(f"low and high are noise levels with 0 <= low < high, got {self.low} and {self.high}.")
        if not 0 < self.size < math.inf:
            raise OptionError(f"size must be positive and finite, got {self.size}.")

    @classmethod
    def edm(cls, s_churn: float, steps: int, low: float = 0.0, high: float = math.inf, size: float = 1.0) -> "Churn":
        r"""EDM's parameters: $\gamma = \min(S_{churn} / N, \sqrt 2 - 1)$."""
        return cls(gamma=min(s_churn / steps, math.sqrt(2) - 1), low=low, high=high, size=size)

    @property
    def order(self) -> int:  # type: ignore[override]
        """Of the ODE step."""
        return 2 if self.heun else 1

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Network calls a step."""
        return 2 if self.heun else 1

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_forwards("Churn", t, end)
        return super().start(s, t, end)

    def kick(self, s: SolverState, noise: State) -> SolverState:
        """Go back to a noisier time; at t = 0 there is none."""
        if self.gamma == 0:
            return s
        law, t = self.law, s["t"]
        lam = law.lam(t)
        level = sc.exp(-lam)
        inside = (level >= self.low) & (level <= self.high) & (level < math.inf)
        raised = sc.where(inside, lam - math.log1p(self.gamma), 0.0)
        at = sc.where(inside, _at_least(law.t_of_lam(raised), self.finite[0]), t)
        ratio = sc.where(inside, sc.divide(law.alpha(at), law.alpha(t)), 1.0)
        fresh = sc.sqrt(_positive(law.sigma(at) ** 2 - (ratio * law.sigma(t)) ** 2))
        return {**s, "x": add(scale(ratio, s["x"]), self.size * sc.where(inside, fresh, 0.0), noise), "t": at}

    def ask(self, s: SolverState) -> Ask:
        """The velocity where the noise has put the state, then at the end."""
        t, end = s["t"], s["end"]
        if s["stage"] == 0:
            return Ask(s["x"], t, (t, end), "velocity")
        at = end.clamp(*self.finite) if isinstance(end, Tensor) else end
        return Ask(add(s["x"], end - t, s["k"]), at, (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Euler's step, or Heun's where it does not reach t = 1."""
        t, end = s["t"], s["end"]
        h = end - t
        if s["stage"] == 0 and self.heun and (isinstance(end, Tensor) or end < min(1.0, self.finite[1])):
            return {**s, "k": value, "stage": 1}
        if s["stage"] == 0:
            return self._done(s, add(s["x"], h, value))
        half = sc.where(end < min(1.0, self.finite[1]), 0.5, 0.0)
        return self._done(s, add(add(s["x"], h * (1.0 - half), s["k"]), h * half, value))

    def _done(self, s: SolverState, x: State) -> SolverState:
        return {"x": x, "t": s["t"], "end": s["end"], "stage": DONE}


def _positive(z: Scalar) -> Scalar:
    return z.clamp(min=0.0) if isinstance(z, Tensor) else max(z, 0.0)


def _at_least(z: Scalar, low: float) -> Scalar:
    return z.clamp(min=low) if isinstance(z, Tensor) else max(z, low)
