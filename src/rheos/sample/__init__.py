"""Sampling: solvers, time grids, guidance and the one loop that drives them."""

from rheos.sample.adams import AdamsBashforth
from rheos.sample.adaptive import BogackiShampine, DormandPrince, Tsitouras
from rheos.sample.bridge import BridgeDrift, Brownian
from rheos.sample.churn import Churn
from rheos.sample.deis import DEIS, IPNDM
from rheos.sample.diagnose import SamplingError, sampling_error
from rheos.sample.dpm import DPMSinglestep, DPMSolver
from rheos.sample.draw import draw, draw_solution, grid_for
from rheos.sample.dualfast import DualFast
from rheos.sample.exponential import DDIM
from rheos.sample.fireflow import FireFlow
from rheos.sample.flight import Flight, join, load, save, split
from rheos.sample.grids import Grid, Searched, check_grid, dynamic_shift
from rheos.sample.guidance import CFG, AutoGuidance, ClassifierGuidance, SeveralConditions
from rheos.sample.inversion import FixedPoint, ImplicitEuler, ImplicitMidpoint, invert
from rheos.sample.jump import FlowMapSteps
from rheos.sample.jumps import SDEDPM, Ancestral, Renoise
from rheos.sample.likelihood import Likelihood, dequantise, log_likelihood
from rheos.sample.logprob import step_logprob
from rheos.sample.loop import Loop
from rheos.sample.methods import MAPS, SOLVERS, solver
from rheos.sample.newupdate import NewUpdate
from rheos.sample.posterior import PosteriorGuidance
from rheos.sample.recommend import recommend
from rheos.sample.recommendation import Recommendation, Trial
from rheos.sample.reversible import AsynchronousLeapfrog, ReversibleHeun, turn
from rheos.sample.rungekutta import HEUN, MIDPOINT, RALSTON, RK3, RK4, Euler, RungeKutta, Tableau
from rheos.sample.solution import Solution, drive, solve
from rheos.sample.stochastic import SDE
from rheos.sample.unipc import UniPC

__all__ = [
    "CFG",
    "DDIM",
    "DEIS",
    "HEUN",
    "IPNDM",
    "MAPS",
    "MIDPOINT",
    "RALSTON",
    "RK3",
    "RK4",
    "SDE",
    "SDEDPM",
    "SOLVERS",
    "AdamsBashforth",
    "Ancestral",
    "AsynchronousLeapfrog",
    "AutoGuidance",
    "BogackiShampine",
    "BridgeDrift",
    "Brownian",
    "Churn",
    "ClassifierGuidance",
    "DPMSinglestep",
    "DPMSolver",
    "DormandPrince",
    "DualFast",
    "Euler",
    "FireFlow",
    "FixedPoint",
    "Flight",
    "FlowMapSteps",
    "Grid",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "Likelihood",
    "Loop",
    "NewUpdate",
    "PosteriorGuidance",
    "Recommendation",
    "Renoise",
    "ReversibleHeun",
    "RungeKutta",
    "SamplingError",
    "Searched",
    "SeveralConditions",
    "Solution",
    "Tableau",
    "Trial",
    "Tsitouras",
    "UniPC",
    "check_grid",
    "dequantise",
    "draw",
    "draw_solution",
    "drive",
    "dynamic_shift",
    "grid_for",
    "invert",
    "join",
    "load",
    "log_likelihood",
    "recommend",
    "sampling_error",
    "save",
    "solve",
    "solver",
    "split",
    "step_logprob",
    "turn",
]
