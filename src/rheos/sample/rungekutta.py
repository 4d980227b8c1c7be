r"""Explicit Runge-Kutta methods on the velocity.

$k_j = v(x + h \sum_l a_{jl} k_l,\; t + c_j h)$, $x' = x + h \sum_j b_j k_j$. On a curved space the increment is a
tangent at x that the exponential map walks along, which keeps the order up to two.

Reference: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.1.
"""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from rheos.core.paths import Path, Time
from rheos.core.scalars import where
from rheos.core.solver import DONE, Ask, Solver, SolverState, Weights, combination, elapsed, weighted
from rheos.core.state import State, scale

__all__ = ["HEUN", "MIDPOINT", "RALSTON", "RK3", "RK4", "Euler", "RungeKutta", "Tableau"]


@final
@dataclass(frozen=True)
class Tableau:
    """Butcher's tableau of an explicit method.

    Args:
        name: The method's usual name.
        order: Order of convergence.
        a: Rows of the strictly lower triangle, the first one empty.
        b: Weights.
        c: Nodes.
        open: Weights of order two or less that leave out the last stage, for an interval at whose end the velocity
            is not finite; empty where no stage stands at the end.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    open: tuple[float, ...] = ()


MIDPOINT = Tableau("midpoint", 2, ((), (0.5,)), (0.0, 1.0), (0.0, 0.5))
HEUN = Tableau("heun", 2, ((), (1.0,)), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0))
RALSTON = Tableau("ralston", 2, ((), (2 / 3,)), (0.25, 0.75), (0.0, 2 / 3))
RK3 = Tableau("rk3", 3, ((), (0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6), (0.0, 0.5, 1.0), (0.0, 1.0, 0.0))
RK4 = Tableau(
    "rk4",
    4,
    ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    (0.0, 0.5, 0.5, 1.0),
    (0.0, 0.5, 0.5, 0.0),
)


@final
@dataclass(frozen=True, kw_only=True)
class Euler(Solver):
    """x' = x + h v(x, t), on any space.

    Example:
        >>> Euler().order, Euler().evaluations
        (1, 1)
    """

    affine = False
    leads = True

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        return {"x": s["x"], "t": t, "end": end, "stage": 0}

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Move along the velocity."""
        v = value if lead is None else lead
        t, end, x = s["t"], s["end"], s["x"]
        if type(x) is Tensor and type(t) is float and self.path.flat:
            return {"x": torch.add(x, cast(Tensor, v), alpha=end - t), "t": t, "end": end, "stage": DONE}
        return {**s, "x": walk(self.path, x, elapsed(t, end), (1.0,), (v,)), "stage": DONE}


def walk(path: Path, x: State, h: Time, weights: Weights, values: tuple[State, ...]) -> State:
    r"""From x along $h \sum_j w_j v_j$, by the exponential map where the space is curved."""
    if type(x) is Tensor and type(h) is float and path.flat:  # one tensor on one clock: nothing but the sum
        for w, v in zip(weights, values, strict=True):
            if w:
                x = torch.add(x, cast(Tensor, v), alpha=h * cast(float, w))
        return x
    return weighted(x, h, weights, values) if path.flat else path.space.move(x, scale(h, combination(weights, values)))


@final
@dataclass(frozen=True, kw_only=True)
class RungeKutta(Solver):
    """An explicit Runge-Kutta method.

    In an interval at whose end the velocity is not finite (a data head at t = 1) the stage there is left out and
    the tableau's `open` weights are used: Heun becomes Euler, RK3 and RK4 second-order methods.

    Args:
        tableau: The method.
        spare: Leave that stage out at t = 1 of every field, as EDM does: Heun then costs 2 N - 1 evaluations.

    Example:
        >>> RungeKutta(tableau=HEUN).evaluations
        2
    """

    tableau: Tableau = MIDPOINT
    spare: bool = False

    @property
    def order(self) -> int:  # type: ignore[override]
        """Order of convergence."""
        return self.tableau.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Network calls a step."""
        return len(self.tableau.b)

    @property
    def affine(self) -> bool:  # type: ignore[override]
        """Above order two only flat spaces are stepped correctly."""
        return self.tableau.order > 2

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        return {"x": s["x"], "t": t, "end": end, "stage": 0, "k": ()}

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the next stage."""
        t, end, j = s["t"], s["end"], s["stage"]
        if j == 0:
            return Ask(s["x"], t, (t, end), "velocity")
        h, c = elapsed(t, end), self.tableau.c[j]
        at: Time = end
        if c != 1.0:
            at = between(t, c, h)
        elif isinstance(end, Tensor):  # rows that leave this stage out are asked where it is finite
            at = end.clamp(*self._range)
        return Ask(walk(self.path, s["x"], h, self.tableau.a[j], s["k"]), at, (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Take the stage's velocity; after the last one, move."""
        x, t, end, k = s["x"], s["t"], s["end"], (*s["k"], value)
        sure = len(self.tableau.b) - bool(self.tableau.open)  # stages that every interval has
        weights = () if len(k) < sure else self._weights(end)
        if len(k) < max(sure, len(weights)):
            return {"x": x, "t": t, "end": end, "stage": len(k), "k": k}
        return {"x": walk(self.path, x, elapsed(t, end), weights, k), "t": t, "end": end, "stage": DONE, "k": ()}

    @property
    def _range(self) -> tuple[float, float]:
        """Where the end of an interval is asked for."""
        low, high = self.finite
        return (low, min(high, 1 - 1e-9)) if self.spare else (low, high)

    def _weights(self, end: Time) -> Weights:
        """The weights of an interval that ends there; a row of its own for each row's own clock."""
        b, short, (low, high) = self.tableau.b, self.tableau.open, self._range
        if not short or isinstance(end, dict):
            return b
        if isinstance(end, float):
            return b if low <= end <= high else short[:-1]
        beyond = (end < low) | (end > high)
        return tuple(cast(Tensor, where(beyond, p, q)) for p, q in zip(short, b, strict=True))


def between(t: Time, c: float, h: Time) -> Time:
    """The time a share c into the step, name by name."""
    if isinstance(t, dict):
        steps = cast(dict[str, float | Tensor], h)
        return {n: v + c * steps[n] for n, v in t.items()}
    return t + c * cast(float | Tensor, h)
