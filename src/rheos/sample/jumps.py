r"""Stochastic steps that keep the marginals exactly where the data estimate is exact.

Each takes a share of the noise in x away and puts fresh noise of the same size in its place:
$x' = \alpha' \hat x_1 + \sqrt{\sigma'^2 - s^2}\, \hat x_0 + s\, \epsilon$. They differ in s, and in how they guess the
data estimate over the step. DDIM with eta > 0 is another one, beside its deterministic form.
"""

import math
from dataclasses import dataclass
from typing import Any, cast, final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, TimeError
from rheos.core.paths import Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Jump, SolverState
from rheos.core.state import State, add, affine
from rheos.sample.exponential import Exponential, ExponentialMultistep
from rheos.sample.multistep import Weights

__all__ = ["SDEDPM", "Ancestral", "Renoise"]


def land(s: SolverState, jump: Jump, noise: State | None) -> SolverState:
    """The state after a jump."""
    mean, std = jump
    if not isinstance(std, Tensor) and std == 0:
        return {**s, "x": mean, "stage": DONE}
    return {**s, "x": add(mean, std, cast(State, noise)), "stage": DONE}


def check_forwards(name: str, t: Time, end: Time) -> None:
    """Refuse a grid from data to noise."""
    if isinstance(t, float) and isinstance(end, float) and end < t:
        raise TimeError(f"{name} adds noise on the way to the data; inversion needs an ODE solver such as 'heun'.")


@final
@dataclass(frozen=True, kw_only=True)
class SDEDPM(ExponentialMultistep):
    r"""SDE-DPM-Solver++: $x' = \frac{\sigma'}{\sigma} e^{-\eta h} x + \alpha' (1 - e^{-(1 + \eta) h}) D
    + \sigma' \sqrt{1 - e^{-2 \eta h}}\, \epsilon$.

    With eta = 0 it is DPM-Solver++ of the same order.

    Args:
        order: 1, or 2 (2M): D goes half-way along the slope of the last two estimates.
        eta: Rate of fresh noise, at least 0; 1 is the reverse diffusion.

    Raises:
        OptionError: For another order, or a negative or infinite eta.
        TimeError: If the grid runs from data to noise.

    Reference: DPM-Solver++, Lu et al. (2022), https://arxiv.org/abs/2211.01095, section 5
    """

    eta: float = 1.0

    stochastic = True
    orders = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta < math.inf:
            raise OptionError(f"eta must be at least 0 and finite, got {self.eta}.")
        if self.warmup != "low" or self.estimates != "data":
            raise OptionError("SDEDPM keeps data estimates and has no warm-up: its noise is larger than their error.")

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_forwards("SDEDPM", t, end)
        return super().start(s, t, end)

    def _shares(self, t: Scalar, end: Scalar) -> tuple[Scalar, Scalar]:
        """(e^{-eta h}, fresh variance / sigma'^2); nothing of the old noise stays in an infinite step."""
        law = self.law
        ratio = sc.divide(law.alpha(t) * law.sigma(end), law.alpha(end) * law.sigma(t))  # e^{-h}
        keep = sc.exp(self.eta * sc.log(ratio)) if self.eta else 0.0 * ratio + 1.0
        return keep, -sc.expm1(2 * self.eta * sc.log(ratio)) if self.eta else 0.0 * ratio

    def leading(self, t: Time, end: Time) -> tuple[Scalar, Scalar]:
        """(c, d) of the mean."""
        t, end = cast(Scalar, t), cast(Scalar, end)
        law, (keep, _) = self.law, self._shares(t, end)
        c = sc.divide(law.sigma(end), law.sigma(t)) * keep
        return c, law.alpha(end) - law.alpha(t) * c

    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """Half of the slope."""
        h, before = there - where[0], where[0] - where[1]
        w = -0.5 * self.law.alpha(end) * sc.expm1(-(1 + self.eta) * h) * h / before
        return w, -w

    def _std(self, s: SolverState) -> Scalar:
        return self.law.sigma(s["end"]) * sc.sqrt(self._shares(s["t"], s["end"])[1])

    def jump(self, s: SolverState, value: State) -> Jump:
        """The Gaussian step."""
        return Jump(cast(State, super().tell(s, value)["x"]), self._std(s))

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        after = super().tell(s, value, None, lead)
        return land(after, Jump(after["x"], self._std(s)), noise)


@final
@dataclass(frozen=True, kw_only=True)
class Ancestral(Exponential):
    r"""Go by DDIM a little beyond the end of the interval, and come back by adding noise.

    In the linear path's coordinates, with $\sigma_d = \sigma' (1 + (\sigma' / \sigma - 1) \eta)$ and
    $\alpha_d = 1 - \sigma_d$,

    $$ x' = \frac{\alpha'}{\alpha_d} x_d + \sqrt{\sigma'^2 - (\sigma_d \alpha' / \alpha_d)^2}\, \epsilon . $$

    Any other path is the linear one after division by $\alpha + \sigma$.

    Args:
        eta: Share of the noise that is fresh, in [0, 1]; 0 is DDIM.

    Raises:
        OptionError: If eta lies outside [0, 1].
        TimeError: If the grid runs from data to noise.

    Reference: "Euler ancestral" for rectified flows, as in ComfyUI and LTX-Video (2024).
    """

    eta: float = 1.0

    stochastic = True

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise OptionError(f"eta must lie in [0, 1], got {self.eta}.")

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_forwards("Ancestral", t, end)
        return super().start(s, t, end)

    def jump(self, s: SolverState, value: State) -> Jump:
        """The Gaussian step."""
        law, t, end = self.law, s["t"], s["end"]
        a, b = law.alpha(end), law.sigma(end)
        size, before = a + b, law.alpha(t) + law.sigma(t)
        high, low = b / size, law.sigma(t) / before  # the noise of both ends, as the linear path has it
        down = high * (1.0 + (sc.divide(high, low) - 1.0) * self.eta)
        back = (1.0 - high) / (1.0 - down)
        c = down * back * size / law.sigma(t)  # of x, by way of the noise estimate
        std = size * sc.sqrt(_positive(high * high - (down * back) ** 2))
        return Jump(affine(c, s["x"], a - c * law.alpha(t), value), std)

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        return land(s, self.jump(s, value if lead is None else lead), noise)


def _positive(z: Any) -> Any:
    return z.clamp(min=0.0) if isinstance(z, Tensor) else max(z, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class Renoise(Exponential):
    r"""$x' = \alpha' \hat x_1 + \sigma' \epsilon$: all noise is fresh, as in sampling from consistency models.

    It draws from the marginals only where the data estimate is a sample of $p(x_1 | x_t)$, as a flow map's is; with a
    mean estimate it contracts.

    Raises:
        TimeError: If the grid runs from data to noise.

    Reference: Consistency Models, Song et al. (2023), algorithm 1; Latent Consistency Models, Luo et al. (2023).
    """

    stochastic = True
    leads = False

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_forwards("Renoise", t, end)
        return super().start(s, t, end)

    def jump(self, s: SolverState, value: State) -> Jump:
        """The Gaussian step."""
        end = s["end"]
        return Jump(affine(self.law.alpha(end), value, 0.0, value), self.law.sigma(end))

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        return land(s, self.jump(s, value), noise)
