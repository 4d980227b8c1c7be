"""Time grids: the points between which a solver steps.

One object holds the spacing and the one shift; it says what it is, so that a run can print the grid it used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from rheos.core.errors import OptionError, TimeError, check_choice
from rheos.core.schedules import Linear, Schedule

__all__ = ["SPACINGS", "Grid", "check_grid"]

SPACINGS = ("uniform", "logsnr", "quadratic", "edm")


@final
@dataclass(frozen=True)
class Grid:
    """N + 1 increasing times.

    Args:
        spacing: "uniform" in t; "logsnr": uniform in lambda between `low` and `high`, with 0 and 1 added at the ends;
            "quadratic": t = 1 - (1 - u)^2, dense at the data end; "edm": uniform in (sigma / alpha)^(1/7).
        shift: k > 0 of t' = t / (t + k (1 - t)), applied once, last; k > 1 spends more steps near the noise.
        low: First lambda of "logsnr" and "edm".
        high: Last lambda of "logsnr" and "edm".
        start: First time.
        stop: Last time; smaller than `start` for inversion: then the same times as from 0 to 1, backwards.

    Raises:
        UnknownOptionError: For an unknown spacing.
        OptionError: For a shift that is not positive, or low >= high.
        TimeError: If start and stop are equal, or outside [0, 1].

    Example:
        >>> Grid(shift=3.0)(2)
        (0.0, 0.25, 1.0)
    """

    spacing: str = "uniform"
    shift: float = 1.0
    low: float = -5.0
    high: float = 5.0
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        check_choice("spacing", self.spacing, SPACINGS)
        if not self.shift > 0:
            raise OptionError(f"shift must be positive, got {self.shift}.")
        if not self.low < self.high:
            raise OptionError(f"low must be below high, got {self.low} and {self.high}.")
        if not (0 <= self.start <= 1 and 0 <= self.stop <= 1 and self.start != self.stop):
            raise TimeError(f"start and stop are different times in [0, 1], got {self.start} and {self.stop}.")

    def __call__(self, n: int, law: Schedule | None = None) -> tuple[float, ...]:
        """The grid of n steps.

        Args:
            n: At least 1.
            law: The schedule whose lambda is meant; linear unless given.

        Raises:
            OptionError: If n < 1.
        """
        if n < 1:
            raise OptionError(f"steps must be at least 1, got {n}.")
        inner = self._inner(n, law or Linear())
        shifted = [t / (t + self.shift * (1 - t)) for t in inner]
        low, high = min(self.start, self.stop), max(self.start, self.stop)
        times = [low, *(low + (high - low) * t for t in shifted[1:-1]), high]
        return check_grid(times if self.start < self.stop else times[::-1])

    def _inner(self, n: int, law: Schedule) -> list[float]:
        u = [k / n for k in range(n + 1)]
        if self.spacing == "uniform":
            return u
        if self.spacing == "quadratic":
            return [1 - (1 - v) ** 2 for v in u]
        return [0.0, *(float(law.t_of_lam(v)) for v in self._lambdas(n, law)), 1.0]

    def _lambdas(self, n: int, law: Schedule) -> list[float]:
        """The n - 1 inner values of lambda; where the schedule ends before `low` or `high` its own end is the node."""
        first, last = float(law.lam(0.0)), float(law.lam(1.0))
        before, after = first >= self.low, last <= self.high
        low, high = max(first, self.low), min(last, self.high)
        gaps = n - 2 + before + after
        part = [0.5] if gaps == 0 else [k / gaps for k in range(gaps + 1)]
        inner = part[before : len(part) - after] if n > 1 else []
        if self.spacing == "logsnr":
            return [low + p * (high - low) for p in inner]
        a, b = math.exp(-low / 7), math.exp(-high / 7)
        return [-7 * math.log(a + p * (b - a)) for p in inner]


def check_grid(times: Sequence[float]) -> tuple[float, ...]:
    """A grid as floats: in [0, 1], at least two, strictly monotone.

    Raises:
        TimeError: Otherwise, with the offending values.
    """
    grid = tuple(float(t) for t in times)
    if len(grid) < 2:
        raise TimeError(f"A grid has at least two times, got {len(grid)}.")
    outside = [t for t in grid if not 0 <= t <= 1]
    if outside:
        raise TimeError(f"Times lie in [0, 1] (0 is noise, 1 is data), got {outside[0]}.")
    steps = [b - a for a, b in pairwise(grid)]
    if not (all(h > 0 for h in steps) or all(h < 0 for h in steps)):
        k = next(k for k, h in enumerate(steps) if h * steps[0] <= 0)
        raise TimeError(f"A grid is strictly monotone, got {grid[k]} followed by {grid[k + 1]}.")
    return grid
