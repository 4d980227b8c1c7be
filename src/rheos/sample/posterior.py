r"""Guidance by a differentiable number of the data estimate: posterior sampling and reward gradients.

For an energy $E(\hat x_1, t)$, a negative log likelihood or a negative reward, the score gains
$-\gamma \nabla_x E(\hat x_1(x), t)$, through the network; by Tweedie's formula the data estimate gains
$-\gamma \frac{\sigma^2}{\alpha} \nabla_x E$.

Reference: Diffusion Posterior Sampling, Chung et al. (2023), eq. 15; The Principles of Diffusion Models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.paths import AffinePath
from rheos.core.state import State, add, rows
from rheos.core.steer import Steer, View

__all__ = ["PosteriorGuidance"]


@final
@dataclass(frozen=True)
class PosteriorGuidance(Steer):
    """Pull samples towards low energy of their data estimate.

    With the energy 0.5 (x1 - y)^2 / (noise variance + posterior variance at t) and Gaussian data this samples the
    exact posterior; for a reward, use its negative.

    Args:
        energy: Called (x1, t) with t of shape (B,); returns (B,), differentiable in x1.
        scale: gamma; a number or one a row.
    """

    energy: Callable[[State, Tensor], Tensor]
    scale: float | Tensor = 1.0
    differentiates: ClassVar[bool] = True
    gaussian: ClassVar[bool] = True

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scale may differ between joined requests."""
        return {"scale": self.scale}

    def clean(self, view: View, x1: State) -> State:
        """The data estimate with the gradient added; nothing at t = 0, where it is infinite."""
        law, t = cast(AffinePath, view.path).law, view.t
        if isinstance(t, float) and law.alpha(t) == 0:
            return x1
        clock = torch.as_tensor(t, dtype=torch.float64).expand(rows(x1))
        slope = view.gradient(self.energy(x1, clock).sum())
        factor = -sc.divide(law.sigma(clock) ** 2, law.alpha(clock))
        factor = torch.where(torch.as_tensor(factor).isfinite(), torch.as_tensor(factor), 0.0)
        return add(x1, factor * torch.as_tensor(view.own["scale"], dtype=torch.float64), slope)
