r"""DualFast: sharpen the noise estimate against an earlier one, for no further evaluation.

A sampler errs by its step (discretisation) and by its network (approximation). The second error is small at high noise
and grows towards the data, so the estimate of an earlier, noisier step says something about the one at hand:

$$ \hat x_0^{new} = (1 + c_i)\, \hat x_0^{(i)} - c_i\, \hat x_0^{(j)}, \qquad j < i. $$

Only the leading term of a step takes it; the differences of a multistep method stay. With an exact network it is a bias
of size c that costs accuracy at many steps, and helps at few only because it extrapolates: with
$c_i = h_i / (2 h_{i-1})$ DDIM becomes DPM-Solver-2M.

Reference: DualFast, Yu et al. (2025), https://arxiv.org/abs/2506.13058. No code was published with it; the schedule of
c is our reconstruction.
"""

import math
import warnings
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import AffinePath, Time
from rheos.core.scalars import Scalar
from rheos.core.state import State, add, affine
from rheos.core.steer import Steer, View

__all__ = ["DualFast"]

RULES = ("linear", "constant", "quadratic", "lambda")


@final
@dataclass(frozen=True)
class DualFast(Steer):
    r"""Mix the noise estimate of a step with an earlier one, in its leading term.

    It goes with any solver of one evaluation a step: DDIM, DPM-Solver and ++ (multistep), UniPC (its corrector stays
    raw unless `UniPC(leads_corrector=True)`), DEIS, Adams-Bashforth, Euler, and the SDE solvers but `Renoise`.
    Estimates are mixed after guidance, so its scale should not change between steps.

    Args:
        c: Largest coefficient: 0.25 is safe, 0.5 usual, 1 for at most 6 steps or DDIM; or a coefficient for each step.
        rule: How it grows over the steps i of N: "linear" i / (N - 1), "quadratic", "constant" from the second step on,
            or "lambda": linear in the log signal-to-noise ratio from -3 to 3.
        auto: Lower c by min(1, 10 / N), which keeps the order of the solver.
        lag: How many steps back the earlier estimate lies (the first one, where there are fewer), or "first".
        low: No mixing before this time,
        high: or after this one.

    Raises:
        OptionError: For coefficients above 2, a lag below 1, or an empty range of times; when sampling begins, for a
            lag that is not below the number of steps, a list of another length, or a path without noise estimates.
        UnknownOptionError: For an unknown rule.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> from rheos.sample import draw
        >>> field = GaussianMixtureField(means=[[4.0, 0.0]], stds=[0.1])
        >>> x = draw(field, 4, steps=6, solver="dpm++2m", steers=[DualFast(0.5)])
    """

    steady = True

    c: float | tuple[float, ...] = 0.5
    rule: str = "linear"
    auto: bool = False
    lag: int | str = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, RULES)
        if isinstance(self.c, str) or (isinstance(self.c, tuple) and not self.c):
            raise OptionError(f"c is a number, or one a step, got {self.c!r}. auto=True lowers it with the steps.")
        if isinstance(self.c, list):
            object.__setattr__(self, "c", tuple(self.c))
        values = self.c if isinstance(self.c, tuple) else (self.c,)
        if not all(math.isfinite(v) and abs(v) <= 2 for v in values):
            raise OptionError(f"c must be at most 2, got {self.c}: more throws the estimate out of range.", c=self.c)
        if any(v < 0 for v in values):
            warnings.warn(f"c = {self.c} is negative: DualFast then averages with the noisier estimate.", stacklevel=3)
        if isinstance(self.lag, str):
            check_choice("lag", self.lag, ("first",))
        elif not isinstance(self.lag, int) or self.lag < 1:
            raise OptionError(f"lag must be at least 1 or 'first', got {self.lag}.", lag=self.lag)
        if not 0 <= self.low < self.high <= 1:
            raise OptionError(f"low and high are times with 0 <= low < high <= 1, got {self.low} and {self.high}.")

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The largest coefficient may differ between joined requests."""
        return {} if isinstance(self.c, tuple) else {"c": float(self.c)}

    def begin(self, view: View) -> None:
        """Check the steps; no estimate yet."""
        if not isinstance(view.path, AffinePath):
            raise OptionError(f"DualFast mixes noise estimates of an affine path, not of {type(view.path).__name__}.")
        fewest = int(torch.as_tensor(view.n).min())
        if isinstance(self.lag, int) and self.lag >= fewest and fewest > 1:
            raise OptionError(f"lag must be below the number of steps, got lag {self.lag} for {fewest} steps.")
        if isinstance(self.c, tuple) and len(self.c) != int(torch.as_tensor(view.n).max()):
            raise OptionError(f"c has {len(self.c)} coefficients for {int(torch.as_tensor(view.n).max())} steps.")
        view.own["past"] = ()

    def lead(self, view: View, value: State) -> State:
        """The estimate of this step, sharpened."""
        noise = view.convert(value, view.kind, "noise")
        past: tuple[State, ...] = () if view.round else view.own["past"]
        view.own["past"] = past[-1:] or (noise,) if self.lag == "first" else (noise, *past)[: cast(int, self.lag)]
        if not past:
            return value
        law, t = cast(AffinePath, view.path).law, cast(Scalar, view.t)
        alpha = law.alpha(t)
        gain = law.sigma(t) if view.kind == "data" else law.wronskian(t)
        c = sc.where(alpha > 0, -self.coefficient(view) * gain / sc.where(alpha > 0, alpha, 1.0), 0.0)
        if not isinstance(c, Tensor) and c == 0:
            return value
        return add(value, c, affine(1.0, noise, -1.0, past[-1]))

    def coefficient(self, view: View) -> Scalar:
        """c_i: a number, or one a row."""
        i, n, t = _number(view.i), _number(view.n), cast(Scalar, view.t)
        inside = (t >= self.low) & (t <= self.high)
        if isinstance(self.c, tuple):
            table = torch.tensor(self.c, dtype=torch.float64)
            c = table.to(i.device)[i.long()] if isinstance(i, Tensor) else self.c[int(i)]
            return sc.where(inside, c, 0.0)
        c = view.own["c"] * self._share(view, i, n, t)
        if self.auto:
            c = c * sc.where(n > 10, 10.0 / n, 1.0)
        return sc.where(inside & (i > 0), c, 0.0)

    def _share(self, view: View, i: Scalar, n: Scalar, t: Time) -> Scalar:
        if self.rule == "constant":
            return 1.0
        if self.rule == "lambda":
            share = (cast(AffinePath, view.path).law.lam(cast(Scalar, t)) + 3.0) / 6.0
            return share.clamp(0.0, 1.0) if isinstance(share, Tensor) else min(max(share, 0.0), 1.0)
        share = i / sc.where(n > 1, n - 1.0, 1.0)
        return share * share if self.rule == "quadratic" else share


def _number(v: int | Tensor) -> Scalar:
    return v.double() if isinstance(v, Tensor) else float(v)
