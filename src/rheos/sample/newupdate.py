r"""The new update rule of rectified flows: jump along the path of the noise that the trajectory began with.

Where paths are straight the data estimate at any time is the end, and $x_\tau = \tau \hat x_1 + (1-\tau) x_0$ with
the *first* noise is a point that training has seen, however far the present state is off it. On curved flows this does
not tend to the flow's solution with more steps: it is a sampler of straightened flows, not a method for their equation.
"""

from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import TimeError
from rheos.core.paths import Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Solver, SolverState
from rheos.core.state import State, affine, scale

__all__ = ["NewUpdate"]


@final
@dataclass(frozen=True, kw_only=True)
class NewUpdate(Solver):
    r"""$x' = \alpha' \hat x_1 + \sigma' x_0$ with the noise x0 that the trajectory began with, kept in its state.

    With one step from t = 0 it is Euler. Heun's form asks for the velocity at both ends of a step, the further one at
    the new update's own x', and takes the data estimate of their mean; its last step has one evaluation, so N steps
    cost 2 N - 1.

    Args:
        heun: Whether to correct each step but the last.

    Raises:
        TimeError: If the grid runs from data to noise: the first noise is not known there.

    Example:
        >>> import torch
        >>> from rheos.core import GaussianMixtureField
        >>> from rheos.sample import draw
        >>> field = GaussianMixtureField(means=[[2.0, 0.0]], stds=[0.5])
        >>> one = draw(field, 3, steps=1, solver=NewUpdate())
        >>> torch.allclose(one, draw(field, 3, steps=1, solver="euler"))
        True

    Reference: Improving the Training of Rectified Flows, Lee et al. (2024), https://arxiv.org/abs/2405.20320
    """

    heun: bool = False

    schedule_free = False

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Network calls a step."""
        return 1 + self.heun

    def init(self, x: State) -> SolverState:
        """A fresh trajectory; its noise is known when its first time is."""
        return {**super().init(x), "source": x, "v": None}

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval; the first one makes unit noise of the state."""
        if isinstance(t, float) and isinstance(end, float) and end < t:
            raise TimeError(
                "The new update needs the noise that a trajectory began with, so it cannot run from data to noise. "
                "Invert with Euler or Heun."
            )
        if isinstance(s["end"], float) and s["end"] == s["t"]:  # no interval was begun yet
            level = self.law.sigma(cast(Scalar, t))
            if isinstance(level, Tensor) or level != 1.0:
                s = {**s, "source": scale(sc.divide(1.0, level), s["x"])}
        return {**s, "t": t, "end": end, "stage": 0, "v": None}

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """Put the trajectory at x; its first noise stays what it was."""
        return {**s, "x": x, "v": None, "stage": DONE if restart else s["stage"]}

    def ask(self, s: SolverState) -> Ask:
        """The data estimate; in Heun's form the velocity at the start, then at the end of the step."""
        t, end = s["t"], s["end"]
        if not self.heun:
            return Ask(s["x"], t, (t, end), "data")
        if s["stage"] == 0:
            return Ask(s["x"], t, (t, end), "velocity")
        at = end.clamp(*self._range) if isinstance(end, Tensor) else end
        return Ask(self._moved(s, s["v"], "velocity"), at, (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump, or take the first velocity of Heun's form."""
        if not self.heun:
            return {**s, "x": self._moved(s, value, "data"), "stage": DONE}
        if s["stage"] == 0 and not self._last(s["end"]):
            return {**s, "v": value, "stage": 1}
        if s["stage"] == 1:
            weight = self._weight(s["end"])
            value = affine(1.0 - weight, s["v"], weight, value)
        return {**s, "x": self._moved(s, value, "velocity"), "v": None, "stage": DONE}

    @property
    def _range(self) -> tuple[float, float]:
        """Where the end of an interval is asked for."""
        low, high = self.finite
        return low, min(high, 1 - 1e-9)

    def _last(self, end: Time) -> bool:
        """Whether a shared clock's step ends where no correction is made."""
        return isinstance(end, float) and not end <= self._range[1]

    def _weight(self, end: Time) -> Scalar:
        """The weight of the second velocity; none in the rows that are in their last step."""
        return sc.where(end <= self._range[1], 0.5, 0.0) if isinstance(end, Tensor) else 0.5

    def _moved(self, s: SolverState, value: State, kind: str) -> State:
        """The point at the interval's end between the first noise and the data estimate."""
        t, end = cast(Scalar, s["t"]), cast(Scalar, s["end"])
        if kind == "velocity":
            value = self.path.convert(value, s["x"], t, "velocity", "data")
        return affine(self.law.alpha(end), value, self.law.sigma(end), s["source"])
