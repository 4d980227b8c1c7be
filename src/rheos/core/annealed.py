r"""Annealing reflow: a coupling that moves from independent pairs to a teacher's own in the course of a training.

$x_0^\beta = \sqrt{1-\beta^2}\,x_0 + \beta\,\epsilon$ with fresh $\epsilon \sim N(0, I)$: the source law stays
$N(0, I)$ for every $\beta$, and $\mathrm{cov}(x_0^\beta, x_0) = \sqrt{1-\beta^2}$. At $\beta = 1$ the student learns a
first rectified flow on samples of the teacher, at $\beta = 0$ it is reflowed on the teacher's pairs. So a student of
another architecture, which cannot begin with the teacher's weights, is led from the one to the other.

Reference: SlimFlow, Zhu, Liu and Liu (2024), https://arxiv.org/abs/2407.12718, section 3.2
"""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from rheos.core.base import Cond, Coupling, Pairs
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, check_choice
from rheos.core.state import State, map_state
from rheos.core.transport import check_rows

__all__ = ["BETAS", "AnnealedPairs"]

BETAS = ("linear", "cosine", "exponential")
"""How beta falls."""


@final
@dataclass(frozen=True)
class AnnealedPairs(Coupling):
    r"""Given pairs whose noise is partly replaced, by a share that falls with the training's steps.

    With k the step and W = `over`: "linear" $\beta = 1 - \min(1, k/W)$, "cosine"
    $\frac12 (1 + \cos(\pi \min(1, k/W)))$, "exponential" $e^{-k/W}$; a number is kept for ever, 0 being `GivenPairs`.

    Args:
        beta: A schedule's name, or a number in [0, 1].
        over: W, steps until the pairs are the teacher's (exponentially: until beta is 1/e); only with a name.

    Raises:
        UnknownOptionError: For an unknown schedule.
        OptionError: For a number outside [0, 1], W below 1, a schedule without W or a number with it.

    Example:
        >>> [AnnealedPairs("linear", over=4).share(k) for k in (0, 1, 4, 9)]
        [1.0, 0.75, 0.0, 0.0]
    """

    beta: str | float = "linear"
    over: int | None = None
    gaussian = False
    accepts_pairs = True

    def __post_init__(self) -> None:
        if isinstance(self.beta, str):
            check_choice("beta", self.beta, BETAS)
            if self.over is None or self.over < 1:
                raise OptionError(f"The schedule {self.beta!r} needs over, at least 1 step, got {self.over}.")
            return
        if not 0 <= self.beta <= 1:
            raise OptionError(f"beta must lie in [0, 1], got {self.beta}.")
        if self.over is not None:
            raise OptionError(f"A constant beta={self.beta:g} does not end, so over={self.over} has no meaning.")
        object.__setattr__(self, "gaussian", self.beta == 1)

    def share(self, step: int) -> float:
        """Beta at a step, counted from 0."""
        if not isinstance(self.beta, str):
            return float(self.beta)
        assert self.over is not None
        part = step / self.over
        if self.beta == "exponential":
            return math.exp(-part)
        part = min(1.0, part)
        return 1 - part if self.beta == "linear" else (1 + math.cos(math.pi * part)) / 2

    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Mix fresh noise into the source.

        Raises:
            OptionError: For a schedule outside a training, where no step is known.
        """
        check_rows(x0, x1)
        if isinstance(self.beta, str) and draws.step is None:
            raise OptionError("A schedule of beta needs the training's step: draws = Draws.training(seed, step, n).")
        beta = self.share(draws.step or 0)
        logs = {"beta": beta}
        if beta == 0:
            return Pairs(x0, x1, cond, logs=logs)
        keep = math.sqrt(1 - beta * beta)

        def mix(x: Tensor, fresh: Tensor) -> Tensor:
            return fresh if beta == 1 else x * keep + fresh * beta

        return Pairs(map_state(mix, x0, draws.normal(x0, "anneal")), x1, cond, logs=logs)
