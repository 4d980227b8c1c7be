r"""FireFlow: the midpoint rule for the price of Euler.

The velocity at the last midpoint stands for the one at the start of the step:
$p \leftarrow v(x + \frac h2 p,\, t + \frac h2)$, $x' = x + h p$. One evaluation a step, and one more in the first.

Reference: FireFlow, Deng et al. (2024), https://arxiv.org/abs/2412.07517
"""

from dataclasses import dataclass
from typing import final

from rheos.core.solver import DONE, Ask, Solver, SolverState, elapsed, weighted
from rheos.core.state import State
from rheos.sample.rungekutta import between

__all__ = ["FireFlow"]


@final
@dataclass(frozen=True, kw_only=True)
class FireFlow(Solver):
    """Order two at one evaluation a step.

    Example:
        >>> FireFlow().order, FireFlow().evaluations
        (2, 1)
    """

    order = 2
    extra = 1

    def init(self, x: State) -> SolverState:
        """No midpoint yet."""
        return {**super().init(x), "p": None}

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the midpoint, found with the last one; in the first step, that at its start before."""
        t, end = s["t"], s["end"]
        if s["p"] is None:
            return super().ask(s)
        h = elapsed(t, end)
        return Ask(weighted(s["x"], h, (0.5,), (s["p"],)), between(t, 0.5, h), (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Take the velocity as the midpoint's, and step with it."""
        if s["p"] is None:
            return {**s, "p": value, "stage": 1}
        h = elapsed(s["t"], s["end"])
        return {**s, "x": weighted(s["x"], h, (1.0,), (value,)), "p": value, "stage": DONE}
