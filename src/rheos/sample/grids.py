r"""Time grids: the points between which a solver steps.

One object holds the spacing, the one shift and the one stretch; it says what it is, so that a run can print the grid
it used. A spacing is a text, its name and its numbers: `"uniform"`, `"sway:-1"`, `"beta:0.6:0.6"`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol, final, runtime_checkable

from rheos.core.errors import OptionError, TimeError, check_choice
from rheos.core.schedule import Schedule
from rheos.core.schedules import Linear

__all__ = ["ALIASES", "SPACINGS", "Grid", "Searched", "check_grid", "dynamic_shift"]

SPACINGS = ("uniform", "logsnr", "quadratic", "edm", "beta", "sway")
ALIASES = {"karras": "edm", "exponential": "logsnr"}
"""Other names of spacings."""

SWAY = (-1.0, 2 / (math.pi - 2))
"""Between these numbers the swayed times increase."""


@runtime_checkable
class Searched(Protocol):
    """Times that were searched for a field at one scale of guidance; `draw` refuses another scale.

    Attributes:
        times: The grid.
        guidance: The scale; 1 for none.
    """

    @property
    def times(self) -> tuple[float, ...]:
        """The grid."""

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance; 1 for none."""


@final
@dataclass(frozen=True)
class Grid:
    r"""N + 1 increasing times.

    With u = k / N the inner times are, by the spacing's name:

    - "uniform": $t = u$;
    - "quadratic": $t = 1 - (1 - u)^2$, dense at the data end;
    - "logsnr" or "exponential": uniform in $\lambda$ between `low` and `high`; "logsnr:0.01" between t = 0.01 and 0.99;
    - "edm" or "karras": uniform in $(\sigma / \alpha)^{1/\rho}$ between `low` and `high`, rho = 7; "karras:5" has 5;
    - "beta": quantiles of Beta(0.6, 0.6), dense at both ends; "beta:2:1" of Beta(2, 1);
    - "sway": $t = u + c\,(\cos(\pi u / 2) - 1 + u)$ with c = -1, so $1 - \cos(\pi u / 2)$; "sway:-0.5" has c = -0.5;
    - "0,0.3,1": these very times, from 0 to 1.

    "logsnr" and "edm" mean the lambda of the path, and have 0 and 1 added at the ends.

    Args:
        spacing: One of the list above.
        shift: k > 0 of t' = t / (t + k (1 - t)), applied once, after the spacing; k > 1 spends more steps near the
            noise. On the linear path this is the shift of noise levels of SD3; see `dynamic_shift`.
        low: First lambda of "logsnr" and "edm".
        high: Last lambda of "logsnr" and "edm".
        start: First time.
        stop: Last time; smaller than `start` for inversion: then the same times as from 0 to 1, backwards.
        terminal: What the last step has still to go, 1 - t, in (0, 1): the times before it are multiplied by one
            number, last. None leaves them.

    Raises:
        UnknownOptionError: For an unknown spacing.
        OptionError: For numbers that the spacing does not take, a shift that is not positive, low >= high, or a
            terminal outside (0, 1).
        TimeError: If start and stop are equal, or outside [0, 1]; for explicit times that do not increase from 0 to 1.

    Example:
        >>> Grid(shift=3.0)(2)
        (0.0, 0.25, 1.0)
        >>> [round(t, 3) for t in Grid("sway:-1")(3)]
        [0.0, 0.134, 0.5, 1.0]

    Reference: Scaling Rectified Flow Transformers, Esser et al. (2024), eq. 23 (shift); Elucidating the Design Space,
    Karras et al. (2022), eq. 5; Beta Sampling is All You Need, Lee et al. (2024), https://arxiv.org/abs/2407.12173;
    F5-TTS, Chen et al. (2024), https://arxiv.org/abs/2410.06885 (sway).
    """

    spacing: str = "uniform"
    shift: float = 1.0
    low: float = -5.0
    high: float = 5.0
    start: float = 0.0
    stop: float = 1.0
    terminal: float | None = None

    def __post_init__(self) -> None:
        _check_numbers(*self._parts)
        if not 0 < self.shift < math.inf:
            raise OptionError(f"shift must be positive, got {self.shift}.")
        if not self.low < self.high:
            raise OptionError(f"low must be below high, got {self.low} and {self.high}.")
        if not (0 <= self.start <= 1 and 0 <= self.stop <= 1 and self.start != self.stop):
            raise TimeError(f"start and stop are different times in [0, 1], got {self.start} and {self.stop}.")
        if self.terminal is not None and not 0 < self.terminal < 1:
            raise OptionError(f"terminal must lie in (0, 1), got {self.terminal}.")

    @classmethod
    def read(cls, text: str, shift: float = 1.0) -> "Grid":
        """A grid from what a command line says: a spacing, and its shift after an @.

        Args:
            text: Such as "karras", "sway:-0.5", "uniform@3".
            shift: Where the text has none.

        Raises:
            RheosError: As the class does.

        Example:
            >>> Grid.read("beta@3")
            Grid(spacing='beta', shift=3.0, low=-5.0, high=5.0, start=0.0, stop=1.0, terminal=None)
        """
        spacing, at, given = text.partition("@")
        return cls(spacing, _number(given, text) if at else shift)

    def __str__(self) -> str:
        """What `read` understands: the spacing, and the shift where there is one."""
        return self.spacing if self.shift == 1 else f"{self.spacing}@{self.shift:.12g}"

    @property
    def steps(self) -> int | None:
        """The number of steps of explicit times; None where any number will do."""
        name, numbers = self._parts
        return len(numbers) - 1 if name == "explicit" else None

    def __call__(self, n: int, law: Schedule | None = None) -> tuple[float, ...]:
        """The grid of n steps.

        Args:
            n: At least 1.
            law: The schedule whose lambda is meant; linear unless given.

        Raises:
            OptionError: If n < 1, or is not the number of explicit times.
        """
        if n < 1:
            raise OptionError(f"steps must be at least 1, got {n}.")
        if self.steps not in (None, n):
            raise OptionError(f"The grid {self.spacing} has {self.steps} steps, got {n}.")
        shifted = [t / (t + self.shift * (1 - t)) for t in self._inner(n, law or Linear())]
        if self.terminal is not None and n > 1:
            factor = (1 - self.terminal) / shifted[-2]
            shifted = [*(t * factor for t in shifted[:-1]), 1.0]
        low, high = min(self.start, self.stop), max(self.start, self.stop)
        times = [low, *(low + (high - low) * t for t in shifted[1:-1]), high]
        return check_grid(times if self.start < self.stop else times[::-1])

    @cached_property
    def _parts(self) -> tuple[str, tuple[float, ...]]:
        """The spacing's name and numbers."""
        if self.spacing[:1].isdigit():
            return "explicit", tuple(_number(part, self.spacing) for part in self.spacing.split(","))
        name, *numbers = self.spacing.split(":")
        check_choice("spacing", name, (*SPACINGS, *ALIASES))
        return ALIASES.get(name, name), tuple(_number(part, self.spacing) for part in numbers)

    def _inner(self, n: int, law: Schedule) -> list[float]:
        name, numbers = self._parts
        u = [k / n for k in range(n + 1)]
        if name == "explicit":
            return list(numbers)
        if name == "quadratic":
            return [1 - (1 - v) ** 2 for v in u]
        if name == "beta":
            return _beta_quantiles(u, *numbers)
        if name == "sway":
            c = numbers[0] if numbers else SWAY[0]
            return [v + c * (math.cos(math.pi * v / 2) - 1 + v) for v in u]
        if name == "logsnr":
            return [0.0, *(float(law.t_of_lam(v)) for v in self._lambdas(n, law, numbers)), 1.0]
        if name == "edm":
            return [0.0, *(float(law.t_of_lam(v)) for v in self._rooted(n, law, *numbers)), 1.0]
        return u

    def _lambdas(self, n: int, law: Schedule, eps: tuple[float, ...]) -> list[float]:
        """The n - 1 inner values, uniform in lambda."""
        low, high = (float(law.lam(eps[0])), float(law.lam(1 - eps[0]))) if eps else (self.low, self.high)
        low, high, parts = _ends(n, law, low, high)
        return [low + p * (high - low) for p in parts]

    def _rooted(self, n: int, law: Schedule, rho: float = 7.0) -> list[float]:
        """The n - 1 inner values of lambda, uniform in e^(-lambda / rho)."""
        low, high, parts = _ends(n, law, self.low, self.high)
        a, b = math.exp(-low / rho), math.exp(-high / rho)
        return [-rho * math.log(a + p * (b - a)) for p in parts]


def _ends(n: int, law: Schedule, low: float, high: float) -> tuple[float, float, list[float]]:
    """First and last lambda, and where between them, in [0, 1], the n - 1 inner nodes lie.

    Where the schedule ends before `low` or `high` its own end is the node.
    """
    first, last = float(law.lam(0.0)), float(law.lam(1.0))
    before, after = first >= low, last <= high
    gaps = n - 2 + before + after
    parts = [0.5] if gaps == 0 else [k / gaps for k in range(gaps + 1)]
    return max(first, low), min(last, high), parts[before : len(parts) - after] if n > 1 else []


def _beta_quantiles(u: list[float], a: float = 0.6, b: float | None = None) -> list[float]:
    from scipy.special import betaincinv

    return [float(v) for v in betaincinv(a, a if b is None else b, u)]


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(
            f"{whole!r} is no grid: {text!r} is not a number. Write a name and its numbers, such as karras:7, sway:-1 "
            "or uniform@3, or the times themselves, such as 0,0.3,1."
        ) from None


def _check_numbers(name: str, numbers: tuple[float, ...]) -> None:
    """Refuse numbers that a spacing does not take."""
    if name == "explicit":
        grid = check_grid(numbers)
        if (grid[0], grid[-1]) != (0.0, 1.0):
            raise TimeError(f"Explicit times run from 0 to 1, got {grid[0]:g} to {grid[-1]:g}.")
        return
    most, what, lowest, highest = {
        "logsnr": (1, "one number, the first time, inside (0, 0.5)", 0.0, 0.5),
        "edm": (1, "one number, rho, of at least 1", math.nextafter(1, 0), math.inf),
        "beta": (2, "one or two positive numbers, a and b", 0.0, math.inf),
        "sway": (1, f"one number, c, in [-1, {SWAY[1]:.4f}]", math.nextafter(SWAY[0], -2), math.nextafter(SWAY[1], 2)),
    }.get(name, (0, "no numbers", 0.0, 0.0))
    if len(numbers) > most or not all(lowest < v < highest for v in numbers):
        raise OptionError(f"The spacing {name!r} takes {what}, got {', '.join(f'{v:g}' for v in numbers)}.")


def dynamic_shift(
    length: int, *, base_length: int = 256, max_length: int = 4096, base_shift: float = 0.5, max_shift: float = 1.15
) -> float:
    r"""The shift $e^\mu$ of a sequence length, $\mu$ linear through two points: longer sequences need more noise.

    $\mu = \mu_b + (\mu_m - \mu_b) \frac{L - L_b}{L_m - L_b}$

    Args:
        length: L, tokens of the sample that is drawn.
        base_length: L_b.
        max_length: L_m; longer sequences go on along the line.
        base_shift: mu at L_b, an exponent.
        max_shift: mu at L_m.

    Raises:
        OptionError: If length < 1, or the two lengths do not increase.

    Example:
        >>> round(dynamic_shift(4096), 4)
        3.1582

    Reference: Esser et al. (2024), section 5.3.2; the numbers are those of the FLUX models.
    """
    if length < 1:
        raise OptionError(f"length must be at least 1, got {length}.")
    if not 0 < base_length < max_length:
        raise OptionError(f"base_length must be below max_length, got {base_length} and {max_length}.")
    slope = (max_shift - base_shift) / (max_length - base_length)
    return math.exp(base_shift + slope * (length - base_length))


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
