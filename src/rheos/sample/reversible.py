r"""Reversible solvers: the step back undoes the step exactly, up to rounding.

Both carry one more variable beside x, and a step with -h from the state that a step with h has reached is its
inverse in algebra. So going back needs that variable: `turn` faces a finished flight the other way with all of its
state, while a fresh `solve` from x alone begins anew and comes back only as far as its order allows.

Neither damps errors: where the flow contracts by a factor, an error of the second variable grows by as much. That does
no harm on the way to data of ordinary width, but x' = -20 x makes both useless.

Reference: asynchronous leapfrog: MALI, Zhuang et al. (2021), algorithm 1; reversible Heun: Efficient and Accurate
    Gradients for Neural SDEs, Kidger et al. (2021), algorithm 1.
"""

from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.core.errors import OptionError
from rheos.core.paths import Time
from rheos.core.solver import DONE, Ask, Solver, SolverState, elapsed, times
from rheos.core.state import State, add, affine
from rheos.sample.flight import Flight
from rheos.sample.loop import Loop
from rheos.sample.rungekutta import between

__all__ = ["AsynchronousLeapfrog", "ReversibleHeun", "turn"]


def clipped(t: Time, finite: tuple[float, float]) -> Time:
    """The nearest time at which velocities are finite, name by name."""
    if isinstance(t, dict):
        return {n: cast("float | Tensor", clipped(v, finite)) for n, v in t.items()}
    return t.clamp(*finite) if isinstance(t, Tensor) else min(max(t, finite[0]), finite[1])


@final
@dataclass(frozen=True, kw_only=True)
class AsynchronousLeapfrog(Solver):
    r"""$x_m = x + \frac h2 v$, $u = v(x_m, t + \frac h2)$, $v' = 2u - v$, $x' = x_m + \frac h2 v'$.

    One evaluation a step, and one at the start for v.

    Example:
        >>> AsynchronousLeapfrog().order, AsynchronousLeapfrog().evaluations
        (2, 1)
    """

    order = 2
    extra = 1

    def init(self, x: State) -> SolverState:
        """No velocity yet."""
        return {**super().init(x), "v": None}

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the start of a trajectory, then half-way."""
        t, end = s["t"], s["end"]
        if s["v"] is None:
            return Ask(s["x"], clipped(t, self.finite), (t, end), "velocity")
        h = elapsed(t, end)
        return Ask(add(s["x"], times(h, 0.5), s["v"]), between(t, 0.5, h), (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Take the first velocity; or reflect the velocity and move."""
        if s["v"] is None:
            return {**s, "v": value, "stage": 1}
        half = times(elapsed(s["t"], s["end"]), 0.5)
        v = affine(2.0, value, -1.0, s["v"])
        return {**s, "x": add(add(s["x"], half, s["v"]), half, v), "v": v, "stage": DONE}

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """Put the trajectory at x; the velocity belongs to where it was."""
        return super().move(s, x, restart) if restart else {**s, "x": x, "v": None}


@final
@dataclass(frozen=True, kw_only=True)
class ReversibleHeun(Solver):
    r"""$y' = 2x - y + h v(y, t)$, $x' = x + \frac h2 [v(y, t) + v(y', t')]$; y begins at x.

    One evaluation a step, and one at the start: v(y', t') is kept for the next step. At an end where the velocity is
    not finite it is evaluated at the last finite time.

    Example:
        >>> ReversibleHeun().order, ReversibleHeun().evaluations
        (2, 1)
    """

    order = 2
    extra = 1

    def init(self, x: State) -> SolverState:
        """The twin at x, and no velocity yet."""
        return {**super().init(x), "y": x, "v": None}

    def _twin(self, s: SolverState) -> State:
        """Y'."""
        return add(affine(2.0, s["x"], -1.0, s["y"]), elapsed(s["t"], s["end"]), s["v"])

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the start of a trajectory, then at each end."""
        t, end = s["t"], s["end"]
        if s["v"] is None:
            return Ask(s["y"], clipped(t, self.finite), (t, end), "velocity")
        return Ask(self._twin(s), clipped(end, self.finite), (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Take the first velocity; or move by the mean of both."""
        if s["v"] is None:
            return {**s, "v": value, "stage": 1}
        half = times(elapsed(s["t"], s["end"]), 0.5)
        x = add(add(s["x"], half, s["v"]), half, value)
        return {**s, "x": x, "y": self._twin(s), "v": value, "stage": DONE}

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """Put the trajectory at x; the twin begins there again."""
        return super().move(s, x, restart) if restart else {**s, "x": x, "y": x, "v": None}


def turn(loop: Loop, flight: Flight) -> Flight:
    """A finished flight, faced the other way: the reversed grid, and all of the solver's state kept.

    With a reversible solver, driving it retraces every step; a saved flight can be turned as well.

    Args:
        loop: The loop that drove it.
        flight: A finished flight on one shared clock.

    Raises:
        OptionError: If the flight is still under way, or has a clock a row.

    Example:
        >>> import torch
        >>> from rheos.core import GaussianMixtureField
        >>> from rheos.sample import drive
        >>> field, x = GaussianMixtureField([[1.0, 2.0]], [0.5]), torch.zeros(1, 2).double()
        >>> loop = Loop(field, ReversibleHeun())
        >>> there, _ = drive(loop, field, loop.begin(x, (0.0, 0.5, 1.0), {}, torch.tensor([0])))
        >>> back, _ = drive(loop, field, turn(loop, there))
        >>> bool((back.x - x).abs().max() < 1e-12)
        True
    """
    if not isinstance(flight.times, tuple):
        raise OptionError(
            "Only a flight on one shared clock can turn; split it into the requests that it was joined of."
        )
    if not flight.finished:
        raise OptionError(f"Only a finished flight can turn, this one is in interval {flight.i} of {flight.n}.")
    grid = flight.times[::-1]
    return flight._replace(times=grid, i=0, round=0, solver=loop.solver.start(flight.solver, grid[0], grid[1]))
