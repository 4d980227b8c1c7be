"""What the laws of the library range over: batches, times, schedules, mixtures, states, solvers."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from rheos.core import EDM, GVP, VE, VP, Discrete, Field, GaussianMixtureField, Linear, SubVP
from rheos.core.schedule import Schedule
from rheos.core.state import State

SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(),
    "linear with noise left": Linear(1e-2),
    "gvp": GVP(),
    "vp": VP(),
    "sub-vp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
    "ddpm": Discrete.ddpm(),
}
CLEAN = ("linear", "gvp", "vp", "sub-vp")
"""Schedules without noise at t = 1."""


untyped = pytest.mark.skipif(
    hasattr(Field.forward, "__wrapped__"), reason="where types are checked, the checker speaks before our own error"
)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


seeds = st.integers(0, 2**31 - 1)
times = st.floats(1e-3, 1 - 1e-3)
schedules = st.sampled_from(list(SCHEDULES.values()))


@st.composite
def batches(draw: st.DrawFn, most: int = 6) -> Tensor:
    """(B, ...) float64 with up to two further axes."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    return randn(draw(st.integers(1, most)), *shape, seed=draw(seeds))


@st.composite
def states(draw: st.DrawFn, most: int = 6) -> State:
    """A tensor, or a dict of two with one batch size."""
    x = draw(batches(most))
    if draw(st.booleans()):
        return x
    return {"a": x, "b": randn(len(x), draw(st.integers(1, 3)), seed=draw(seeds))}


@st.composite
def grids(draw: st.DrawFn, most: int = 5) -> tuple[float, ...]:
    """An increasing grid from 0 to 1."""
    inner = draw(st.lists(st.integers(1, 99), max_size=most - 1, unique=True))
    return (0.0, *(k / 100 for k in sorted(inner)), 1.0)


def mixture(path: str = "linear", labels: bool = False) -> GaussianMixtureField:
    """Three components in the plane, as in the card on principles."""
    return GaussianMixtureField(
        means=[[-2.0, 0.5], [1.5, 1.0], [0.5, -1.5]],
        stds=[0.3, 0.5, 0.4],
        weights=[0.2, 0.5, 0.3],
        path=path,
        labels=[0, 1, 1] if labels else None,
    )


def gaussian(path: str = "linear", mean: float = 1.5, std: float = 0.3, dim: int = 1) -> GaussianMixtureField:
    """One component, whose flow map is known."""
    return GaussianMixtureField(means=[[mean] * dim], stds=[std], path=path)


class Wall(torch.nn.Module):
    """A network whose values are infinite after t = 0.6."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, t):
        return self.w * torch.where(t[:, None] > 0.6, torch.inf, x)


class GaussianMap(torch.nn.Module):
    """The exact average velocity of the flow from N(0, I) to N(m, c^2) on the linear path, and `off` times x beside it.

    Called with one time it is the average to the end, with two the average between them; where they meet, the velocity.
    """

    conditions = frozenset[str]()

    def __init__(self, mean: float = 1.5, std: float = 0.4, off: float = 0.0) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.off = torch.nn.Parameter(torch.tensor(off, dtype=torch.float64))

    def spread(self, t: Tensor) -> Tensor:
        return ((t * self.std) ** 2 + (1 - t) ** 2).sqrt()

    def forward(self, x: Tensor, s: Tensor, t: Tensor | None = None) -> Tensor:
        end = torch.ones_like(s) if t is None else t
        s, end = (v.reshape(-1, *(1,) * (x.ndim - 1)) for v in (s, end))
        rate = (s * self.std**2 - (1 - s)) / self.spread(s) ** 2
        velocity = self.mean + rate * (x - s * self.mean)
        apart = end - s > 1e-9
        gap = torch.where(apart, end - s, 1.0)
        moved = end * self.mean + self.spread(end) / self.spread(s) * (x - s * self.mean)
        return torch.where(apart, (moved - x) / gap, velocity) + self.off * x
