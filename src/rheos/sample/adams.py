r"""Adams-Bashforth on the velocity, with variable steps.

Reference: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), III.5.
"""

from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.core.paths import Time
from rheos.core.solver import DONE, Solver, SolverState, elapsed, times
from rheos.core.state import State, add

__all__ = ["AdamsBashforth2"]


@final
@dataclass(frozen=True, kw_only=True)
class AdamsBashforth2(Solver):
    r"""$x' = x + h (1 + \frac{h}{2 h_{prev}}) v - \frac{h^2}{2 h_{prev}} v_{prev}$; the first step is Euler's."""

    order = 2

    def init(self, x: State) -> SolverState:
        """No history."""
        return {**super().init(x), "last": None, "h": None}

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Extrapolate the velocity and step."""
        h, last = elapsed(s["t"], s["end"]), s["last"]
        x = add(s["x"], h, value if lead is None else lead)
        if last is not None:
            g = _half_ratio(h, s["h"])
            x = add(add(x, g, value), times(g, -1.0), last)
        return {**s, "x": x, "last": value, "h": h, "stage": DONE}


def _half_ratio(h: Time, before: Time) -> Time:
    r"""$h^2 / (2 h_{before})$, name by name."""
    if isinstance(h, dict):
        old = cast(dict[str, Tensor], before)
        return {n: 0.5 * v * v / old[n] for n, v in h.items()}
    return 0.5 * h * h / cast(float | Tensor, before)
