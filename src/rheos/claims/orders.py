"""Orders of convergence on a flow that is known exactly: part (a) of the claim `principles`.

The field of a Gaussian mixture has no training error, so what is left is the solver's. Methods that integrate in t
walk a uniform grid in t, exponential integrators a uniform grid in lambda, the variable that each of them steps in:
on the other's grid their first and last steps are so unequal that no order shows at these step counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.mixture import GaussianMixtureField
from rheos.core.paths import AffinePath
from rheos.core.schedule import Schedule
from rheos.sample.draw import solve

__all__ = ["LAMBDA", "ORDERS", "PATHS", "Study", "errors", "slope"]

LOW, HIGH = 1e-3, 1 - 1e-3
PATHS = ("linear", "gvp", "vp")
STEPS = (20, 80, 160, 320)
LAMBDA = ("ddim", "dpm++2m", "dpm++2s", "unipc")
"""Methods that step in lambda."""


class Order(NamedTuple):
    """What theory says of a method, and how closely the slope must agree."""

    order: int
    tolerance: float


ORDERS: Mapping[str, Order] = {
    "euler": Order(1, 0.15),
    "ddim": Order(1, 0.15),
    "midpoint": Order(2, 0.15),
    "heun": Order(2, 0.15),
    "ab2": Order(2, 0.15),
    "dpm++2m": Order(2, 0.15),
    "dpm++2s": Order(2, 0.15),
    "rk4": Order(4, 0.15),
    "unipc": Order(3, 0.5),
}


@final
@dataclass(frozen=True)
class Study:
    """How the errors are measured.

    Args:
        rows: Trajectories.
        reference: Steps of the Runge-Kutta 4 reference.
        seed: Of the starting points.
    """

    rows: int = 64
    reference: int = 4000
    seed: int = 0


def mixture(path: str) -> GaussianMixtureField:
    """Three Gaussians in the plane, well apart and of different widths."""
    return GaussianMixtureField(
        means=[[-2.0, 0.5], [1.5, 1.0], [0.5, -1.5]], stds=[0.3, 0.5, 0.4], weights=[0.2, 0.5, 0.3], path=path
    )


def uniform(n: int) -> list[float]:
    """A uniform grid in t."""
    return [LOW + (HIGH - LOW) * k / n for k in range(n + 1)]


def uniform_in_lambda(n: int, law: Schedule) -> list[float]:
    """A uniform grid in lambda."""
    low, high = float(law.lam(LOW)), float(law.lam(HIGH))
    inner = [float(law.t_of_lam(low + (high - low) * k / n)) for k in range(1, n)]
    return [LOW, *inner, HIGH]


def errors(
    path: str, methods: Sequence[str], study: Study, steps: Sequence[int] = STEPS
) -> dict[str, dict[int, float]]:
    """Distance to the reference at the end, by method and number of steps.

    The median over trajectories: a few start near the border between two basins, where Euler's error is not small
    before 80 steps, and a root mean square shows little but those.

    Args:
        path: Name of a schedule.
        methods: Of `rheos.sample.SOLVERS`.
        study: Trajectories, reference, seed.
        steps: Numbers of steps.
    """
    field = mixture(path)
    law = AffinePath(path).law
    noise = Draws(row_seeds(study.seed, study.rows)).normal(torch.empty(study.rows, 2, dtype=torch.float64), "source")
    assert isinstance(noise, Tensor)
    start = noise * float(law.sigma(LOW))
    truth = _end(field, start, uniform(study.reference), "rk4")
    found: dict[str, dict[int, float]] = {}
    for name in methods:
        found[name] = {}
        for n in steps:
            grid = uniform_in_lambda(n, law) if name in LAMBDA else uniform(n)
            found[name][n] = float((_end(field, start, grid, name) - truth).norm(dim=1).median())
    return found


def _end(field: GaussianMixtureField, x: Tensor, grid: list[float], name: str) -> Tensor:
    return solve(field, x, grid, name).x  # type: ignore[return-value]


def slope(error: Mapping[int, float]) -> float:
    """Minus the least-squares slope of log error over log steps: the order of convergence.

    Example:
        >>> round(slope({10: 1.0, 20: 0.25, 40: 0.0625}), 6)
        2.0
    """
    a = [math.log(n) for n in error]
    b = [math.log(e) for e in error.values()]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return -covariance / sum((x - mean_a) ** 2 for x in a)
