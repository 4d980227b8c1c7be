"""Solvers by name."""

from collections.abc import Callable

from rheos.core.errors import check_choice
from rheos.core.solver import Solver
from rheos.sample.adams import AdamsBashforth
from rheos.sample.adaptive import BogackiShampine, DormandPrince, Tsitouras
from rheos.sample.churn import Churn
from rheos.sample.deis import DEIS, IPNDM
from rheos.sample.dpm import DPMSinglestep, DPMSolver
from rheos.sample.exponential import DDIM
from rheos.sample.fireflow import FireFlow
from rheos.sample.jump import FlowMapSteps
from rheos.sample.jumps import SDEDPM, Ancestral, Renoise
from rheos.sample.reversible import AsynchronousLeapfrog, ReversibleHeun
from rheos.sample.rungekutta import HEUN, MIDPOINT, RALSTON, RK3, RK4, Euler, RungeKutta
from rheos.sample.stochastic import SDE
from rheos.sample.unipc import UniPC

__all__ = ["MAPS", "SOLVERS", "solver"]

SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler": Euler,
    "midpoint": lambda: RungeKutta(tableau=MIDPOINT),
    "rf-solver": lambda: RungeKutta(tableau=MIDPOINT),  # RF-Solver-2 is the midpoint rule, written as a Taylor step
    "heun": lambda: RungeKutta(tableau=HEUN),
    "heun-edm": lambda: RungeKutta(tableau=HEUN, spare=True),
    "ralston": lambda: RungeKutta(tableau=RALSTON),
    "rk3": lambda: RungeKutta(tableau=RK3),
    "rk4": lambda: RungeKutta(tableau=RK4),
    "dopri5": DormandPrince,
    "tsit5": Tsitouras,
    "bosh3": BogackiShampine,
    "fireflow": FireFlow,
    "alf": AsynchronousLeapfrog,
    "reversible-heun": ReversibleHeun,
    "ab2": AdamsBashforth,
    "ab3": lambda: AdamsBashforth(order=3),
    "ab4": lambda: AdamsBashforth(order=4),
    "ddim": DDIM,
    "dpm++2m": DPMSolver,
    "dpm++3m": lambda: DPMSolver(order=3),
    "dpm2m": lambda: DPMSolver(estimates="noise"),
    "dpm3m": lambda: DPMSolver(order=3, estimates="noise"),
    "dpm++2s": DPMSinglestep,
    "dpm++3s": lambda: DPMSinglestep(order=3),
    "dpm2s": lambda: DPMSinglestep(estimates="noise"),
    "dpm3s": lambda: DPMSinglestep(order=3, estimates="noise"),
    "unipc": UniPC,
    "unipc3": lambda: UniPC(order=3),
    "deis2": lambda: DEIS(order=2),
    "deis": DEIS,
    "ipndm": IPNDM,
    "ddpm": lambda: DDIM(eta=1.0),
    "ancestral": Ancestral,
    "sde-dpm++": lambda: SDEDPM(order=1),
    "sde-dpm++2m": SDEDPM,
    "churn": Churn,
    "renoise": Renoise,
    "sde": SDE,
    "sde-ddpm": lambda: SDE(diffusion="sbdm"),
}
"""Makers by name, with their usual options."""

MAPS: dict[str, Callable[[], Solver]] = {"jump": FlowMapSteps}
"""Likewise, for flow maps alone: they ask for average velocities, which other fields do not know."""


def solver(name: str) -> Solver:
    """A solver by name.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> solver("heun").evaluations
        2
    """
    known = SOLVERS | MAPS
    check_choice("solver", name, known)
    return known[name]()
