"""Sampling: solvers, time grids, guidance and the one loop that drives them."""

from rheos.sample.adams import AdamsBashforth2
from rheos.sample.adaptive import DormandPrince
from rheos.sample.draw import draw, draw_solution, grid_for
from rheos.sample.exponential import DDIM, DPM2M, DPM2S
from rheos.sample.flight import Flight, join, load, save, split
from rheos.sample.grids import Grid, check_grid
from rheos.sample.guidance import CFG, AutoGuidance, ClassifierGuidance, SeveralConditions
from rheos.sample.loop import Loop
from rheos.sample.methods import SOLVERS, solver
from rheos.sample.posterior import PosteriorGuidance
from rheos.sample.rungekutta import HEUN, MIDPOINT, RALSTON, RK3, RK4, Euler, RungeKutta, Tableau
from rheos.sample.solution import Solution, drive, solve
from rheos.sample.stochastic import SDE
from rheos.sample.unipc import UniPC

__all__ = [
    "CFG",
    "DDIM",
    "DPM2M",
    "DPM2S",
    "HEUN",
    "MIDPOINT",
    "RALSTON",
    "RK3",
    "RK4",
    "SDE",
    "SOLVERS",
    "AdamsBashforth2",
    "AutoGuidance",
    "ClassifierGuidance",
    "DormandPrince",
    "Euler",
    "Flight",
    "Grid",
    "Loop",
    "PosteriorGuidance",
    "RungeKutta",
    "SeveralConditions",
    "Solution",
    "Tableau",
    "UniPC",
    "check_grid",
    "draw",
    "draw_solution",
    "drive",
    "grid_for",
    "join",
    "load",
    "save",
    "solve",
    "solver",
    "split",
]
