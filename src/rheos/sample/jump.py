"""Jumps of a flow map."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from rheos.core.errors import TimeError
from rheos.core.paths import Time
from rheos.core.solver import DONE, Ask, Solver, SolverState, elapsed
from rheos.core.state import State, add

__all__ = ["FlowMapSteps"]


@final
@dataclass(frozen=True, kw_only=True)
class FlowMapSteps(Solver):
    """x' = x + (t' - t) u(x, t, t'): as many jumps as the grid has steps, each exact where the flow map is.

    Raises:
        TimeError: If the grid runs from data to noise.
        OptionError: In a solve, for a field that is no flow map.

    Example:
        >>> FlowMapSteps().evaluations
        1

    Reference: MeanFlow, Geng et al. (2025), algorithm 2.
    """

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        if isinstance(t, float) and isinstance(end, float) and end < t:
            raise TimeError("A flow map is trained to jump towards the data; inversion needs an ODE solver as 'heun'.")
        return {"x": s["x"], "t": t, "end": end, "stage": 0}

    def ask(self, s: SolverState) -> Ask:
        """The average velocity of the interval."""
        t, end = s["t"], s["end"]
        return Ask(s["x"], t, (t, end), "average")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        h = elapsed(s["t"], s["end"])
        assert isinstance(h, float | Tensor)
        return {**s, "x": add(s["x"], h, value), "stage": DONE}
