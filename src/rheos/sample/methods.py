"""Solvers by name."""

from collections.abc import Callable

from rheos.core.errors import check_choice
from rheos.core.solver import Solver
from rheos.sample.adams import AdamsBashforth2
from rheos.sample.adaptive import DormandPrince
from rheos.sample.exponential import DDIM, DPM2M, DPM2S
from rheos.sample.rungekutta import HEUN, MIDPOINT, RALSTON, RK3, RK4, Euler, RungeKutta
from rheos.sample.stochastic import SDE
from rheos.sample.unipc import UniPC

__all__ = ["SOLVERS", "solver"]

SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler": Euler,
    "midpoint": lambda: RungeKutta(tableau=MIDPOINT),
    "heun": lambda: RungeKutta(tableau=HEUN),
    "ralston": lambda: RungeKutta(tableau=RALSTON),
    "rk3": lambda: RungeKutta(tableau=RK3),
    "rk4": lambda: RungeKutta(tableau=RK4),
    "dopri5": DormandPrince,
    "ab2": AdamsBashforth2,
    "ddim": DDIM,
    "ddpm": lambda: DDIM(eta=1.0),
    "dpm++2m": DPM2M,
    "dpm++2s": DPM2S,
    "unipc": UniPC,
    "sde": SDE,
}
"""Makers by name, with their usual options."""


def solver(name: str) -> Solver:
    """A solver by name.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> solver("heun").evaluations
        2
    """
    check_choice("solver", name, SOLVERS)
    return SOLVERS[name]()
