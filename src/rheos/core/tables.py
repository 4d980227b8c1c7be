"""Schedules of diffusions in finitely many steps: tables of alpha_bar, made continuous.

Reference: Denoising Diffusion Probabilistic Models, Ho et al. (2020), https://arxiv.org/abs/2006.11239
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import torch

from rheos.core import scalars as sc
from rheos.core.errors import OptionError
from rheos.core.scalars import Scalar
from rheos.core.schedule import Schedule

__all__ = ["Discrete"]


@final
@dataclass(frozen=True)
class Discrete(Schedule):
    """A table of a K-step diffusion, alpha^2 = alpha_bar and sigma^2 = 1 - alpha_bar, linear in lambda between.

    Step k (0 is nearly clean, K - 1 nearly noise) sits at t = 1 - k / (K - 1).

    Args:
        alpha_bar: K >= 2 numbers in (0, 1), strictly decreasing.

    Reference: Denoising Diffusion Probabilistic Models, Ho et al. (2020).

    Example:
        >>> table = Discrete.ddpm(1000)
        >>> table.index(0.0), table.index(1.0), round(table.alpha(1.0) ** 2, 4)
        (999, 0, 0.9999)
    """

    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        bar = (1.0, *self.alpha_bar, 0.0)
        if len(self.alpha_bar) < 2 or not all(a > b for a, b in pairwise(bar)):
            raise OptionError("alpha_bar needs at least two numbers, strictly decreasing inside (0, 1).")

    @cached_property
    def _knots(self) -> list[float]:
        """Lambda at equidistant times, increasing."""
        return [0.5 * (math.log(a) - math.log1p(-a)) for a in reversed(self.alpha_bar)]

    @cached_property
    def _table(self) -> torch.Tensor:
        return torch.tensor(self._knots, dtype=torch.float64)

    @classmethod
    def ddpm(cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> "Discrete":
        """The linear-beta table of DDPM.

        Raises:
            OptionError: For fewer than two steps, or betas that do not increase inside (0, 1).
        """
        if steps < 2 or not 0 < beta_min <= beta_max < 1:
            raise OptionError(
                "A DDPM table needs at least 2 steps and 0 < beta_min <= beta_max < 1, "
                f"got {steps} steps, {beta_min} and {beta_max}."
            )
        bar, table = 1.0, []
        for k in range(steps):
            bar *= 1 - (beta_min + (beta_max - beta_min) * k / (steps - 1))
            table.append(bar)
        return cls(tuple(table))

    def index(self, t: Scalar) -> int | torch.Tensor:
        """The nearest integer step of time t, for networks that want one."""
        last = len(self.alpha_bar) - 1
        if isinstance(t, torch.Tensor):
            return ((1 - t) * last).round().long()
        return round((1 - t) * last)

    def _segment(self, t: Scalar) -> tuple[Scalar, Scalar]:
        """Lambda and its slope in t; outside [0, 1] the end segments go on."""
        knots = self._knots
        last = len(knots) - 1
        if isinstance(t, torch.Tensor):
            table = self._table.to(t.device)
            low = (t * last).floor().clamp(0, last - 1).long()
            rise = table[low + 1] - table[low]
            return table[low] + rise * (t * last - low), rise * last
        k = min(max(math.floor(t * last), 0), last - 1)
        gap = knots[k + 1] - knots[k]
        return knots[k] + gap * (t * last - k), gap * last

    def lam(self, t: Scalar) -> Scalar:
        """Linear between the steps of the table."""
        return self._segment(t)[0]

    def alpha(self, t: Scalar) -> Scalar:
        r"""$\sqrt{\mathrm{sigmoid}(2\lambda)}$."""
        return sc.sqrt(sc.sigmoid(2 * self.lam(t)))

    def sigma(self, t: Scalar) -> Scalar:
        r"""$\sqrt{\mathrm{sigmoid}(-2\lambda)}$."""
        return sc.sqrt(sc.sigmoid(-2 * self.lam(t)))

    def d_alpha(self, t: Scalar) -> Scalar:
        r"""$\alpha \sigma^2 \dot\lambda$."""
        return self.alpha(t) * self.sigma(t) ** 2 * self._segment(t)[1]

    def d_sigma(self, t: Scalar) -> Scalar:
        r"""$-\sigma \alpha^2 \dot\lambda$."""
        return -self.sigma(t) * self.alpha(t) ** 2 * self._segment(t)[1]

    def t_of_lam(self, lam: Scalar) -> Scalar:
        """Linear between the steps of the table."""
        value = torch.as_tensor(lam, dtype=torch.float64)
        table, last = self._table.to(value.device), len(self._table) - 1
        low = (torch.searchsorted(table, value.contiguous(), right=True) - 1).clamp(0, last - 1)
        t = (low + (value - table[low]) / (table[low + 1] - table[low])) / last
        return t if isinstance(lam, torch.Tensor) else float(t)
