"""The nouns that training methods are made of: coupling, source, time distribution, premetric, loss.

A method's own file subclasses one of these; whatever obeys the contract works with everything else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.state import State

__all__ = ["Cond", "Context", "Coupling", "Loss", "Pairs", "Premetric", "Source", "TimeDistribution"]

Cond = dict[str, Tensor]
"""Conditions by name, rows first; never None inside: unconditional rows hold the field's null values."""


class Pairs(NamedTuple):
    """What a coupling returns.

    Args:
        x0: Source rows.
        x1: Data rows; a coupling reorders the source, never the data.
        cond: Conditions of the rows of x1.
        weight: (B,) float64 weights of the rows' losses, or None for ones.
        index0: (B,) which row of the given source each row is, or None for the given order.
        index1: (B,) likewise for the data.
        losses: Extra losses by name, (B,) each (a variational source has one).
        logs: Figures for the training log, scalars or 0-d tensors.
    """

    x0: State
    x1: State
    cond: Cond
    weight: Tensor | None = None
    index0: Tensor | None = None
    index1: Tensor | None = None
    losses: Mapping[str, Tensor] = {}
    logs: Mapping[str, Tensor | float] = {}


class Coupling(ABC):
    """Which source sample goes with which data sample."""

    gaussian: bool = True
    """Whether, given a Gaussian source, x0 is still N(0, I) independent of x1: scores and SDEs need it."""

    accepts_pairs: bool = False
    """Whether it may meet x0 and x1 that the data set delivers as pairs: most would select or weigh them anew."""

    @abstractmethod
    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Couple a whole (global) batch; rows of x0, x1, cond and draws agree."""

    def prepare(self, x0: State, x1: State, cond: Cond, draws: Draws) -> "Coupling":
        """This coupling with every open constant fixed on a pilot batch; a fixed one returns itself.

        Training calls it once and stores the result in the run's configuration: couplings keep no state, so a
        resumed run, or a run on another number of processes, couples alike.
        """
        return self


class Source(ABC):
    """The law at t = 0."""

    gaussian: bool = False
    """Whether it is N(0, I) independent of the data."""
    noise: bool = False
    """Whether its rows alone are N(0, I), so that samples begin with fresh noise."""

    @property
    def consumes(self) -> tuple[str, ...]:
        """Columns of the batch that are used up here and not passed on to the network."""
        return ()

    @abstractmethod
    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Source rows for data rows of the shape of `like`."""


class TimeDistribution(ABC):
    """The law of training times in [0, 1]: of one time, an ordered pair, or a time each variable (`core.times`)."""

    @abstractmethod
    def density(self, t: Any) -> Tensor:
        """The density at times of the form that `sample` returns, integrating to one."""

    @abstractmethod
    def sample(self, n: int, draws: Draws) -> Tensor | dict[str, Tensor]:
        """Float64 times of a whole (global) batch: (n,), (n, 2) for pairs, or a dict of (n,)."""


class Context(NamedTuple):
    """What a premetric may look at besides prediction and target.

    Args:
        xt: The state.
        t: The times, (B,) float64.
        data: The data estimate, for premetrics on "both".
        target: The data, likewise.
    """

    xt: State
    t: Tensor
    data: State | None = None
    target: State | None = None


class Premetric(ABC):
    """A distance of prediction and target, one number a row; zero only where they agree."""

    on: Literal["prediction", "data", "both"] = "prediction"
    """Whether it compares the objective's own kind, data estimates, or that kind with data estimates in the context."""

    @abstractmethod
    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) losses."""


class Loss(NamedTuple):
    """What an objective returns for a slice of a batch.

    Args:
        rows: (B,) loss of each row, before its weight.
        weight: (B,) weight of each row, normalised over the global batch, so that `(rows * weight).sum()`
            summed over all slices is the batch's loss.
        logs: Figures for the training log.
    """

    rows: Tensor
    weight: Tensor
    logs: Mapping[str, Tensor | float] = {}

    @property
    def value(self) -> Tensor:
        """This slice's share of the batch's loss."""
        return (self.rows * self.weight).sum()
