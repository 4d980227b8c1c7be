r"""The noise schedule of a discrete diffusion as a schedule of a flow, from its first step to the clean data.

A table of K steps has $\bar\alpha_k$ for k = 0 (nearly clean) to K - 1 (nearly noise). Samplers end beyond it, at no
noise at all, which is step -1 here: step k sits at $t = 1 - (k + 1) / K$, so t = 1 is clean and a uniform grid in t is
the "trailing" spacing. Between steps $\lambda$ is linear; below step 0 the noise level $\sigma / \alpha$ is linear, and
it reaches zero with a finite velocity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from operator import mul
from typing import final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.scalars import Scalar
from rheos.core.schedule import Schedule

__all__ = ["BETA_SCHEDULES", "StepTable", "alpha_bars", "rescaled"]

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def alpha_bars(schedule: str, steps: int, low: float, high: float) -> list[float]:
    r"""$\bar\alpha_k = \prod_{i \le k} (1 - \beta_i)$ of a schedule by the name that diffusers uses.

    Args:
        schedule: "linear" in beta, "scaled_linear" in its root, "squaredcos_cap_v2" (the improved cosine one).
        steps: K, at least 2.
        low: First beta; the cosine schedule ignores it.
        high: Last beta; likewise.

    Raises:
        UnknownOptionError: For an unknown schedule.
        OptionError: For fewer than two steps.

    Reference: Ho et al. (2020); Nichol & Dhariwal (2021), eq. 17.
    """
    check_choice("beta_schedule", schedule, BETA_SCHEDULES)
    if steps < 2:
        raise OptionError(f"A diffusion has at least 2 steps, got num_train_timesteps={steps}.")
    u = [k / (steps - 1) for k in range(steps)]
    if schedule == "linear":
        betas = [low + (high - low) * v for v in u]
    elif schedule == "scaled_linear":
        a, b = math.sqrt(low), math.sqrt(high)
        betas = [(a + (b - a) * v) ** 2 for v in u]
    else:
        bar = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
        betas = [min(1 - after / before, 0.999) for before, after in pairwise(bar)]
    return list(accumulate((1 - b for b in betas), mul))


def rescaled(bars: Sequence[float]) -> list[float]:
    r"""The table with $\sqrt{\bar\alpha}$ shifted and scaled so that the last step is pure noise.

    Args:
        bars: A table.

    Reference: Common Diffusion Noise Schedules and Sample Steps are Flawed, Lin et al. (2024), algorithm 1.
    """
    roots = [math.sqrt(b) for b in bars]
    first, last = roots[0], roots[-1]
    return [((r - last) * first / (first - last)) ** 2 for r in roots]


Pair = tuple[Scalar, Scalar, Scalar]
"""Two numbers in the ratio of alpha to sigma, and their Wronskian in t."""


@final
@dataclass(frozen=True)
class StepTable(Schedule):
    r"""A discrete diffusion's table, $\alpha^2 = \bar\alpha$ and $\sigma^2 = 1 - \bar\alpha$, up to the clean end.

    Args:
        alpha_bar: K >= 2 numbers in (0, 1), strictly decreasing; the last may be 0 (pure noise).

    Raises:
        OptionError: For another table.

    Example:
        >>> table = StepTable((0.9, 0.5))
        >>> table.alpha(1.0), round(table.alpha(0.5) ** 2, 6), table.step(0.0)
        (1.0, 0.9, 1.0)
    """

    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        bars = self.alpha_bar
        if len(bars) < 2 or not bars[0] < 1 or not bars[-1] >= 0 or not all(a > b for a, b in pairwise(bars)):
            raise OptionError("alpha_bar needs at least two numbers, strictly decreasing, below 1 and not negative.")

    @property
    def steps(self) -> int:
        """K."""
        return len(self.alpha_bar)

    @cached_property
    def _lams(self) -> list[float]:
        """Lambda of the steps that have a finite one, decreasing."""
        return [0.5 * (math.log(b) - math.log1p(-b)) for b in self.alpha_bar if b > 0]

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self._lams, dtype=torch.float64)

    @property
    def _noise_end(self) -> bool:
        """Whether the last step is pure noise."""
        return self.alpha_bar[-1] == 0

    def step(self, t: Scalar) -> Scalar:
        """The step of time t, not rounded: -1 when clean."""
        return self.steps * (1 - t) - 1

    def time(self, k: Scalar) -> Scalar:
        """The time of step k, not rounded."""
        return 1 - (k + 1) / self.steps

    def _pair(self, t: Scalar) -> Pair:
        if isinstance(t, Tensor):
            return self._pair_rows(t)
        k, lams, last = float(self.step(t)), self._lams, len(self._lams) - 1
        if k < 0:
            rho = math.exp(-lams[0])
            return 1.0, rho * (k + 1), self.steps * rho
        if self._noise_end and k > last:
            q = math.exp(lams[last])
            return q * (self.steps - 1 - k), 1.0, self.steps * q
        low = min(int(k), max(last - 1, 0))
        gap = lams[low + 1] - lams[low] if last else 0.0
        a = math.exp(lams[low] + gap * (k - low))
        return a, 1.0, -gap * self.steps * a

    def _pair_rows(self, t: Tensor) -> Pair:
        k, table, last = self.step(t), self._table.to(t.device), len(self._lams) - 1
        assert isinstance(k, Tensor)
        low = k.floor().clamp(0, max(last - 1, 0)).long()
        gap = table[low + 1] - table[low] if last else torch.zeros_like(k)
        a = torch.exp(table[low] + gap * (k - low))
        s, w = torch.ones_like(a), -gap * self.steps * a
        rho, clean = torch.exp(-table[0]), k < 0
        a, s = torch.where(clean, 1.0, a), torch.where(clean, rho * (k + 1), s)
        w = torch.where(clean, self.steps * rho, w)
        if self._noise_end:
            q, noisy = torch.exp(table[last]), k > last
            a, w = torch.where(noisy, q * (self.steps - 1 - k), a), torch.where(noisy, self.steps * q, w)
        return a, s, w

    def alpha(self, t: Scalar) -> Scalar:
        r"""$\sqrt{\bar\alpha}$, exactly 1 at t = 1."""
        a, s, _ = self._pair(t)
        return a / sc.sqrt(a * a + s * s)

    def sigma(self, t: Scalar) -> Scalar:
        r"""$\sqrt{1 - \bar\alpha}$, exactly 0 at t = 1."""
        a, s, _ = self._pair(t)
        return s / sc.sqrt(a * a + s * s)

    def d_alpha(self, t: Scalar) -> Scalar:
        """Derivative in t, piecewise."""
        a, s, w = self._pair(t)
        return w * s / (a * a + s * s) ** 1.5

    def d_sigma(self, t: Scalar) -> Scalar:
        """Derivative in t, piecewise; finite at both ends."""
        a, s, w = self._pair(t)
        return -w * a / (a * a + s * s) ** 1.5

    def lam(self, t: Scalar) -> Scalar:
        """Linear between the steps, infinite where nothing of the noise, or of the data, is left."""
        a, s, _ = self._pair(t)
        return sc.log(sc.divide(a, s))

    def t_of_lam(self, lam: Scalar) -> Scalar:
        """The inverse; beyond a table that does not end in pure noise its last segment goes on."""
        value = torch.as_tensor(lam, dtype=torch.float64)
        table, last = self._table.to(value.device), len(self._lams) - 1
        rising = table.flip(0).contiguous()
        low = (last - torch.searchsorted(rising, value.contiguous())).clamp(0, max(last - 1, 0))
        high = (low + 1).clamp(max=last)
        gap = table[high] - table[low]
        k = low + torch.where(gap == 0, 0.0, (value - table[low]) / torch.where(gap == 0, 1.0, gap))
        k = torch.where(value >= table[0], torch.exp(table[0] - value) - 1, k)
        if self._noise_end:
            k = torch.where(value < table[last], self.steps - 1 - torch.exp(value - table[last]), k)
        t = 1 - (k + 1) / self.steps
        return t if isinstance(lam, Tensor) else float(t)
