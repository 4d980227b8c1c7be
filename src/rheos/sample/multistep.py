r"""Multistep methods: one evaluation a step, and the estimates of earlier steps for a higher order.

Every one of them is a first-order step with a correction. With the estimates $m_0, m_1, \dots$ (newest first) of the
velocity, the data or the noise,

$$ x' = c\,x + d\,m_{lead} + \sum_j w_j m_j, \qquad \sum_j w_j = 0, $$

where (c, d) is Euler's step for velocities and the exponential one for the other two, and the weights w come from the
polynomial through the estimates in a variable z of the method's own: t, $\lambda$, or $\sigma / \alpha$. Where z is
infinite (at the ends of most paths) the estimate there drops out, and a step to or from there is of first order.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import Kind, Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Solver, SolverState
from rheos.core.state import State, add, affine
from rheos.sample.rungekutta import RK4, RungeKutta

__all__ = ["WARMUPS", "Multistep", "integrals", "vandermonde"]

WARMUPS = ("low", "rk")
HUGE = 1e6
"""Positions beyond this count as infinite: no polynomial reaches there, and rounding errors would be multiplied."""
Weights = tuple[Any, ...]  # numbers, one a row, or by name


@dataclass(frozen=True, kw_only=True)
class Multistep(Solver):
    """The history and its bookkeeping; a method gives `leading`, `position` and `corrections`.

    Args:
        order: How many estimates make a step; fewer while there are fewer.
        warmup: "low": the first steps have a lower order, so that the whole is of order 2 at most; "rk": they are
            steps of Runge-Kutta 4, at four evaluations each, and the method shows its full order.

    Raises:
        OptionError: For an order that the method has not.
        UnknownOptionError: For an unknown warm-up.
    """

    order: int = 2
    warmup: str = "low"
    reach: float = math.inf

    leads = True
    orders: ClassVar[tuple[int, ...]] = (1, 2, 3)
    asks: ClassVar[Kind] = "data"

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.order not in self.orders:
            known = ", ".join(str(k) for k in self.orders)
            raise OptionError(f"{name} has the orders {known}, got order={self.order!r}.", order=self.order)
        check_choice("warmup", self.warmup, WARMUPS)
        if not self.reach >= 1:
            raise OptionError(f"reach must be at least 1, got {self.reach}.")

    # --- what a method is ---------------------------------------------------------------------------------------

    @abstractmethod
    def leading(self, t: Time, end: Time) -> tuple[Any, Any]:
        """(c, d) of the first-order step."""

    @abstractmethod
    def position(self, t: Scalar) -> Scalar:
        """z(t), the variable of the polynomial."""

    @abstractmethod
    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """One weight an estimate, summing to zero.

        Args:
            end: The end of the step.
            there: z(end), finite.
            where: z of the estimates, the step's start first; two at least, all finite.
        """

    def kept(self, x: State, t: Time, value: State) -> State:
        """The estimate that the history keeps, from the one that was asked."""
        return value

    @property
    def depth(self) -> int:
        """Estimates kept from one step to the next."""
        return self.order - 1

    # --- a step ---------------------------------------------------------------------------------------------------

    def init(self, x: State) -> SolverState:
        """No history."""
        s = {**super().init(x), "past": (), "where": ()}
        return {**s, "cold": self._cold, "inner": None} if self._cold else s

    @property
    def _cold(self) -> int:
        """Steps of the warm-up: one more where z may be infinite at the start, for that estimate is of no use."""
        return 0 if self.warmup == "low" else self.order - (self.asks == "velocity")

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        s = {**s, "t": t, "end": end, "stage": 0}
        return {**s, "inner": self._rk.start(self._rk.init(s["x"]), t, end)} if s.get("cold") else s

    @property
    def _rk(self) -> RungeKutta:
        return RungeKutta(tableau=RK4, path=self.path, finite=self.finite)

    def ask(self, s: SolverState) -> Ask:
        """The estimate at the start; in the warm-up the further stages of Runge-Kutta."""
        if s["stage"]:
            return self._rk.ask(s["inner"])
        t = s["t"]
        return Ask(s["x"], t, (t, s["end"]), self.asks)

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Step."""
        if s["stage"]:
            return self._warm(s, value)
        x, t, end = s["x"], s["t"], s["end"]
        past, where = (self.kept(x, t, value), *s["past"]), (self._position(t), *s["where"])
        depth, n = self.depth, self.order
        s = {**s, "past": past[:depth], "where": where[:depth], "stage": DONE}
        if s.get("cold"):
            return self._warm(s, self.path.convert(value, x, t, self.asks, "velocity"))
        s["x"] = self.advance(x, t, end, value if lead is None else lead, past[:n], where[:n])
        return s

    def _warm(self, s: SolverState, velocity: State) -> SolverState:
        inner = self._rk.tell(s["inner"], velocity)
        if inner["stage"] != DONE:
            return {**s, "inner": inner, "stage": inner["stage"]}
        return {**s, "x": inner["x"], "inner": None, "cold": s["cold"] - 1, "stage": DONE}

    def advance(
        self, x: State, t: Time, end: Time, lead: State, past: tuple[State, ...], where: tuple[Any, ...]
    ) -> State:
        """From (x, t) to end by the estimates `past`, taken at `where`."""
        c, d = self.leading(t, end)
        weights = self._weights(end, self._position(end), where) if len(past) > 1 else ()
        if weights and lead is past[0] and type(d) is float:  # one term of two
            d, weights, past = d + weights[0], weights[1:], past[1:]
        x = affine(c, x, d, lead)
        if type(x) is Tensor and type(d) is float:  # one tensor on one clock: nothing but the sum
            for w, m in zip(weights, past, strict=False):
                x = torch.add(x, cast(Tensor, m), alpha=w)
            return x
        for w, m in zip(weights, past, strict=False):
            x = add(x, w, m)
        return x

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """A moved state keeps its history, unless it restarts."""
        return super().move(s, x, restart)

    # --- weights where z is finite --------------------------------------------------------------------------------

    def _position(self, t: Time) -> Any:
        if isinstance(t, dict):
            return {n: self.position(v) for n, v in t.items()}
        return self.position(t)

    def _weights(self, end: Time, there: Any, where: tuple[Any, ...]) -> Weights:
        """`corrections` from the estimates at finite z; none at all where the step itself is infinite."""
        if isinstance(end, dict):
            named = {n: self._weights(v, there[n], tuple(w[n] for w in where)) for n, v in end.items()}
            return tuple({n: w[j] for n, w in named.items()} for j in range(len(where)))
        for z in (there, *where):
            if isinstance(z, Tensor):
                return self._row_weights(end, there, where)
        if not (_finite(there) and _finite(where[0])):
            return ()
        if not _finite(where[-1]):  # only the oldest ones can be infinite
            where = tuple(z for z in where if _finite(z))
        if len(where) > 2 and abs(there - where[0]) > self.reach * abs(where[0] - where[1]):
            where = where[:2]
        return self.corrections(end, there, where) if len(where) > 1 else ()

    def _row_weights(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """`corrections` where every row has its own clock, and its own count of finite estimates."""
        like = next(z for z in (there, *where) if isinstance(z, Tensor))
        z_end, *z = (
            torch.as_tensor(v, dtype=torch.float64, device=like.device).expand_as(like) for v in (there, *where)
        )
        good = (z_end.abs() < HUGE) & (z[0].abs() < HUGE)
        count = torch.stack([v.abs() < HUGE for v in z]).sum(0) * good
        if len(z) > 2:
            far = (z_end - z[0]).abs() > self.reach * (z[0] - z[1]).abs()
            count = torch.where(far, count.clamp(max=2), count)
        total = [torch.zeros_like(like) for _ in z]
        for n in range(2, len(z) + 1):
            mask = count == n
            safe = tuple(torch.where(mask, v, -float(j)) for j, v in enumerate(z[:n]))  # harmless in the other rows
            found = self.corrections(end, torch.where(mask, z_end, 1.0), safe)
            for j, w in enumerate(found):
                total[j] = torch.where(mask, w, total[j])
        return tuple(total)


def _finite(z: Scalar) -> bool:
    return abs(cast(float, z)) < HUGE


def vandermonde(nodes: list[Scalar], sides: list[Scalar]) -> list[Scalar]:
    r"""Solve $\sum_j r_j^k \rho_j = b_k$ for k = 0 .. n - 1; numbers, or one system a row.

    Reference: Golub & Van Loan, Matrix Computations, algorithm 4.6.2 (Björck & Pereyra).
    """
    b, n = list(sides), len(sides) - 1
    for k in range(n):
        for i in range(n, k, -1):
            b[i] = b[i] - nodes[k] * b[i - 1]
    for k in reversed(range(n)):
        for i in range(k + 1, n + 1):
            b[i] = sc.divide(b[i], nodes[i] - nodes[i - k - 1])
        for i in range(k, n):
            b[i] = b[i] - b[i + 1]
    return b


def integrals(there: Scalar, where: tuple[Scalar, ...]) -> Weights:
    r"""Weights of $\int_{z_0}^{z'} p\,dz - (z' - z_0) m_0$ for the polynomial p through the estimates."""
    h = there - where[0]
    nodes = [0.0 * h, *(sc.divide(z - where[0], h) for z in where[1:])]
    rho = vandermonde(nodes, [1.0 / (k + 1) for k in range(len(nodes))])
    return (h * (rho[0] - 1.0), *(h * r for r in rho[1:]))
