r"""Multistep methods on the noise in $\rho = \sigma / \alpha$, in which the flow is $d(x / \alpha) = \hat x_0\, d\rho$.

$$ x' = \frac{\alpha'}{\alpha} x + \alpha' \sum_j \hat x_0^{(j)} \int_\rho^{\rho'} \ell_j\, d\rho $$

DEIS integrates the polynomial through the estimates over the true steps; iPNDM pretends that the steps are equal. In
contrast to lambda, rho is finite at the data end, so the last step has the full order.

Reference: Zhang & Chen (2022), Fast sampling of diffusion models with exponential integrator,
https://arxiv.org/abs/2204.13902 (rho-AB), and Liu et al. (2022), https://arxiv.org/abs/2202.09778.
"""

from dataclasses import dataclass
from typing import ClassVar, final

from rheos.core import scalars as sc
from rheos.core.scalars import Scalar
from rheos.sample.exponential import ExponentialMultistep
from rheos.sample.multistep import Weights, integrals

__all__ = ["DEIS", "IPNDM"]


@dataclass(frozen=True, kw_only=True)
class _Rho(ExponentialMultistep):
    """Noise estimates as a polynomial in rho."""

    estimates: str = "noise"

    def position(self, t: Scalar) -> Scalar:
        r"""$\sigma / \alpha$."""
        return sc.divide(self.law.sigma(t), self.law.alpha(t))


@final
@dataclass(frozen=True, kw_only=True)
class DEIS(_Rho):
    """rho-AB-DEIS, of orders 1 (DDIM) to 4.

    Example:
        >>> DEIS(order=3).order
        3
    """

    order: int = 3
    orders: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)

    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """What the polynomial adds to a constant noise."""
        alpha = self.law.alpha(end)
        return tuple(alpha * w for w in integrals(there, where))


_CONSTANT = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@final
@dataclass(frozen=True, kw_only=True)
class IPNDM(_Rho):
    """The weights of Adams and Bashforth for equal steps, whatever the steps; on a smooth grid that is of order 2."""

    order: int = 4
    orders: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)

    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """The constant weights, less the first-order step."""
        step = self.law.alpha(end) * (there - where[0])
        one, *others = _CONSTANT[len(where)]
        return (step * (one - 1.0), *(step * w for w in others))
