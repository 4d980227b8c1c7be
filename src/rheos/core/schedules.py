r"""Schedules $\alpha(t), \sigma(t)$ of an affine path $x_t = \alpha_t x_1 + \sigma_t x_0$.

Time runs from noise, t = 0, to data, t = 1; the papers' diffusion time is s = 1 - t. Every schedule gives
both coefficients, their derivatives, the log signal-to-noise ratio $\lambda = \ln(\alpha / \sigma)$ and its
inverse, for a Python float or a float64 tensor.

Reference: The Principles of Diffusion Models, Lai et al. (2025), https://arxiv.org/abs/2510.21890
"""

import math
from dataclasses import dataclass
from typing import final

import torch

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.scalars import Scalar
from rheos.core.schedule import Schedule
from rheos.core.tables import Discrete

__all__ = ["EDM", "GVP", "VE", "VP", "Linear", "SubVP", "schedule"]


@final
@dataclass(frozen=True)
class Linear(Schedule):
    """alpha = t, sigma = 1 - (1 - sigma_min) t: rectified flow, flow matching.

    Args:
        sigma_min: Noise left at t = 1, in [0, 1).
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise OptionError(f"sigma_min must lie in [0, 1), got {self.sigma_min}.")

    def alpha(self, t: Scalar) -> Scalar:
        """$t$."""
        return t

    def sigma(self, t: Scalar) -> Scalar:
        r"""$1 - (1 - \sigma_{min}) t$."""
        return 1.0 - (1.0 - self.sigma_min) * t

    def d_alpha(self, t: Scalar) -> Scalar:
        """One."""
        return 0.0 * t + 1.0

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$-(1 - \sigma_{min})$."""
        return 0.0 * t - (1.0 - self.sigma_min)

    def t_of_lam(self, lam: Scalar) -> Scalar:
        r"""$1 / (1 - \sigma_{min} + e^{-\lambda})$."""
        if self.sigma_min == 0:
            return sc.sigmoid(lam)
        return sc.where(lam > 0, 1 / (1 - self.sigma_min + sc.exp(-lam)), sc.exp(_low(lam)) / self._denominator(lam))

    def _denominator(self, lam: Scalar) -> Scalar:
        return 1 + (1 - self.sigma_min) * sc.exp(_low(lam))


def _low(lam: Scalar) -> Scalar:
    """Cut lambda at 0 from above, so that its exponential cannot overflow in the branch not taken."""
    return lam.clamp(max=0.0) if isinstance(lam, torch.Tensor) else min(lam, 0.0)


@final
@dataclass(frozen=True)
class GVP(Schedule):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): variance preserving, "cosine"."""

    def alpha(self, t: Scalar) -> Scalar:
        r"""$\sin(\pi t / 2)$."""
        return sc.sin(t * (math.pi / 2))

    def sigma(self, t: Scalar) -> Scalar:
        r"""$\cos(\pi t / 2)$, exactly zero at t = 1."""
        return sc.sin((1 - t) * (math.pi / 2))

    def d_alpha(self, t: Scalar) -> Scalar:
        r"""$\frac\pi2 \sigma$."""
        return self.sigma(t) * (math.pi / 2)

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$-\frac\pi2 \alpha$."""
        return self.alpha(t) * (-math.pi / 2)

    def t_of_lam(self, lam: Scalar) -> Scalar:
        r"""$\frac2\pi \arctan e^\lambda$."""
        if isinstance(lam, torch.Tensor):
            return torch.atan(lam.exp()) * (2 / math.pi)
        return math.atan(math.exp(min(lam, 700.0))) * (2 / math.pi)


@dataclass(frozen=True)
class _LinearBeta(Schedule):
    r"""$\ln\alpha = -\frac14 s^2 (\beta_{max} - \beta_{min}) - \frac12 s \beta_{min}$ with s = 1 - t."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise OptionError(f"betas need 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}.")

    def _log_alpha(self, t: Scalar) -> Scalar:
        s = 1 - t
        return -0.25 * s * s * (self.beta_max - self.beta_min) - 0.5 * s * self.beta_min

    def _beta(self, t: Scalar) -> Scalar:
        return self.beta_min + (1 - t) * (self.beta_max - self.beta_min)

    def alpha(self, t: Scalar) -> Scalar:
        """The exponential of the formula above."""
        return sc.exp(self._log_alpha(t))

    def d_alpha(self, t: Scalar) -> Scalar:
        r"""$\frac12 \beta \alpha$."""
        return 0.5 * self._beta(t) * self.alpha(t)

    def _t_of_log_alpha(self, log_alpha: Scalar) -> Scalar:
        half = 0.5 * self.beta_min
        return 1 + 2 * log_alpha / (half + sc.sqrt(half * half - (self.beta_max - self.beta_min) * log_alpha))


@final
@dataclass(frozen=True)
class VP(_LinearBeta):
    """Variance preserving with linear beta: sigma^2 = 1 - alpha^2.

    Args:
        beta_min: Noise rate at the data end.
        beta_max: Noise rate at the noise end.

    Reference: Score-Based Generative Modeling through SDEs, Song et al. (2021), eq. 32.
    """

    def sigma(self, t: Scalar) -> Scalar:
        r"""$\sqrt{1 - \alpha^2}$ without cancellation."""
        return sc.sqrt(-sc.expm1(2 * self._log_alpha(t)))

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$-\alpha \dot\alpha / \sigma$, infinite at t = 1."""
        return -sc.divide(self.alpha(t) * self.d_alpha(t), self.sigma(t))

    def lam(self, t: Scalar) -> Scalar:
        r"""$\ln\alpha - \frac12 \ln(1 - \alpha^2)$."""
        return self._log_alpha(t) - 0.5 * sc.log(-sc.expm1(2 * self._log_alpha(t)))

    def t_of_lam(self, lam: Scalar) -> Scalar:
        r"""Solves a quadratic equation for $\ln\alpha$."""
        return self._t_of_log_alpha(_log_alpha_vp(lam))


def _log_alpha_vp(lam: Scalar) -> Scalar:
    """The logarithm of alpha where alpha^2 + sigma^2 = 1: -ln(1 + e^{-2 lam}) / 2, stable on both sides."""
    if isinstance(lam, torch.Tensor):
        return -0.5 * torch.nn.functional.softplus(-2 * lam)
    return -0.5 * (math.log1p(math.exp(-2 * lam)) if lam > 0 else -2 * lam + math.log1p(math.exp(2 * lam)))


@final
@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """sigma = 1 - alpha^2 with the alpha of `VP`.

    Args:
        beta_min: Noise rate at the data end.
        beta_max: Noise rate at the noise end.

    Reference: Song et al. (2021), eq. 29.
    """

    def sigma(self, t: Scalar) -> Scalar:
        r"""$1 - \alpha^2$ without cancellation."""
        return -sc.expm1(2 * self._log_alpha(t))

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$-2 \alpha \dot\alpha$."""
        return -2 * self.alpha(t) * self.d_alpha(t)

    def lam(self, t: Scalar) -> Scalar:
        r"""$\ln\alpha - \ln(1 - \alpha^2)$."""
        return self._log_alpha(t) - sc.log(-sc.expm1(2 * self._log_alpha(t)))

    def t_of_lam(self, lam: Scalar) -> Scalar:
        r"""Solves $\ln\alpha = -\mathrm{arsinh}(e^{-\lambda} / 2)$."""
        # alpha solves alpha / (1 - alpha^2) = e^lam, so ln alpha = -arsinh(e^{-lam} / 2)
        if isinstance(lam, torch.Tensor):
            return self._t_of_log_alpha(-torch.asinh(0.5 * (-lam).clamp(max=700.0).exp()))
        return self._t_of_log_alpha(-math.asinh(0.5 * math.exp(min(-lam, 700.0))))


@final
@dataclass(frozen=True)
class VE(Schedule):
    """alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^{1 - t}: variance exploding.

    Args:
        sigma_min: Noise at t = 1.
        sigma_max: Noise at t = 0.

    Reference: Song et al. (2021), eq. 30.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)

    def alpha(self, t: Scalar) -> Scalar:
        """One."""
        return 0.0 * t + 1.0

    def sigma(self, t: Scalar) -> Scalar:
        r"""$\sigma_{min} (\sigma_{max} / \sigma_{min})^{1 - t}$."""
        return sc.exp(math.log(self.sigma_min) + (1 - t) * math.log(self.sigma_max / self.sigma_min))

    def d_alpha(self, t: Scalar) -> Scalar:
        """Zero."""
        return 0.0 * t

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$-\sigma \ln(\sigma_{max} / \sigma_{min})$."""
        return -self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def lam(self, t: Scalar) -> Scalar:
        r"""$-\ln\sigma$, linear in t."""
        return -math.log(self.sigma_min) - (1 - t) * math.log(self.sigma_max / self.sigma_min)

    def t_of_lam(self, lam: Scalar) -> Scalar:
        """Linear in lambda."""
        return 1 + (lam + math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@final
@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma(t) = (sigma_max^{1/rho} + t (sigma_min^{1/rho} - sigma_max^{1/rho}))^rho.

    A uniform grid in t is the Karras grid.

    Args:
        sigma_min: Noise at t = 1.
        sigma_max: Noise at t = 0.
        rho: Curvature of the grid, at least 1.

    Reference: Elucidating the Design Space, Karras et al. (2022), eq. 5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        if not self.rho >= 1:
            raise OptionError(f"rho must be at least 1, got {self.rho}.")

    @property
    def _ends(self) -> tuple[float, float]:
        """The roots of sigma at t = 0 and t = 1."""
        return math.pow(self.sigma_max, 1 / self.rho), math.pow(self.sigma_min, 1 / self.rho)

    def _root(self, t: Scalar) -> Scalar:
        high, low = self._ends
        return high + t * (low - high)

    def alpha(self, t: Scalar) -> Scalar:
        """One."""
        return 0.0 * t + 1.0

    def sigma(self, t: Scalar) -> Scalar:
        """The formula above."""
        return sc.power(self._root(t), self.rho)

    def d_alpha(self, t: Scalar) -> Scalar:
        """Zero."""
        return 0.0 * t

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$\rho\, (\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\, \sigma^{1 - 1/\rho}$."""
        high, low = self._ends
        return self.rho * (low - high) * sc.power(self._root(t), self.rho - 1)

    def t_of_lam(self, lam: Scalar) -> Scalar:
        r"""Inverts $\sigma = e^{-\lambda}$."""
        high, low = self._ends
        return (sc.exp(-lam / self.rho) - high) / (low - high)


def _check_sigmas(low: float, high: float) -> None:
    if not 0 < low < high < math.inf:
        raise OptionError(f"sigmas need 0 < sigma_min < sigma_max, got {low} and {high}.")


def schedule(name: "str | Schedule") -> Schedule:
    """A schedule by its usual name, with its usual constants; a `Schedule` passes through.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> schedule("linear")
        Linear(sigma_min=0.0)
    """
    if isinstance(name, Schedule):
        return name
    leaves: dict[str, type[Schedule]] = {
        "linear": Linear,
        "gvp": GVP,
        "cosine": GVP,
        "vp": VP,
        "sub-vp": SubVP,
        "ve": VE,
        "edm": EDM,
    }
    check_choice("schedule", name, [*leaves, "ddpm"])
    return Discrete.ddpm() if name == "ddpm" else leaves[name]()
