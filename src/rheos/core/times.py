"""The laws of training times: names, sampling schemes, shifts, pairs, and one time a variable.

The laws of a single time are in `time_laws`; what is here is made of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core.base import TimeDistribution
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, check_choice
from rheos.core.time_laws import (
    BELOW_ONE,
    BetaTime,
    CosMap,
    EDMTime,
    LogitNormal,
    ModeTime,
    OneTime,
    PiecewiseTime,
    UniformTime,
    UShape,
    inside,
    positive,
    strata,
    uniforms,
)

__all__ = [
    "Antithetic", "BetaTime", "CosMap", "EDMTime", "LogitNormal", "ModeTime", "OneTime", "PerVariable",
    "PiecewiseTime", "ShiftedTime", "Stratified", "TwoTimes", "UShape", "UniformTime", "shifted", "times",
]  # fmt: skip


@final
@dataclass(frozen=True)
class Stratified(OneTime):
    """One time in each n-th quantile of another law, in random order: less variance of the loss, same law a row.

    The strata belong to the global batch, so `sample` wants all its rows at once.

    Args:
        inner: A law of one time, or its name.
    """

    inner: OneTime | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", _one(self.inner))

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The inner law's."""
        return _one(self.inner).quantile(u)

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The inner law's."""
        return _one(self.inner).density(t)

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, " n"]:
        """One time a stratum."""
        return self.quantile(strata(n, draws))


@final
@dataclass(frozen=True)
class Antithetic(OneTime):
    """Neighbouring rows take the quantiles of u and 1 - u of another law; a last odd row is alone.

    Args:
        inner: A law of one time, or its name.
    """

    inner: OneTime | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", _one(self.inner))

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The inner law's."""
        return _one(self.inner).quantile(u)

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The inner law's."""
        return _one(self.inner).density(t)

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, " n"]:
        """Times in antithetic pairs."""
        u = uniforms(n, draws).clone()
        u[1::2] = (1 - u[0 : n - n % 2 : 2]).clamp_(max=BELOW_ONE)
        return self.quantile(u)


@final
@dataclass(frozen=True)
class ShiftedTime(OneTime):
    r"""$t' = t / (t + k (1 - t))$ of another law's t: the static shift of large pictures.

    Args:
        inner: A law of one time, or its name.
        k: Positive; above one moves training towards the noise.

    Reference: Esser et al. (2024), eq. 23, there for the noise level 1 - t.
    """

    inner: OneTime | str
    k: float

    def __post_init__(self) -> None:
        positive("k", self.k)
        object.__setattr__(self, "inner", _one(self.inner))

    def _shift(self, t: Tensor) -> Tensor:
        return t / (t + self.k * (1 - t))

    def quantile(self, u: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The inner quantile, shifted."""
        return self._shift(_one(self.inner).quantile(u))

    def density(self, t: Float[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
        """The inner density at the unshifted time, times its slope."""
        r = t.double()
        whole = 1 - r + self.k * r
        return inside(t, _one(self.inner).density(self.k * r / whole) * self.k / whole.square())

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, " n"]:
        """Shifted times of the inner law, stratified where that is."""
        return self._shift(_one(self.inner).sample(n, draws))


@final
@dataclass(frozen=True)
class PerVariable(TimeDistribution):
    """An independent time for each variable of a dict state.

    Args:
        laws: A law of one time, or its name, by variable.

    Example:
        >>> sorted(PerVariable({"picture": "uniform", "mask": "u-shape"}).sample(2, Draws(torch.arange(2))))
        ['mask', 'picture']
    """

    laws: Mapping[str, OneTime | str]

    def __post_init__(self) -> None:
        if not self.laws:
            raise OptionError("PerVariable needs a law for at least one variable.")
        object.__setattr__(self, "laws", {name: _one(law) for name, law in self.laws.items()})

    def density(self, t: Mapping[str, Tensor]) -> Tensor:
        """The product of the variables' densities."""
        return torch.stack([_one(law).density(t[name]) for name, law in self.laws.items()]).prod(0)

    def sample(self, n: int, draws: Draws) -> dict[str, Tensor]:
        """(n,) times by variable."""
        return {name: _one(law).sample(n, draws.fold(name)) for name, law in self.laws.items()}


@final
@dataclass(frozen=True)
class TwoTimes(TimeDistribution):
    """Ordered pairs s <= t of two draws of one law, as columns of (n, 2): what a flow map is trained on.

    Args:
        inner: A law of one time, or its name.
        equal: Share of rows with s = t, which follow the law itself; in [0, 1].

    Example:
        >>> pair = TwoTimes("uniform").sample(3, Draws(torch.arange(3)))
        >>> (pair[:, 0] < pair[:, 1]).all()
        tensor(True)
    """

    inner: OneTime | str
    equal: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", _one(self.inner))
        if not 0 <= self.equal <= 1:
            raise OptionError(f"equal is a share of rows in [0, 1], got {self.equal}.")

    def density(self, t: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n"]:
        """(1 - equal) 2 p(s) p(t) for s <= t, else zero: the part that has a density."""
        p = _one(self.inner).density(t).prod(-1) * (2 * (1 - self.equal))
        return torch.where(t[..., 0] <= t[..., 1], p, 0.0)

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, "n 2"]:
        """(n, 2) times."""
        first, second = (_one(self.inner).sample(n, draws.fold(name)) for name in ("first", "second"))
        if self.equal:
            second = torch.where(draws.uniform("equal") < self.equal, first, second)
        return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), 1)


def shifted(law: str | TimeDistribution, k: float) -> TimeDistribution:
    """Any law with each of its times shifted, t' = t / (t + k (1 - t)); k = 1 changes nothing.

    Raises:
        OptionError: If k is not positive, or the law is none of this module's.

    Example:
        >>> shifted(TwoTimes("uniform"), 3.0)
        TwoTimes(inner=ShiftedTime(inner=UniformTime(stratified=False), k=3.0), equal=0.0)
    """
    positive("k", k)
    whole = times(law)
    if k == 1.0:
        return whole
    if isinstance(whole, ShiftedTime):
        raise OptionError(
            f"The times are shifted twice: by k={whole.k:g} in the law and by shift={k:g} on the field. "
            "Keep the field's: sampling reads it too."
        )
    if isinstance(whole, OneTime):
        return ShiftedTime(whole, k)
    if isinstance(whole, TwoTimes):
        return TwoTimes(ShiftedTime(whole.inner, k), whole.equal)
    if isinstance(whole, PerVariable):
        return PerVariable({name: ShiftedTime(one, k) for name, one in whole.laws.items()})
    raise OptionError(f"{type(whole).__name__} does not say how to shift its times by k={k:g}. Shift them inside it.")


def times(name: str | TimeDistribution) -> TimeDistribution:
    """A law by name with its usual constants; a `TimeDistribution` passes through.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> times("logit-normal")
        LogitNormal(mean=0.0, std=1.0)
    """
    return name if isinstance(name, TimeDistribution) else _one(name)


def _one(name: str | OneTime) -> OneTime:
    if isinstance(name, OneTime):
        return name
    leaves: dict[str, Callable[[], OneTime]] = {
        "uniform": UniformTime,
        "stratified": lambda: UniformTime(stratified=True),
        "logit-normal": LogitNormal,
        "u-shape": UShape,
        "edm": EDMTime,
        "mode": ModeTime,
        "cosmap": CosMap,
    }
    check_choice("times", name, leaves)
    return leaves[name]()
