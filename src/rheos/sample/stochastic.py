r"""Stochastic sampling with the flow's own marginals.

For any diffusion $w(t) \ge 0$ the equation $dx = [v + \tfrac12 w\, s]\,dt + \sqrt w\, dB$ has the marginals of the
flow. Euler-Maruyama steps it; the step that reaches t = 1 is the ODE's, and so is one that leaves a time at which w is
infinite; and w is lowered where the step is too long for it. On a grid from data to noise the sign
of the score's drift turns, and the marginals are kept likewise.

Reference: Score-Based Generative Modeling through SDEs, Song et al. (2021); SiT, Ma et al. (2024), whose "sigma"
form is w = 2 sigma here.
"""

import math
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import AffinePath
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Jump, Solver, SolverState
from rheos.core.state import State, add, affine

__all__ = ["DIFFUSIONS", "SDE"]

DIFFUSIONS = ("constant", "sigma", "sbdm")
MOST = 0.25
"""Of the variance that is there, a step replaces no more: Euler-Maruyama would add more noise than it takes away."""


@final
@dataclass(frozen=True, kw_only=True)
class SDE(Solver):
    r"""Euler-Maruyama on the marginal-preserving equation.

    Args:
        diffusion: w(t): "constant" 1, "sigma" $\sigma$, "sbdm" $2 \sigma D / \alpha$: the reverse of the forward
            diffusion of the schedule, as in DDPM. Flow-GRPO's $g = a \sqrt{(1 - t) / t}$ is "sbdm" with scale
            $a^2 / 2$ on the linear path.
        scale: A factor on w, at least 0; 0 is Euler.

    Raises:
        UnknownOptionError: For an unknown diffusion.
        OptionError: For a negative or infinite scale.
    """

    diffusion: str = "sigma"
    scale: float = 1.0

    schedule_free = False
    stochastic = True
    leads = True

    def __post_init__(self) -> None:
        check_choice("diffusion", self.diffusion, DIFFUSIONS)
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"scale must be at least 0 and finite, got {self.scale}.")

    def rate(self, t: Scalar) -> Scalar:
        """w(t); where it is infinite (sbdm at t = 0) zero, so that the first step is the ODE's."""
        law = self.law
        if self.diffusion == "constant":
            return self.scale * (0.0 * t + 1.0)
        if self.diffusion == "sigma":
            return self.scale * law.sigma(t)
        w = self.scale * 2 * sc.divide(law.sigma(t) * law.wronskian(t), law.alpha(t))
        return sc.where(w == math.inf, 0.0, w)

    def jump(self, s: SolverState, value: State) -> Jump:
        r"""Mean $x + h v + \tfrac12 |h| w s$, standard deviation $\sqrt{w |h|}$."""
        t, end = s["t"], s["end"]
        h = end - t
        w = sc.where(end >= 1.0, 0.0, _least(self.rate(t), MOST * self.law.sigma(t) ** 2 / abs(h)))
        cx, cv = cast(AffinePath, self.path).coefficients(t, "velocity", "score")
        cx, cv = (sc.where(w == 0, 0.0, 0.5 * w * c) for c in (cx, cv))
        mean = affine(1.0 + abs(h) * cx, s["x"], h + abs(h) * cv, value)
        return Jump(mean, sc.sqrt(w * abs(h)))

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        mean, std = self.jump(s, value if lead is None else lead)
        if not isinstance(std, Tensor) and std == 0:
            return {**s, "x": mean, "stage": DONE}
        return {**s, "x": add(mean, std, cast(State, noise)), "stage": DONE}


def _least(a: Scalar, b: Scalar) -> Scalar:
    return sc.where(a < b, a, b)
