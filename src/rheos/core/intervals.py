"""Laws of intervals s <= t beside `TwoTimes`: dyadic ones, two laws, and the intervals that sampling will use.

Each has `equal`, the share of rows with s = t. Samples are columns of (n, 2), as those of `TwoTimes`.
"""

from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core.base import TimeDistribution
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, TimeError
from rheos.core.time_laws import OneTime
from rheos.core.times import TwoTimes, times

__all__ = ["Deployed", "Dyadic", "TwoLaws", "apart", "intervals"]


@final
@dataclass(frozen=True)
class Dyadic(TimeDistribution):
    """Intervals of length 1, 1/2, ..., 2^-(levels - 1) that begin at multiples of their length: shortcut models'.

    The length is uniform over the levels. Rows with s = t have a time at a multiple of the finest length.

    Args:
        levels: Number of lengths, at least 1.
        equal: Share of rows with s = t, in [0, 1].

    Raises:
        OptionError: For a number out of range.

    Example:
        >>> pair = Dyadic(levels=1, equal=0.0).sample(2, Draws(torch.arange(2)))
        >>> pair
        tensor([[0., 1.],
                [0., 1.]], dtype=torch.float64)

    Reference: One Step Diffusion via Shortcut Models, Frans et al. (2024), https://arxiv.org/abs/2410.12557
    """

    levels: int = 7
    equal: float = 0.75

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise OptionError(f"levels must be at least 1, got {self.levels}.")
        _check_share("equal", self.equal)

    def density(self, t: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n"]:
        """Zero: all of the mass is on finitely many intervals."""
        return torch.zeros(t.shape[:-1], dtype=torch.float64, device=t.device)

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, "n 2"]:
        """(n, 2) times."""
        k = (draws.uniform("level") * self.levels).floor()
        length = torch.exp2(-k)
        finest = 2.0 ** (1 - self.levels)
        even = draws.uniform("equal") < self.equal
        grid = torch.where(even, finest, length)
        s = (draws.uniform("start") / grid).floor() * grid
        return torch.stack((s, torch.where(even, s, s + length)), 1)


@final
@dataclass(frozen=True)
class TwoLaws(TimeDistribution):
    """Ordered pairs of a draw of one law and a draw of another, as MeanFlow has them on CIFAR-10.

    Args:
        first: A law of one time, or its name; rows with s = t follow it.
        second: Likewise.
        equal: Share of rows with s = t, in [0, 1].

    Raises:
        OptionError: For a share outside [0, 1], or laws that are not of one time.

    Example:
        >>> from rheos.core.time_laws import LogitNormal
        >>> law = TwoLaws(LogitNormal(0.6, 1.6), LogitNormal(4.0, 1.6))  # the paper's t and r, whose noise is at 1
        >>> pair = law.sample(3, Draws(torch.arange(3)))
        >>> bool((pair[:, 0] < pair[:, 1]).all())
        True
    """

    first: OneTime | str
    second: OneTime | str
    equal: float = 0.0

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            object.__setattr__(self, name, _one(name, getattr(self, name)))
        _check_share("equal", self.equal)

    def density(self, t: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n"]:
        """(1 - equal) (p(s) q(t) + p(t) q(s)) for s <= t, else zero: the part that has a density."""
        p, q = (cast(OneTime, law).density(t) for law in (self.first, self.second))
        both = (p[..., 0] * q[..., 1] + p[..., 1] * q[..., 0]) * (1 - self.equal)
        return torch.where(t[..., 0] <= t[..., 1], both, 0.0)

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, "n 2"]:
        """(n, 2) times."""
        first, second = (
            cast(OneTime, law).sample(n, draws.fold(name))
            for name, law in (("first", self.first), ("second", self.second))
        )
        second = torch.where(draws.uniform("equal") < self.equal, first, second)
        return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), 1)


@final
@dataclass(frozen=True)
class Deployed(TimeDistribution):
    """`TwoTimes`, with a share of the intervals that sampling will use.

    Args:
        inner: A law of one time, or its name.
        steps: The intervals, chosen uniformly; each begins before it ends.
        share: Of the rows with s < t that take one of them, in [0, 1].
        equal: Share of rows with s = t, in [0, 1].

    Raises:
        OptionError: For a share outside [0, 1], or no interval.
        TimeError: For an interval outside [0, 1], or one that does not go forwards.

    Example:
        >>> Deployed(share=1.0, steps=((0.0, 1.0),), equal=0.0).sample(1, Draws(torch.arange(1)))
        tensor([[0., 1.]], dtype=torch.float64)
    """

    inner: OneTime | str = "uniform"
    steps: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0))
    share: float = 0.25
    equal: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", _one("inner", self.inner))
        _check_share("share", self.share)
        _check_share("equal", self.equal)
        if not self.steps:
            raise OptionError("steps needs at least one interval, such as ((0.0, 1.0),).")
        bad = [pair for pair in self.steps if not 0 <= pair[0] < pair[1] <= 1]
        if bad:
            raise TimeError(f"An interval goes forwards inside [0, 1], got {bad[0]}.")

    def density(self, t: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n"]:
        """That of `TwoTimes`, less the share: the part that has a density."""
        return TwoTimes(self.inner, self.equal).density(t) * (1 - self.share)

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, "n 2"]:
        """(n, 2) times."""
        pair = TwoTimes(self.inner, self.equal).sample(n, draws)
        table = torch.tensor(self.steps, dtype=torch.float64, device=pair.device)
        pick = (draws.uniform("which") * len(self.steps)).long().clamp_(max=len(self.steps) - 1)
        taken = (draws.uniform("deployed") < self.share) & (pair[:, 0] < pair[:, 1])
        return torch.where(taken[:, None], table[pick], pair)


Intervals = TwoTimes | Dyadic | TwoLaws | Deployed
"""Laws of intervals that the functions below can take apart."""


def intervals(law: TimeDistribution) -> Intervals:
    """A law of intervals, or `OptionError`.

    Example:
        >>> intervals(times("uniform"))
        Traceback (most recent call last):
        ...
        rheos.core.errors.OptionError: A flow map is trained on intervals: TwoTimes(UniformTime(...)), Dyadic(), ...
    """
    if isinstance(law, TwoTimes | Dyadic | TwoLaws | Deployed):
        return law
    raise OptionError(f"A flow map is trained on intervals: TwoTimes({type(law).__name__}(...)), Dyadic(), ...")


def apart(law: Intervals, n: int, draws: Draws) -> tuple[Float64[Tensor, "n 2"], Tensor]:
    """Times of a whole batch, and which rows have s < t.

    Of every so many rows in a row the same share has s = t, so each part of a batch has its share, and which rows they
    are is known without looking at the times: on an accelerator no number is read back.

    Args:
        law: Of intervals.
        n: Rows.
        draws: Of the rows.

    Returns:
        (n, 2) float64 times, and (n,) bool on the CPU.

    Example:
        >>> apart(TwoTimes("uniform", 0.5), 4, Draws(torch.arange(4)))[1]
        tensor([ True, False,  True, False])
    """
    index = torch.arange(n + 1, dtype=torch.float64)
    steps = (index * law.equal + 1e-9).floor()
    even = steps[1:] > steps[:-1]
    same, other = (replace(cast(Any, law), equal=share).sample(n, draws) for share in (1.0, 0.0))
    return torch.where(even.to(same.device)[:, None], same, other), ~even


def _one(name: str, law: OneTime | str) -> OneTime:
    made = times(law)
    if not isinstance(made, OneTime):
        raise OptionError(f"{name} must be a law of one time, got {type(made).__name__}.")
    return made


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise OptionError(f"{name} is a share of rows in [0, 1], got {value}.")
