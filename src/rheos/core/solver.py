"""What a solver owes the sampling loop: ask for a network value, be told it, move the state.

A solver is a frozen description. Everything that changes lives in a flat dict of plain data, rows first: the
state `x`, the interval `t` to `end`, the `stage` (negative when the interval is complete) and whatever history
the method keeps. So a trajectory can be saved, split, joined, moved and resumed at any evaluation.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rheos.core.errors import OptionError, SourceNotGaussianError
from rheos.core.paths import AffinePath, Kind, Path, Time
from rheos.core.scalars import Scalar
from rheos.core.schedule import Schedule
from rheos.core.state import State, add, expand, flat_rows, rows, scale, tensors

__all__ = ["DONE", "Ask", "Jump", "Solver", "SolverState", "Weights", "combination", "elapsed", "times", "weighted"]

SolverState = dict[str, Any]
DONE = -1
"""The stage of a completed interval."""


class Ask(NamedTuple):
    """A solver's wish: the value of `kind` at (x, t), while it steps over `span`."""

    x: State
    t: Time
    span: tuple[Time, Time]
    kind: Kind


class Jump(NamedTuple):
    """A Gaussian step: the new state is mean + std * noise.

    Args:
        mean: State.
        std: One number for all rows, or (B,).
    """

    mean: State
    std: Scalar

    def logprob(self, x: State) -> Tensor:
        r"""$\ln N(x;\, \text{mean}, \text{std}^2 I)$ a row, (B,); zero where std is zero: such a step has no density.

        Args:
            x: The state that was reached.
        """
        total = torch.zeros(rows(x), dtype=tensors(x)[0].dtype, device=tensors(x)[0].device)
        means = [self.mean] if isinstance(self.mean, Tensor) else [self.mean[n] for n in cast(dict[str, Tensor], x)]
        for value, mean in zip(tensors(x), means, strict=True):
            std = cast(Tensor, expand(torch.as_tensor(self.std, dtype=torch.float64), value))
            safe = torch.where(std > 0, std, 1.0)  # or gradients of the rows without a density would be NaN
            terms = -0.5 * ((value - mean) / safe).square() - safe.log() - 0.5 * math.log(2 * math.pi)
            total = total + flat_rows(torch.where(std > 0, terms, 0.0)).sum(1)
        return total


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A numerical method for one flow interval.

    Args:
        path: The path of the field; set by `bind`.
        finite: Times between which velocities are finite; set by `bind`.
    """

    path: Path = field(default_factory=AffinePath, repr=False)
    finite: tuple[float, float] = field(default=(0.0, 1.0), repr=False)

    affine = True
    """Whether it needs a vector space; False: any `Space`."""
    schedule_free = True
    """Whether it needs velocities only; False: an `AffinePath`."""
    stochastic = False
    """Whether a step adds noise."""
    kicks = False
    """Whether noise is added before an interval's first evaluation: then `kick` adds it."""
    leads = False
    """Whether its one evaluation a step has a leading term that a hook may replace."""
    adaptive = False
    """Whether it chooses its own steps inside an interval."""
    order = 1
    """Global order of convergence in the step size."""
    evaluations = 1
    """Network calls a step."""
    extra = 0
    """Further calls in the first step of a trajectory."""

    def bind(self, path: Path, finite: tuple[float, float], gaussian: bool = True) -> "Solver":
        """This method on a given path.

        Raises:
            OptionError: If the method cannot run there.
            SourceNotGaussianError: If it needs a Gaussian source and there is none.
        """
        name = type(self).__name__
        if not self.schedule_free and not isinstance(path, AffinePath):
            raise OptionError(
                f"{name} uses the coefficients of an affine path, this field lives on {type(path).__name__}. "
                "Use a Runge-Kutta solver: euler, midpoint, heun."
            )
        if self.affine and not path.flat:
            raise OptionError(f"{name} needs a flat space, not {path.space}. Use euler, midpoint or heun.")
        if self.stochastic and not gaussian:
            raise SourceNotGaussianError(
                f"{name} adds noise by the score, which needs a source N(0, I) independent of the data; this field "
                "was declared gaussian=False. Use an ODE solver."
            )
        return replace(self, path=path, finite=finite)

    @property
    def law(self) -> Schedule:
        """The schedule of an affine path."""
        return cast(AffinePath, self.path).law

    def init(self, x: State) -> SolverState:
        """The state of a fresh trajectory at x."""
        return {"x": x, "t": 0.0, "end": 0.0, "stage": DONE}

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin the interval from t to end."""
        return {**s, "t": t, "end": end, "stage": 0}

    def ask(self, s: SolverState) -> Ask:
        """What is needed next; only when the interval is not complete."""
        t = s["t"]
        return Ask(s["x"], t, (t, s["end"]), "velocity")

    @abstractmethod
    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """The state after the value is known; `x` has moved when the stage is `DONE`.

        Args:
            s: The state that asked.
            value: What was asked.
            noise: Standard normal numbers like x, for stochastic methods.
            lead: A replacement of `value` in the leading term of the step only (DualFast changes just that).
        """

    def kick(self, s: SolverState, noise: State) -> SolverState:
        """The state with noise added at the start of an interval.

        Raises:
            OptionError: Unless the method `kicks`.
        """
        raise OptionError(f"{type(self).__name__} adds no noise before a step.")

    def jump(self, s: SolverState, value: State) -> Jump:
        """The Gaussian step that `tell` would take; reinforcement learning recomputes it.

        Raises:
            OptionError: If the method is deterministic.
        """
        raise OptionError(f"{type(self).__name__} is deterministic: its steps have no density. Use an SDE solver.")

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """Put the trajectory at x between intervals, forgetting history when `restart`."""
        return {**self.init(x), "t": s["t"], "end": s["end"]} if restart else {**s, "x": x}


def elapsed(t: Time, end: Time) -> Time:
    """The step from t to its end, name by name."""
    if isinstance(t, dict):
        ends = cast(dict[str, float | Tensor], end)
        return {n: ends[n] - v for n, v in t.items()}
    return cast(float | Tensor, end) - t


def times(h: Time, factor: float | Tensor) -> Time:
    """The step times a factor, name by name."""
    return {n: v * factor for n, v in h.items()} if isinstance(h, dict) else h * factor


Weights = tuple[float | Tensor, ...]
"""Weights of stages: floats, or one a row."""


def weighted(x: State, h: Time, weights: Weights, values: tuple[State, ...]) -> State:
    r"""$x + h \sum_j w_j v_j$; weights that are the float zero are skipped."""
    for w, v in zip(weights, values, strict=True):
        if isinstance(w, Tensor) or w:
            x = add(x, times(h, w), v)
    return x


def combination(weights: Weights, values: tuple[State, ...]) -> State:
    r"""$\sum_j w_j v_j$; at least one weight is not zero."""
    terms = [(w, v) for w, v in zip(weights, values, strict=True) if isinstance(w, Tensor) or w]
    total = scale(terms[0][0], terms[0][1])
    for w, v in terms[1:]:
        total = add(total, w, v)
    return total
