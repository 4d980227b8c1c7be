r"""Stochastic sampling with the flow's own marginals.

For any diffusion $w(t) \ge 0$ the equation $dx = [v + \tfrac12 w\, s]\,dt + \sqrt w\, dB$ has the marginals of the
flow. Euler-Maruyama steps it; the last step takes the mean alone.

Reference: Score-Based Generative Modeling through SDEs, Song et al. (2021); SiT, Ma et al. (2024), whose "sigma"
form is w = 2 sigma here.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Jump, Solver, SolverState
from rheos.core.state import State, add, affine

__all__ = ["DIFFUSIONS", "SDE"]

DIFFUSIONS = ("constant", "sigma", "sbdm")


@final
@dataclass(frozen=True, kw_only=True)
class SDE(Solver):
    r"""Euler-Maruyama on the marginal-preserving equation.

    Args:
        diffusion: w(t): "constant" 1, "sigma" $\sigma$, "sbdm" $2 \sigma D / \alpha$ (the reverse of the forward
            diffusion of the schedule).
        scale: A factor on w, at least 0; 0 is Euler.

    Raises:
        UnknownOptionError: For an unknown diffusion.
        OptionError: For a negative scale.
    """

    diffusion: str = "sigma"
    scale: float = 1.0

    schedule_free = False
    stochastic = True

    def __post_init__(self) -> None:
        check_choice("diffusion", self.diffusion, DIFFUSIONS)
        if not self.scale >= 0:
            raise OptionError(f"scale must be at least 0, got {self.scale}.")

    def rate(self, t: Scalar) -> Scalar:
        """w(t); where it is infinite (sbdm at t = 0) zero, so that the first step is the ODE's."""
        law = self.law
        if self.diffusion == "constant":
            return self.scale * (0.0 * t + 1.0)
        if self.diffusion == "sigma":
            return self.scale * law.sigma(t)
        w = self.scale * 2 * sc.divide(law.sigma(t) * law.wronskian(t), law.alpha(t))
        return sc.where(w == sc.math.inf, 0.0 * t, w)

    def jump(self, s: SolverState, value: State) -> Jump:
        """mean = x + h (v + w score / 2), std = sqrt(w h)."""
        t, end = s["t"], s["end"]
        h = end - t
        w = self.rate(t)
        cx, cv = self.path.coefficients(t, "velocity", "score")  # type: ignore[attr-defined]
        drift = sc.where(w == 0, 0.0 * t, 0.5 * w)
        cx, cv = (sc.where(drift == 0, 0.0 * t, c) for c in (cx, cv))
        mean = affine(1.0 + h * drift * cx, s["x"], h * (1.0 + drift * cv), value)
        last = end >= 1.0
        std = sc.sqrt(w * abs(h))
        return Jump(mean, sc.where(last, 0.0 * t, std))

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        mean, std = self.jump(s, value if lead is None else lead)
        if not isinstance(std, Tensor) and std == 0:
            return {**s, "x": mean, "stage": DONE}
        return {**s, "x": add(mean, std, noise), "stage": DONE}  # type: ignore[arg-type]
