r"""Exponential integrators on the data estimate: DDIM and DPM-Solver++.

On an affine path $x_{t'} = \frac{\sigma'}{\sigma} x_t + \left(\alpha' - \alpha \frac{\sigma'}{\sigma}\right) D$ is
exact when the data estimate is the constant D; the methods differ in how they guess its mean over the step.
Here $h = \lambda' - \lambda$ is infinite in the first interval (from t = 0) and in the last (to t = 1): there every
method drops to first order, and the last step returns the data estimate itself.
"""

import math
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, TimeError
from rheos.core.paths import Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Jump, Solver, SolverState
from rheos.core.state import State, add, affine

__all__ = ["DDIM", "DPM2M", "DPM2S"]


def decay(solver: Solver, t: Scalar, end: Scalar) -> tuple[Scalar, Scalar]:
    """(c_x, c_D) of the exponential step from t to end."""
    law = solver.law
    c = sc.divide(law.sigma(end), law.sigma(t))
    return c, law.alpha(end) - law.alpha(t) * c


def is_infinite(h: Scalar) -> bool | Tensor:
    """Whether a step in lambda is infinite."""
    return h.isinf() if isinstance(h, Tensor) else math.isinf(h)


def check_backwards(solver: Solver, t: Time, end: Time) -> None:
    """Refuse an interval that leaves t = 1 backwards, where nothing of the noise is left to scale.

    Raises:
        TimeError: With the way out.
    """
    if isinstance(t, float) and t == 1.0 and isinstance(end, float) and end < t and solver.law.sigma(t) == 0:
        raise TimeError(
            f"{type(solver).__name__} steps by ratios of noise, and there is none at t = 1. "
            "Begin the inversion at 1 - 1e-3, or use a Runge-Kutta solver such as 'heun'."
        )


class _Exponential(Solver):
    """Asks for the data estimate at the interval's start."""

    schedule_free = False

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_backwards(self, t, end)
        return super().start(s, t, end)

    def ask(self, s: SolverState) -> Ask:
        """The data estimate."""
        t = s["t"]
        return Ask(s["x"], t, (t, s["end"]), "data")


@final
@dataclass(frozen=True, kw_only=True)
class DDIM(_Exponential):
    r"""$x' = \alpha' \hat x_1 + \sqrt{\sigma'^2 - s^2}\, \hat x_0 + s \epsilon$, $s = \eta \sigma' \sqrt{1 - e^{-2h}}$.

    With eta = 0 this is exponential Euler, and on the linear path it is Euler exactly. With eta > 0 each jump keeps
    the marginal; eta = 1 is ancestral sampling.

    Args:
        eta: Amount of fresh noise, in [0, 1].

    Raises:
        OptionError: If eta lies outside [0, 1].
        TimeError: If eta > 0 and the grid runs from data to noise.

    Reference: Denoising Diffusion Implicit Models, Song et al. (2021), eq. 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise OptionError(f"eta must lie in [0, 1], got {self.eta}.")

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        if self.eta and isinstance(t, float) and isinstance(end, float) and end < t:
            raise TimeError("DDIM with eta > 0 adds noise on the way to the data; inversion needs eta = 0.")
        return super().start(s, t, end)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether fresh noise is added."""
        return self.eta > 0

    def jump(self, s: SolverState, value: State) -> Jump:
        """The Gaussian step."""
        if not self.eta:
            return super().jump(s, value)
        law, t, end = self.law, s["t"], s["end"]
        ratio = sc.divide(law.alpha(t) * law.sigma(end), law.alpha(end) * law.sigma(t))  # e^{-h}
        fresh, eta2 = sc.expm1(2 * sc.log(ratio)) * -1.0, self.eta * self.eta
        std = self.eta * law.sigma(end) * sc.sqrt(fresh)
        c = sc.divide(law.sigma(end) * sc.sqrt(1 - eta2 + eta2 * ratio * ratio), law.sigma(t))
        return Jump(affine(c, s["x"], law.alpha(end) - c * law.alpha(t), value), std)

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        value = value if lead is None else lead
        if not self.eta:
            c, d = decay(self, s["t"], s["end"])
            return {**s, "x": affine(c, s["x"], d, value), "stage": DONE}
        mean, std = self.jump(s, value)
        return {**s, "x": add(mean, std, cast(State, noise)), "stage": DONE}


@final
@dataclass(frozen=True, kw_only=True)
class DPM2M(_Exponential):
    r"""DPM-Solver++(2M): $D = \hat x_1 + \frac{h}{2 h_{prev}} (\hat x_1 - \hat x_{1,prev})$, one evaluation a step.

    Reference: DPM-Solver++, Lu et al. (2022), algorithm 2.
    """

    order = 2

    def init(self, x: State) -> SolverState:
        """No history."""
        return {**super().init(x), "last": None, "h": 0.0}

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Extrapolate the data estimate and step."""
        t, end, last = s["t"], s["end"], s["last"]
        h = self.law.lam(end) - self.law.lam(t)
        c, d = decay(self, t, end)
        x = affine(c, s["x"], d, value if lead is None else lead)
        if last is not None:
            g = sc.where(is_infinite(h), 0.0, 0.5 * sc.divide(h, s["h"]))
            x = add(add(x, d * g, value), -d * g, last)
        return {**s, "x": x, "last": value, "h": h, "stage": DONE}


@final
@dataclass(frozen=True, kw_only=True)
class DPM2S(_Exponential):
    r"""DPM-Solver++(2S): the data estimate at the middle of the step in lambda stands for the whole step.

    Where the step in lambda is infinite, the middle in time takes its place.

    Reference: DPM-Solver++, Lu et al. (2022), algorithm 1 with r = 1/2.
    """

    order = 2
    evaluations = 2

    def _middle(self, s: SolverState) -> Scalar:
        t, end = s["t"], s["end"]
        low, high = self.law.lam(t), self.law.lam(end)
        infinite = is_infinite(high - low)
        if not isinstance(infinite, Tensor):
            return cast(float, 0.5 * (t + end)) if infinite else self.law.t_of_lam(0.5 * (low + high))
        middle = self.law.t_of_lam(torch.where(infinite, 0.0, 0.5 * (low + high)))
        return torch.where(infinite, 0.5 * (t + end), middle)

    def ask(self, s: SolverState) -> Ask:
        """The data estimate at the start, then in the middle."""
        if s["stage"] == 0:
            return super().ask(s)
        return Ask(s["y"], s["middle"], (s["t"], s["end"]), "data")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Walk to the middle, or take the whole step."""
        if s["stage"] == 0:
            middle = self._middle(s)
            c, d = decay(self, s["t"], middle)
            return {**s, "y": affine(c, s["x"], d, value), "middle": middle, "stage": 1}
        c, d = decay(self, s["t"], s["end"])
        x = affine(c, s["x"], d, value if lead is None else lead)
        return {"x": x, "t": s["t"], "end": s["end"], "stage": DONE}
