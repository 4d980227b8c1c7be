r"""Sampling a Schrödinger bridge: Euler-Maruyama with a diffusion that does not end.

$dx = (v + \tfrac{\sigma^2}{2} s)\, dt + \sigma\, dB$ leads from data of one kind to data of another; from data to noise
the sign of the score turns. Unlike `SDE` it needs no Gaussian source: the score is a network's own.

Reference: Tong et al. (2024), https://arxiv.org/abs/2307.03672, eq. 10.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, cast, final

from rheos.core.bridges import NoisyPath
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import Path, Time
from rheos.core.query import Query, Reply
from rheos.core.routed import Wrapped
from rheos.core.scalars import Scalar, sqrt
from rheos.core.solver import DONE, Jump, Solver, SolverState
from rheos.core.state import State, add

__all__ = ["BridgeDrift", "Brownian"]


@final
class BridgeDrift(Wrapped):
    r"""$v + \tfrac{\sigma^2}{2} s$ of two fields on one `NoisyPath`: the drift of the bridge.

    Args:
        flow: Predicts velocity.
        score: Predicts noise or score.
        backwards: The drift of the bridge walked from data to source, $v - \tfrac{\sigma^2}{2} s$.

    Raises:
        OptionError: If the paths differ, or are not noisy.
    """

    def __init__(self, flow: Field, score: Field, backwards: bool = False) -> None:
        if not isinstance(flow.path, NoisyPath) or flow.path != score.path:
            raise OptionError(f"Both fields of a bridge live on one NoisyPath, these on {flow.path} and {score.path}.")
        super().__init__(flow)
        self.second = score
        self.gain = (-0.5 if backwards else 0.5) * flow.path.sigma**2

    def answer(self, q: Query) -> Reply:
        """The drift at a query; two network calls.

        Raises:
            OptionError: For anything but a velocity.
        """
        if q.kind != "velocity":
            raise OptionError(f"The drift of a bridge is a velocity; {q.kind} does not follow from it.")
        reply = self.base.answer(q)
        score = self.second.answer(q._replace(kind="score"))
        return reply._replace(value=add(reply.value, self.gain, score.value))


@final
@dataclass(frozen=True, kw_only=True)
class Brownian(Solver):
    r"""$x' = x + h v + \sigma \sqrt{|h|}\, \epsilon$, to the last step.

    Args:
        sigma: The diffusion, positive; the one of the bridge.

    Raises:
        OptionError: If it is not positive.
    """

    sigma: float

    stochastic = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise OptionError(f"sigma must be positive and finite, got {self.sigma}.")

    def bind(self, path: Path, finite: tuple[float, float], gaussian: bool = True) -> "Brownian":
        """On any source: the drift holds the score already.

        Raises:
            OptionError: If the path is a bridge of another sigma.
        """
        if isinstance(path, NoisyPath) and path.sigma != self.sigma:
            raise OptionError(f"Brownian(sigma={self.sigma}) meets a path with sigma={path.sigma}: they must agree.")
        return replace(self, path=path, finite=finite)

    def jump(self, s: SolverState, value: State) -> Jump:
        """The Gaussian step."""
        end, start = cast(Scalar, s["end"]), cast(Scalar, s["t"])
        size: Any = abs(end - start)
        return Jump(add(s["x"], end - start, value), self.sigma * sqrt(size))

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Jump."""
        mean, std = self.jump(s, value)
        return {**s, "x": add(mean, std, cast(State, noise)), "stage": DONE}

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval.

        Raises:
            OptionError: For a time by variable.
        """
        if isinstance(t, dict):
            raise OptionError("A bridge takes one time a row, not one a variable.")
        return super().start(s, t, end)
