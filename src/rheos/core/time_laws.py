r"""Laws of one training time on [0, 1], with t = 0 at the noise and t = 1 at the data.

A law is its quantile function: a sample is the quantile of one uniform number a row, so stratified and
antithetic numbers serve every law. Papers whose t = 1 is the noise have their asymmetric laws mirrored here:
the mean of a logit-normal changes its sign.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core.base import TimeDistribution
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, TimeError
from rheos.core.schedule import Schedule
from rheos.core.schedules import schedule

__all__ = [
    "BetaTime", "CosMap", "EDMTime", "LogitNormal", "ModeTime", "OneTime", "PiecewiseTime", "UShape", "UniformTime",
]  # fmt: skip

BELOW_ONE = 1 - 2.0**-53


class OneTime(TimeDistribution):
    """A law of one time: its quantile function and its density."""

    @abstractmethod
    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Inverse of the distribution function for u in (0, 1), increasing."""

    @abstractmethod
    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The density at t, zero outside [0, 1], integrating to one."""

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, " n"]:
        """Independent times, keyed by row."""
        return self.quantile(uniforms(n, draws))


def uniforms(n: int, draws: Draws) -> Tensor:
    """One uniform number a row."""
    if n != len(draws):
        raise OptionError(f"{n} times asked of draws of {len(draws)} rows; there is one time a row.")
    return draws.uniform("time")


def strata(n: int, draws: Draws) -> Tensor:
    """(permutation + u) / n: one number in each n-th of the unit interval, in random order."""
    order = draws.permutation("strata")
    return (order + uniforms(n, draws)).div_(n).clamp_(max=BELOW_ONE)


@final
@dataclass(frozen=True)
class UniformTime(OneTime):
    """Uniform on [0, 1].

    Args:
        stratified: One time in each n-th of the interval, as `Stratified`.

    Example:
        >>> t = UniformTime(stratified=True).sample(4, Draws(torch.arange(4)))
        >>> (t.sort().values * 4).floor()
        tensor([0., 1., 2., 3.], dtype=torch.float64)
    """

    stratified: bool = False

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The number itself."""
        return u.double()

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """One."""
        return inside(t, torch.ones_like(t, dtype=torch.float64))

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, " n"]:
        """Independent or stratified times."""
        return strata(n, draws) if self.stratified else uniforms(n, draws)


@final
@dataclass(frozen=True)
class LogitNormal(OneTime):
    """logit t ~ N(mean, std^2): most of training in the middle.

    Args:
        mean: Location; positive favours the data end (papers with t = 1 at the noise: -mean).
        std: Scale, positive.

    Reference: Stable Diffusion 3, Esser et al. (2024), https://arxiv.org/abs/2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        positive("std", self.std)
        _finite("mean", self.mean)

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Sigmoid of mean + std z with z the normal quantile."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.double()))

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Normal density of logit t, over t (1 - t)."""
        r = _open(t)
        return inside(t, _phi((r.logit() - self.mean) / self.std) / (self.std * r * (1 - r)))


@final
@dataclass(frozen=True)
class UShape(OneTime):
    r"""$p(t) \propto e^{at} + e^{a(1-t)}$, squeezed into [clip, 1 - clip]: most of training at both ends.

    Args:
        a: Steepness, in (0, 700); towards 0 the law becomes uniform.
        clip: Distance kept from 0 and 1, in [0, 0.5).

    Example:
        >>> UShape(4.0, clip=0.0).density(torch.tensor([0.0, 0.5, 1.0])).round(decimals=4)
        tensor([2.0746, 0.5514, 2.0746], dtype=torch.float64)

    Reference: Improving the Training of Rectified Flows, Lee et al. (2024), https://arxiv.org/abs/2405.20320
    """

    a: float = 4.0
    clip: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.a < 700:
            raise OptionError(f"a must lie in (0, 700), got {self.a}. For a = 0 use UniformTime().")
        if not 0 <= self.clip < 0.5:
            raise OptionError(f"clip must lie in [0, 0.5), got {self.clip}.")

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Inverse of F(t) = 1/2 + sinh(a (t - 1/2)) / (2 sinh(a / 2)), squeezed."""
        t = 0.5 + torch.asinh((2 * u.double() - 1) * math.sinh(0.5 * self.a)) / self.a
        return self.clip + (1 - 2 * self.clip) * t

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The U, a cosh(a (t - 1/2)) / (2 sinh(a / 2)), squeezed."""
        width = 1 - 2 * self.clip
        r = (t.double() - self.clip) / width
        return inside(r, self.a * torch.cosh(self.a * (r - 0.5)) / (2 * math.sinh(0.5 * self.a) * width))


@final
@dataclass(frozen=True)
class EDMTime(OneTime):
    r"""$\ln(\sigma_t / \alpha_t) \sim N(\text{mean}, \text{std}^2)$ on a schedule, conditioned on its range of noise.

    On the linear schedule this is `LogitNormal(-mean, std)`.

    Args:
        mean: Mean of the log noise-to-signal ratio.
        std: Its standard deviation, positive.
        schedule: A `Schedule`, or its name.

    Reference: Elucidating the Design Space, Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1.
    """

    mean: float = -1.2
    std: float = 1.2
    schedule: Schedule | str = "linear"

    def __post_init__(self) -> None:
        positive("std", self.std)
        _finite("mean", self.mean)
        object.__setattr__(self, "schedule", schedule(self.schedule))
        low, high = self._range()
        if not high > low:
            raise OptionError(f"N({self.mean}, {self.std}^2) has no mass on the noise levels of {self.schedule}.")

    @property
    def law(self) -> Schedule:
        """The schedule, never a name."""
        return self.schedule  # type: ignore[return-value]

    def _range(self) -> tuple[float, float]:
        """Distribution function of lambda ~ N(-mean, std^2) at both ends of the schedule."""
        ends = ((float(self.law.lam(t)) + self.mean) / self.std for t in (0.0, 1.0))
        low, high = (0.5 * math.erfc(-z / math.sqrt(2)) for z in ends)
        return low, high

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The time whose log noise-to-signal ratio is the normal quantile."""
        low, high = self._range()
        lam = self.std * torch.special.ndtri(low + (high - low) * u.double()) - self.mean
        return torch.as_tensor(self.law.t_of_lam(lam)).clamp(0.0, 1.0)

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Normal density of lambda, times lambda'."""
        low, high = self._range()
        r = _open(t)
        slope = self.law.wronskian(r) / (self.law.alpha(r) * self.law.sigma(r))  # lambda'
        z = (torch.as_tensor(self.law.lam(r)) + self.mean) / self.std
        return inside(t, _phi(z) * slope / (self.std * (high - low)))


@final
@dataclass(frozen=True)
class ModeTime(OneTime):
    r"""$t = u + s (\cos^2(\pi u / 2) - 1 + u)$ of a uniform u: s > 0 favours the middle, s < 0 the ends.

    Args:
        s: In [-1, 2 / (pi - 2)], where the map is monotone.

    Reference: Esser et al. (2024), eq. 20 (symmetric, so the direction of time does not matter).
    """

    s: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.s <= 2 / (math.pi - 2):
            raise OptionError(f"s must lie in [-1, 2 / (pi - 2)] = [-1, 1.752], got {self.s}.")

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The map itself."""
        v = u.double()
        return v + self.s * (v - torch.sin(0.5 * math.pi * v).square())

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """One over the map's slope, at the u found by bisection."""
        u = _bisect(self.quantile, t.double())
        return inside(t, 1 / (1 + self.s * (1 - 0.5 * math.pi * torch.sin(math.pi * u))))


@final
@dataclass(frozen=True)
class CosMap(OneTime):
    r"""$t = \tan(\pi u/2) / (1 + \tan(\pi u/2))$, $p(t) = 2 / (\pi (1 - 2t + 2t^2))$: the cosine schedule's noise.

    Reference: Esser et al. (2024), eq. 22.
    """

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The map itself, as sine over sine plus cosine."""
        sine, cosine = (torch.sin(0.5 * math.pi * v) for v in (u.double(), 1 - u.double()))
        return sine / (sine + cosine)

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The formula above."""
        r = t.double()
        return inside(t, 2 / (math.pi * (1 - 2 * r + 2 * r.square())))


@final
@dataclass(frozen=True)
class BetaTime(OneTime):
    r"""$p(t) \propto t^{a-1} (1-t)^{b-1}$; its quantiles are found on the CPU.

    Args:
        a: Positive; above b favours the data end.
        b: Positive.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        positive("a", self.a)
        positive("b", self.b)

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Inverse of the regularised incomplete beta function."""
        from scipy.special import betaincinv

        t = betaincinv(self.a, self.b, u.detach().double().cpu().numpy())
        return torch.as_tensor(t, dtype=torch.float64, device=u.device)

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The formula above, normalised."""
        r = t.double()
        log_norm = math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)
        log = torch.special.xlogy(self.a - 1, r) + torch.special.xlog1py(self.b - 1, -r)
        return inside(t, (log - log_norm).exp())


@final
@dataclass(frozen=True)
class PiecewiseTime(OneTime):
    """Constant density on each of several intervals.

    Args:
        edges: K + 1 increasing times from 0 to 1.
        weights: K masses, zero or positive, of any sum.

    Example:
        >>> PiecewiseTime((0.0, 0.5, 1.0), (3.0, 1.0)).density(torch.tensor([0.2, 0.8]))
        tensor([1.5000, 0.5000], dtype=torch.float64)
    """

    edges: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise(self.edges))
        if len(self.edges) < 2 or self.edges[0] != 0 or self.edges[-1] != 1 or not increasing:
            raise TimeError(f"edges must increase from 0 to 1, got {self.edges}.")
        good = all(0 <= w < math.inf for w in self.weights) and sum(self.weights) > 0
        if len(self.weights) != len(self.edges) - 1 or not good:
            raise OptionError(f"{len(self.edges) - 1} blocks need as many masses >= 0, not all 0, got {self.weights}.")

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Starts, widths and masses of the blocks that have any mass."""
        edges, mass = (torch.tensor(v, dtype=torch.float64, device=device) for v in (self.edges, self.weights))
        keep = mass > 0
        return edges[:-1][keep], edges.diff()[keep], mass[keep] / mass.sum()

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Linear inside each block that has mass."""
        start, width, mass = self._table(u.device)
        below = mass.cumsum(0) - mass
        k = torch.searchsorted(below, u.double().contiguous(), right=True).sub_(1).clamp_(min=0)
        return start[k] + ((u.double() - below[k]) / mass[k]).clamp(0, 1) * width[k]

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """Mass over width, in each block."""
        start, width, mass = self._table(t.device)
        k = torch.searchsorted(start, t.double().contiguous(), right=True).sub_(1).clamp_(min=0)
        r = (t.double() - start[k]) / width[k]  # within its block, or in a block without mass
        return torch.where((r < 1) | (t == 1), inside(r, (mass / width)[k]), 0.0)


def _phi(z: Tensor) -> Tensor:
    return (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)


def _open(t: Tensor) -> Tensor:
    """Times in float64, moved one float inside the unit interval, where logits are finite."""
    return t.double().clamp(1e-300, BELOW_ONE)


def inside(t: Tensor, p: Tensor) -> Tensor:
    """A density cut to [0, 1]."""
    return torch.where((t >= 0) & (t <= 1), p, 0.0)


def _bisect(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """The u in [0, 1] with f(u) = y, f increasing."""
    low, high = torch.zeros_like(y), torch.ones_like(y)
    for _ in range(54):
        middle = 0.5 * (low + high)
        small = f(middle) < y
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return 0.5 * (low + high)


def positive(name: str, value: float) -> None:
    """Raise `OptionError` unless the value is positive and finite."""
    if not 0 < value < math.inf:
        raise OptionError(f"{name} must be positive and finite, got {value}.")


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise OptionError(f"{name} must be finite, got {value}.")
