r"""Toy distributions in the plane, as flow papers draw them.

Every point is a function of (name, seed, its row) alone: the first 100 of 1000 points are the 100 points.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError, check_choice
from rheos.data.about import About
from rheos.data.dataset import Data
from rheos.data.recipe import Recipe

__all__ = ["TOYS", "toy"]


def toy(name: str, n: int = 10_000, seed: int = 0) -> Data:
    """Points of a distribution in the plane, float32 (n, 2), without labels.

    Args:
        name: One of `TOYS`.
        n: Points.
        seed: Any integer.

    Raises:
        UnknownOptionError: If there is no such distribution.
        OptionError: If n is not positive.

    Example:
        >>> torch.equal(toy("moons", 10).x, toy("moons", 1000).x[:10])
        True
    """
    check_choice("toy", name, _MAKERS)
    if n < 1:
        raise OptionError(f"n must be at least 1, got {n}.")
    x = _MAKERS[name](Draws(row_seeds(seed, n)).fold(name)).to(torch.float32)
    recipe = Recipe(source=name, limit=n) if seed == 0 else Recipe()
    return Data(x, about=About(name, recipe=recipe))


def _uniform(draws: Draws, key: str) -> Tensor:
    return draws.uniform(key)


def _normal(draws: Draws) -> Tensor:
    x = draws.normal(torch.empty(len(draws), 2, dtype=torch.float64), "noise")
    assert isinstance(x, Tensor)
    return x


def _circle(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), 1)


def _eight_gaussians(draws: Draws) -> Tensor:
    """Eight Gaussians of variance 0.1 on a circle of radius 5.

    torchcfm's function of that name passes the square root of its `var` as a covariance; here the variance is 0.1.
    """
    which = (_uniform(draws, "component") * 8).floor()
    return 5 * _circle(which * (math.pi / 4)) + math.sqrt(0.1) * _normal(draws)


def _moons(draws: Draws) -> Tensor:
    """Two half circles of radius 1, noise 0.05, then 3x - 1 as in torchcfm's benchmark."""
    arc = _circle(math.pi * _uniform(draws, "angle"))
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - arc
    x = torch.where((_uniform(draws, "moon") < 0.5)[:, None], arc, lower)
    return 3 * (x + 0.05 * _normal(draws)) - 1


def _checkerboard(draws: Draws) -> Tensor:
    """Uniform on the eight dark squares of side 2 in [-4, 4]²."""
    u = draws.uniform("square", shape=(3,))
    column = (4 * u[:, 0]).floor()
    row = 2 * (2 * u[:, 1]).floor() + column.remainder(2)
    inside = torch.stack((4 * u[:, 0] - column, u[:, 2]), 1)
    return 2 * (torch.stack((column, row), 1) + inside) - 4


def _spirals(draws: Draws) -> Tensor:
    """Two arms of one and a half turns, jittered by up to 1/6, noise 0.1."""
    u = draws.uniform("arm", shape=(4,))
    angle = 3 * math.pi * u[:, 0].sqrt()
    arm = torch.stack((-angle.cos(), angle.sin()), 1) * angle[:, None] + 0.5 * u[:, 1:3]
    sign = torch.where(u[:, 3] < 0.5, -1.0, 1.0).double()
    return sign[:, None] * arm / 3 + 0.1 * _normal(draws)


def _pinwheel(draws: Draws) -> Tensor:
    """Five blades: Gaussians of radial deviation 0.3 and tangential 0.1, twisted by exp(radius) / 4."""
    blade = 2 * math.pi / 5 * (_uniform(draws, "blade") * 5).floor()
    along, across = (_normal(draws) * torch.tensor([0.3, 0.1], dtype=torch.float64)).unbind(1)
    along = along + 1
    angle = blade + 0.25 * along.exp()
    return 2 * torch.stack((along * angle.cos() + across * angle.sin(), across * angle.cos() - along * angle.sin()), 1)


def _swissroll(draws: Draws) -> Tensor:
    """The roll t (cos t, sin t), t from 1.5π to 4.5π, unit noise, divided by 5."""
    t = 1.5 * math.pi * (1 + 2 * _uniform(draws, "angle"))
    return (_circle(t) * t[:, None] + _normal(draws)) / 5


_MAKERS: dict[str, Callable[[Draws], Tensor]] = {
    "8gaussians": _eight_gaussians,
    "moons": _moons,
    "checkerboard": _checkerboard,
    "spirals": _spirals,
    "pinwheel": _pinwheel,
    "swissroll2d": _swissroll,
}

TOYS = tuple(_MAKERS)
