"""The nouns: paths, fields, couplings, times, objectives, and what solvers and steers owe the loop."""

from rheos.core.adaptive import Adaptive
from rheos.core.annealed import AnnealedPairs
from rheos.core.base import Cond, Context, Coupling, Loss, Pairs, Premetric, Source, TimeDistribution
from rheos.core.bounds import SlicedScoreMatching, VariationalBound
from rheos.core.bridges import NoisyPath
from rheos.core.couplings import ExactOT, GivenPairs, Independent, PerCondition, Sinkhorn
from rheos.core.derivative import Derivative, inject_gradient, material_derivative
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import RheosError
from rheos.core.field import Field
from rheos.core.flowmap import FlowMap, FlowMapField, TransportField
from rheos.core.gibbs import Gibbs, Tilted, tilt
from rheos.core.intervals import Deployed, Dyadic, TwoLaws
from rheos.core.mixture import GaussianMixtureField
from rheos.core.objectives import FlowMatching, Objective, Plan
from rheos.core.paths import AffinePath, GeodesicPath, JointPath, Path, PathSample
from rheos.core.premetrics import L1, MSE, RMSE, Huber, Perceptual, PseudoHuber, Timed, Total
from rheos.core.query import Query, Reply, merge, spread
from rheos.core.routed import Routed
from rheos.core.schedule import Schedule
from rheos.core.schedules import EDM, GVP, VE, VP, Linear, SubVP
from rheos.core.solver import Ask, Jump, Solver
from rheos.core.sources import Dataset, FromCondition, FromSeed, FromSpace, Gaussian, Uniform
from rheos.core.spaces import Euclidean, Product, Space, UnitQuaternion
from rheos.core.steer import Branch, Steer, View
from rheos.core.tables import Discrete
from rheos.core.times import (
    Antithetic,
    BetaTime,
    CosMap,
    EDMTime,
    LogitNormal,
    ModeTime,
    PerVariable,
    PiecewiseTime,
    ShiftedTime,
    Stratified,
    TwoTimes,
    UniformTime,
    UShape,
)
from rheos.core.unbalanced import Unbalanced
from rheos.core.weights import SNR, EDMWeight, Likelihood, Matched, MinSNR, One, Sigmoid, Weight, matched

__all__ = [
    "EDM",
    "GVP",
    "L1",
    "MSE",
    "RMSE",
    "SNR",
    "VE",
    "VP",
    "Adaptive",
    "AffinePath",
    "AnnealedPairs",
    "Antithetic",
    "Ask",
    "BetaTime",
    "Branch",
    "Cond",
    "Context",
    "CosMap",
    "Coupling",
    "Dataset",
    "Deployed",
    "Derivative",
    "Discrete",
    "Draws",
    "Dyadic",
    "EDMTime",
    "EDMWeight",
    "Euclidean",
    "ExactOT",
    "Field",
    "FlowMap",
    "FlowMapField",
    "FlowMatching",
    "FromCondition",
    "FromSeed",
    "FromSpace",
    "Gaussian",
    "GaussianMixtureField",
    "GeodesicPath",
    "Gibbs",
    "GivenPairs",
    "Huber",
    "Independent",
    "JointPath",
    "Jump",
    "Likelihood",
    "Linear",
    "LogitNormal",
    "Loss",
    "Matched",
    "MinSNR",
    "ModeTime",
    "NoisyPath",
    "Objective",
    "One",
    "Pairs",
    "Path",
    "PathSample",
    "PerCondition",
    "PerVariable",
    "Perceptual",
    "PiecewiseTime",
    "Plan",
    "Premetric",
    "Product",
    "PseudoHuber",
    "Query",
    "Reply",
    "RheosError",
    "Routed",
    "Schedule",
    "ShiftedTime",
    "Sigmoid",
    "Sinkhorn",
    "SlicedScoreMatching",
    "Solver",
    "Source",
    "Space",
    "Steer",
    "Stratified",
    "SubVP",
    "Tilted",
    "TimeDistribution",
    "Timed",
    "Total",
    "TransportField",
    "TwoLaws",
    "TwoTimes",
    "UShape",
    "Unbalanced",
    "Uniform",
    "UniformTime",
    "UnitQuaternion",
    "VariationalBound",
    "View",
    "Weight",
    "inject_gradient",
    "matched",
    "material_derivative",
    "merge",
    "row_seeds",
    "spread",
    "tilt",
]
