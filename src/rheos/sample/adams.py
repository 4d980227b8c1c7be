r"""Adams-Bashforth on the velocity, with variable steps.

$x' = x + \sum_j w_j v_j$ with $w_j = \int_t^{t'} \ell_j$, the integral of the Lagrange basis over the last n times.

Reference: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), III.5.
"""

from dataclasses import dataclass
from typing import ClassVar, final

from rheos.core.paths import Kind, Time
from rheos.core.scalars import Scalar
from rheos.core.solver import elapsed
from rheos.sample.multistep import Multistep, Weights, integrals

__all__ = ["AdamsBashforth"]


@final
@dataclass(frozen=True, kw_only=True)
class AdamsBashforth(Multistep):
    r"""Orders 1 (Euler) to 4; of order 2 it is $x + h (1 + \frac{h}{2 h_{prev}}) v - \frac{h^2}{2 h_{prev}} v_{prev}$.

    Example:
        >>> AdamsBashforth(order=3).evaluations
        1
    """

    asks: ClassVar[Kind] = "velocity"
    orders: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)

    def leading(self, t: Time, end: Time) -> tuple[float, Time]:
        """Euler's step."""
        return 1.0, elapsed(t, end)

    def position(self, t: Scalar) -> Scalar:
        """Time itself."""
        return t

    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        """What the polynomial through the velocities adds to Euler's step."""
        return integrals(there, where)
