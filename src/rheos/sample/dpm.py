r"""DPM-Solver and DPM-Solver++, of orders one to three, in one evaluation a step (multistep) or several (singlestep).

With $g = -h$, $P = -\alpha'$ and estimates m of the data (the ++ of the name), or $g = h$, $P = -\sigma'$ and
estimates of the noise, the exact step of a quadratic $m_0 + D_1 u + D_2 u^2$, u from 0 to 1 over the step, is

$$ x' = (\text{exponential step of } m_0) + P\,\Bigl(\frac{e^g - 1}{g} - 1\Bigr) D_1
      + 2 P\,\Bigl(\frac{e^g - 1 - g}{g^2} - \frac12\Bigr) D_2 . $$

The published multistep code of third order lacks the factor 2 and converges with order two.

Reference: DPM-Solver, Lu et al. (2022), https://arxiv.org/abs/2206.00927, and DPM-Solver++,
https://arxiv.org/abs/2211.01095.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Solver, SolverState
from rheos.core.state import State, add, affine, where_rows
from rheos.sample.exponential import Exponential, ExponentialMultistep, decay, is_infinite, noise_of
from rheos.sample.multistep import Weights

__all__ = ["DPMSinglestep", "DPMSolver"]


def terms(solver: Solver, estimates: str, end: Scalar, h: Scalar) -> tuple[Scalar, Scalar]:
    """(P, g) of a step that ends there."""
    return (-solver.law.alpha(end), -h) if estimates == "data" else (-solver.law.sigma(end), h)


def first(g: Scalar) -> Scalar:
    """(e^g - 1) / g - 1."""
    return sc.expm1(g) / g - 1.0


def second(g: Scalar) -> Scalar:
    """(e^g - 1 - g) / g^2 - 1/2."""
    return (sc.expm1(g) - g) / (g * g) - 0.5


@final
@dataclass(frozen=True, kw_only=True)
class DPMSolver(ExponentialMultistep):
    """The multistep form: DPM-Solver++(2M) unless told otherwise.

    Args:
        order: 1 (DDIM), 2 or 3.
        warmup: See `Multistep`.
        estimates: "data" (DPM-Solver++) or "noise" (DPM-Solver).
        variant: Of the second order: "midpoint" takes the slope at half of the step, "heun" integrates it exactly.
        compat: "correct", or "published": the third order without its factor 2, and with every step of that order.
        reach: See `Multistep`.

    Example:
        >>> DPMSolver(order=3).evaluations
        1
    """

    variant: str = "midpoint"
    compat: str = "correct"
    reach: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variant", self.variant, ("midpoint", "heun"))
        check_choice("compat", self.compat, ("correct", "published"))
        if self.compat == "published":
            object.__setattr__(self, "reach", math.inf)

    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """Of the slope, and of the curvature where there are three estimates."""
        h = there - where[0]
        p, g = terms(self, self.estimates, end, h)
        r0 = (where[0] - where[1]) / h
        if len(where) == 2:
            slope = 0.5 * p * sc.expm1(g) if self.variant == "midpoint" else p * first(g)
            return slope / r0, -slope / r0
        r1 = (where[1] - where[2]) / h
        a, b, q = p * first(g), p * second(g), r0 / (r0 + r1)
        b = (2.0 if self.compat == "correct" else 1.0) * b / (r0 + r1)
        u, v = (a * (1 + q) + b) / r0, (a * q + b) / r1
        return u, -u - v, v


@final
@dataclass(frozen=True, kw_only=True)
class DPMSinglestep(Exponential):
    r"""Two or three estimates inside the step, evenly in lambda, and no history.

    Where the step in lambda is infinite the points lie evenly in time, and the newest estimate stands for the step.

    Args:
        order: 2 (2S: at 0 and h/2) or 3 (3S: at 0, h/3 and 2h/3).
        estimates: "data" (DPM-Solver++) or "noise" (DPM-Solver).

    Raises:
        OptionError: For another order.
        UnknownOptionError: For another kind of estimate.
    """

    order: int = 2
    estimates: str = "data"

    leads = False

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise OptionError(f"DPMSinglestep has the orders 2 and 3, got order={self.order!r}.", order=self.order)
        check_choice("estimates", self.estimates, ("data", "noise"))

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """As many as the order."""
        return self.order

    def ask(self, s: SolverState) -> Ask:
        """The data estimate at the start, then at the points inside."""
        if s["stage"] == 0:
            return super().ask(s)
        return Ask(s["y"], s["at"], (s["t"], s["end"]), "data")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Walk to the next point, or take the whole step."""
        j, x, t, end = s["stage"], s["x"], s["t"], s["end"]
        last = j == self.order - 1
        goal = end if last else self._inside(t, end, (j + 1) / self.order)
        c, d = decay(self, t, goal)
        if j == 0:
            kept = (value, noise_of(self, x, t, value) if self.estimates == "noise" else None)
            return {**s, "y": affine(c, x, d, value), "at": goal, "began": kept, "stage": 1}
        infinite = is_infinite(self.law.lam(end) - self.law.lam(t))
        y = affine(c, x, d, _choose(infinite, value, s["began"][0]))
        y = self._corrected(y, s, goal, 1.0 if last else (j + 1) / self.order, value, infinite)
        return {"x": y, "t": t, "end": end, "stage": DONE} if last else {**s, "y": y, "at": goal, "stage": j + 1}

    def _inside(self, t: Scalar, end: Scalar, q: float) -> Scalar:
        """The time a share q into the step, in lambda where that is finite."""
        low, high = self.law.lam(t), self.law.lam(end)
        infinite = is_infinite(high - low)
        even = t + q * (end - t)
        if not isinstance(infinite, Tensor):
            return even if infinite else self.law.t_of_lam(low + q * (high - low))
        return torch.where(infinite, even, self.law.t_of_lam(torch.where(infinite, 0.0, low + q * (high - low))))

    def _corrected(
        self, y: State, s: SolverState, goal: Scalar, share: float, value: State, infinite: bool | Tensor
    ) -> State:
        """With the newest estimate's difference from the first one, which stands for the slope over this share."""
        if infinite is True:
            return y
        h = sc.where(infinite, 1.0, self.law.lam(s["end"]) - self.law.lam(s["t"]))
        p, g = terms(self, self.estimates, goal, share * h)
        w = p * sc.expm1(g) if self.order == 2 else p * first(g) * (share * self.order / s["stage"])
        w = sc.where(infinite, 0.0, w)
        data, noise = s["began"]
        if noise is None:
            return add(add(y, w, value), -w, data)
        return add(add(y, w, noise_of(self, s["y"], s["at"], value)), -w, noise)


def _choose(condition: bool | Tensor, x: State, y: State) -> State:
    """Rows of x where the condition holds, else of y."""
    if isinstance(condition, Tensor):
        return where_rows(condition, x, y)
    return x if condition else y
