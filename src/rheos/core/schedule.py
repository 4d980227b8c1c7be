"""What a schedule of an affine path owes: both coefficients, their slopes, and the log signal-to-noise ratio.

Reference: The Principles of Diffusion Models, Lai et al. (2025), https://arxiv.org/abs/2510.21890
"""

from abc import ABC, abstractmethod

from rheos.core import scalars as sc
from rheos.core.scalars import Scalar

__all__ = ["Schedule"]


class Schedule(ABC):
    """Coefficients of an affine path; `lam` must be strictly increasing in t."""

    @abstractmethod
    def alpha(self, t: Scalar) -> Scalar:
        """Weight of the data."""

    @abstractmethod
    def sigma(self, t: Scalar) -> Scalar:
        """Weight of the source."""

    @abstractmethod
    def d_alpha(self, t: Scalar) -> Scalar:
        """Derivative of alpha in t, positive or zero."""

    @abstractmethod
    def d_sigma(self, t: Scalar) -> Scalar:
        """Derivative of sigma in t, negative."""

    @abstractmethod
    def t_of_lam(self, lam: Scalar) -> Scalar:
        """The time at which ln(alpha / sigma) equals lam."""

    def lam(self, t: Scalar) -> Scalar:
        """Half the log signal-to-noise ratio, ln(alpha / sigma)."""
        return sc.log(sc.divide(self.alpha(t), self.sigma(t)))

    def wronskian(self, t: Scalar) -> Scalar:
        """D = alpha' sigma - alpha sigma' = alpha sigma lambda' > 0."""
        return self.d_alpha(t) * self.sigma(t) - self.alpha(t) * self.d_sigma(t)
