r"""The calling style of azula: `denoiser(x, t, **kwargs).mean` at its own clock, which runs from data, 0, to noise, 1.

A denoiser of azula has a `schedule(t)` that gives alpha and sigma, often short of the ends (1e-3). A data estimate
depends on the noise level only, so such a denoiser is a field on the linear path: the time of its schedule with the
same ratio of sigma to alpha is found by bisection.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from rheos.adapters.doors import ExactField
from rheos.adapters.kdiffusion import scaled
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import AffinePath

__all__ = ["AzulaDenoiser", "Posterior", "as_azula", "from_azula"]

HALVINGS = 60
"""Of the bisection: down to the spacing of float64."""


class Posterior(NamedTuple):
    """What a denoiser returns.

    Args:
        mean: The data estimate.
    """

    mean: Tensor


@final
class AzulaDenoiser(nn.Module):
    """A field as a denoiser of azula, with its schedule; azula's samplers take it as it is.

    Args:
        field: A field on an affine path.

    Raises:
        OptionError: If its path is not affine.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        if not isinstance(field.path, AffinePath):
            raise OptionError(f"azula's schedules are affine paths, this field lives on {type(field.path).__name__}.")
        self.field, self.law = field, field.path.law

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma at azula's time."""
        mine = (1 - t.double()).clamp(0.0, 1.0)
        return cast(Tensor, self.law.alpha(mine)).to(t.dtype), cast(Tensor, self.law.sigma(mine)).to(t.dtype)

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Tensor) -> Posterior:
        """The posterior of the data.

        Args:
            x_t: (B, ...).
            t: Azula's time, a number or (B,).
            **kwargs: The field's conditions.
        """
        mine = (1 - torch.as_tensor(t, dtype=torch.float64, device=x_t.device)).clamp(0.0, 1.0)
        return Posterior(cast(Tensor, self.field.data(x_t, mine, **kwargs)))


def as_azula(field: Field) -> AzulaDenoiser:
    """A field as a denoiser that azula's samplers take: `DDIMSampler(as_azula(field), steps=64)(x)`.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> denoiser = as_azula(GaussianMixtureField([[3.0]], [0.1]))
        >>> denoiser(torch.zeros(1, 1), torch.tensor(1.0)).mean
        tensor([[3.]])
    """
    return AzulaDenoiser(field)


@final
class _Mean(nn.Module):
    """A denoiser of azula as a network that predicts data on the linear path."""

    def __init__(self, denoiser: Callable[..., Any], names: Collection[str]) -> None:
        super().__init__()
        self.denoiser, self.conditions = denoiser, frozenset(names)

    def _coefficients(self, u: Tensor) -> tuple[Tensor, Tensor]:
        schedule = cast(Callable[[Tensor], tuple[Tensor, Tensor]], cast(Any, self.denoiser).schedule)
        return schedule(u)

    def clock(self, t: Tensor) -> Tensor:
        """Azula's time with the signal to noise ratio of ours; its ends beyond them."""
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            a, s = self._coefficients(middle)
            noisier = s * t > (1 - t) * a
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return (low + high) / 2

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The mean of the posterior."""
        u = self.clock(t)
        a, s = self._coefficients(u)
        factor = torch.where(t > 0.5, a / t.clamp(min=0.5), s / (1 - t).clamp(min=0.5))
        state, clock = scaled(factor, x), u.to(x.dtype)
        if t.stride() == (0,):  # one time for all rows: some of azula's denoisers take nothing else
            clock = clock[0]
        return cast(Tensor, self.denoiser(state, clock, **cond).mean)


def from_azula(denoiser: Callable[..., Any], *, conditions: Collection[str] = ()) -> Field:
    """A denoiser of azula as a field on the linear path.

    Args:
        denoiser: Called (x, t, **conditions), with a `schedule`; returns an object with `.mean`.
        conditions: Names of its tensor arguments.

    Raises:
        OptionError: If it has no schedule.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> there = as_azula(GaussianMixtureField([[3.0]], [0.1]))
        >>> from_azula(there).data(torch.zeros(2, 1), 0.0).flatten()
        tensor([3., 3.])
    """
    if not callable(getattr(denoiser, "schedule", None)):
        raise OptionError(f"A denoiser of azula has a schedule(t); {type(denoiser).__name__} has none.")
    return ExactField(_Mean(denoiser, conditions), "linear", "data")
