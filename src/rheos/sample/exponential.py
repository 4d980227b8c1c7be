r"""The exponential step on the data estimate, and DDIM.

On an affine path $x_{t'} = \frac{\sigma'}{\sigma} x_t + \left(\alpha' - \alpha \frac{\sigma'}{\sigma}\right) D$ is
exact when the data estimate is the constant D. The same step is exact for a constant noise estimate, so it is the
first-order term of every method that steps in $\lambda$ or $\sigma / \alpha$.

The step $h = \lambda' - \lambda$ is infinite in the first interval (from t = 0) and in the last (to t = 1): there
methods in lambda drop to first order, and the last step returns the data estimate itself.
"""

import math
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, TimeError, check_choice
from rheos.core.paths import Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Jump, Solver, SolverState
from rheos.core.state import State, add, affine
from rheos.sample.multistep import Multistep

__all__ = ["DDIM", "Exponential", "ExponentialMultistep", "decay", "noise_of"]


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


class Exponential(Solver):
    """Asks for the data estimate at the interval's start."""

    schedule_free = False
    leads = True

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_backwards(self, t, end)
        return super().start(s, t, end)

    def ask(self, s: SolverState) -> Ask:
        """The data estimate."""
        t = s["t"]
        return Ask(s["x"], t, (t, s["end"]), "data")


@dataclass(frozen=True, kw_only=True)
class ExponentialMultistep(Multistep):
    """A multistep method whose first-order term is the exponential step, in lambda unless it says otherwise.

    The network is always asked for data, which is finite wherever a sampler looks; a history of noise is formed from
    it.

    Args:
        estimates: "data" or "noise": what the polynomial goes through.

    Raises:
        UnknownOptionError: For another kind of estimate.
    """

    estimates: str = "data"

    schedule_free = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("estimates", self.estimates, ("data", "noise"))

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_backwards(self, t, end)
        return super().start(s, t, end)

    def leading(self, t: Time, end: Time) -> tuple[Scalar, Scalar]:
        """The exponential step."""
        return decay(self, cast(Scalar, t), cast(Scalar, end))

    def position(self, t: Scalar) -> Scalar:
        r"""$\lambda$."""
        return self.law.lam(t)

    def kept(self, x: State, t: Time, value: State) -> State:
        """The data estimate, or the noise that follows from it."""
        return value if self.estimates == "data" else noise_of(self, x, cast(Scalar, t), value)


def noise_of(solver: Solver, x: State, t: Scalar, data: State) -> State:
    r"""$\hat x_0 = (x - \alpha \hat x_1) / \sigma$."""
    s = solver.law.sigma(t)
    return affine(sc.divide(1.0, s), x, -sc.divide(solver.law.alpha(t), s), data)


@final
@dataclass(frozen=True, kw_only=True)
class DDIM(Exponential):
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
