r"""The Euler method of the published code, for its checkpoints alone: the network's clock runs ahead of the state's."""

from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.core.errors import OptionError
from rheos.core.solver import DONE, Ask, Solver, SolverState, elapsed, weighted
from rheos.core.state import State

__all__ = ["AheadEuler"]


@final
@dataclass(frozen=True, kw_only=True)
class AheadEuler(Solver):
    r"""$x_{k+1} = x_k + \frac1N v(x_k, \frac{k}{N-1})$: N times on [0, 1] with both ends, steps of 1/N.

    Args:
        steps: N of a uniform grid, at least 2; give the same number to `generate`.

    Raises:
        OptionError: For fewer than two steps.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise OptionError(f"steps must be at least 2, got {self.steps}.")

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the time that runs ahead."""
        t, end = cast(float | Tensor, s["t"]), s["end"]
        ahead = t * (self.steps / (self.steps - 1))
        return Ask(s["x"], ahead.clamp(max=1.0) if isinstance(ahead, Tensor) else min(ahead, 1.0), (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Move along it."""
        return {**s, "x": weighted(s["x"], elapsed(s["t"], s["end"]), (1.0,), (value,)), "stage": DONE}
