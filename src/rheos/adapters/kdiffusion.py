r"""The calling style of k-diffusion: `model(x, sigma, **extra_args)` gives the denoised x.

There the state is data plus noise times sigma, $x_{VE} = x / \alpha$ with $\sigma_{VE} = \sigma / \alpha$; on the
linear path $t = 1 / (1 + \sigma_{VE})$ and $x = t\, x_{VE}$. ComfyUI's samplers have the form that
`kdiffusion_sampler` gives.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.adapters.doors import ExactField
from rheos.core.draws import row_seeds
from rheos.core.errors import OptionError, TimeError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.solver import Solver
from rheos.core.state import expand
from rheos.sample.grids import check_grid
from rheos.sample.loop import Loop
from rheos.sample.methods import solver as named_solver

__all__ = ["Denoise", "KDenoiser", "as_kdiffusion", "from_kdiffusion", "kdiffusion_sampler", "scaled"]

Denoise = Callable[..., Tensor]
"""(x, sigma, **extra_args) to the denoised x."""


def scaled(c: Tensor, x: Tensor) -> Tensor:
    """The product with a float64 number a row."""
    return x * cast(Tensor, expand(c, x))


@final
class KDenoiser(nn.Module):
    """A field as a denoiser of k-diffusion.

    Args:
        field: A field on an affine path.

    Raises:
        OptionError: If its path is not affine.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        if not isinstance(field.path, AffinePath):
            raise OptionError(f"A noise level needs an affine path, this field lives on {type(field.path).__name__}.")
        self.field, self.law = field, field.path.law

    @property
    def sigma_max(self) -> float:
        """The highest noise level; infinite where the path begins in pure noise."""
        a = float(self.law.alpha(0.0))
        return float(self.law.sigma(0.0)) / a if a else float("inf")

    def forward(self, x: Tensor, sigma: Tensor, **extra_args: Tensor) -> Tensor:
        """The data estimate at x, which is data plus noise times sigma.

        Args:
            x: (B, ...).
            sigma: A number or (B,), positive or zero.
            **extra_args: The field's conditions.
        """
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x))
        t = cast(Tensor, self.law.t_of_lam(-level.log())).clamp(0.0, 1.0)
        a, s = cast(Tensor, self.law.alpha(t)), cast(Tensor, self.law.sigma(t))
        factor = torch.where(level > 1, s / level, a)
        return cast(Tensor, self.field.data(scaled(factor, x), t, **extra_args))


def as_kdiffusion(field: Field) -> KDenoiser:
    """A field as `model(x, sigma, **conditions)`, which k-diffusion's samplers take.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> model = as_kdiffusion(GaussianMixtureField([[3.0]], [0.1]))
        >>> model(torch.zeros(1, 1), torch.tensor([50.0])).round(decimals=2)
        tensor([[3.]])
    """
    return KDenoiser(field)


@final
class _Denoised(nn.Module):
    """A denoiser of k-diffusion as a network that predicts data on the linear path."""

    def __init__(self, model: Denoise, names: Collection[str], sigma_max: float) -> None:
        super().__init__()
        self.model, self.conditions, self.first = model, frozenset(names), 1 / (1 + sigma_max)

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The denoised state."""
        t = t.clamp(min=self.first)
        sigma = ((1 - t) / t).to(x.dtype)
        return self.model(scaled(1 / t, x), sigma, **cond)


def from_kdiffusion(model: Denoise, *, conditions: Collection[str] = (), sigma_max: float = 80.0) -> Field:
    """A denoiser of k-diffusion as a field on the linear path.

    Args:
        model: Called (x, sigma, **conditions) with sigma (B,).
        conditions: Names of its tensor arguments.
        sigma_max: The highest noise level it knows; nearer to t = 0 it is asked there.

    Raises:
        OptionError: If sigma_max is not positive.

    Example:
        >>> field = from_kdiffusion(lambda x, sigma: torch.full_like(x, 2.0))
        >>> field(torch.zeros(1, 1), 0.5)
        tensor([[4.]])
    """
    if not sigma_max > 0:
        raise OptionError(f"sigma_max must be positive, got {sigma_max}.")
    return ExactField(_Denoised(model, conditions, sigma_max), "linear", "data")


Sampler = Callable[..., Tensor]


def kdiffusion_sampler(solver: Solver | str, *, seed: int = 0) -> Sampler:
    """A solver in the form of k-diffusion's samplers: f(model, x, sigmas, extra_args, callback, disable).

    `x` is data plus noise times `sigmas[0]`; `sigmas` decrease, to 0 where the last is. The callback is given a dict
    with x, i, sigma, sigma_hat and denoised, once a step. `disable` is accepted: there is no progress bar.

    Args:
        solver: A name of `rheos.sample.SOLVERS`, or a solver.
        seed: For methods that draw noise.

    Example:
        >>> sample = kdiffusion_sampler("ddim")
        >>> sample(lambda x, sigma: torch.full_like(x, 2.0), torch.zeros(1, 1), torch.tensor([10.0, 1.0, 0.0]))
        tensor([[2.]])
    """
    method = named_solver(solver) if isinstance(solver, str) else solver

    def run(
        model: Denoise,
        x: Tensor,
        sigmas: Tensor | Sequence[float],
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        levels = [float(v) for v in sigmas]
        falling = all(a > b >= 0 for a, b in pairwise(levels))
        if len(levels) < 2 or not falling or not 0 < levels[0] < float("inf"):
            raise TimeError(f"sigmas are finite noise levels that fall, to 0 at the least, got {levels}.")
        times = check_grid([1 / (1 + v) for v in levels])
        extra, denoised = dict(extra_args or {}), list[Tensor]()

        def call(state: Tensor, sigma: Tensor) -> Tensor:
            value = model(state, sigma, **extra)
            denoised[:] = [value]
            return value

        field = from_kdiffusion(call, sigma_max=max(80.0, 4.0 * levels[0]))  # churn asks above the first
        loop = Loop(field, method)
        flight = loop.begin(x * times[0], times, {}, row_seeds(seed, len(x)).to(x.device))
        with torch.no_grad():
            while (query := loop.ask(flight)) is not None:
                fresh, before = flight.solver["stage"] == 0, cast(Tensor, flight.x)
                reply = field.answer(query)
                if callback is not None and fresh:
                    i = cast(int, flight.i)
                    level = levels[i]
                    state = before / times[i]
                    callback({"x": state, "i": i, "sigma": level, "sigma_hat": level, "denoised": denoised[0]})
                flight = loop.tell(flight, query, reply)
        return cast(Tensor, flight.x) / times[-1]

    return run
