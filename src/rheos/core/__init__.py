"""The nouns: paths, fields, couplings, times, objectives, and what solvers and steers owe the loop."""

from rheos.core.base import Cond, Context, Coupling, Loss, Pairs, Premetric, Source, TimeDistribution
from rheos.core.couplings import *  # noqa: F403
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import RheosError
from rheos.core.field import Field, Query, Reply, Routed, merge, spread
from rheos.core.flowmap import FlowMap
from rheos.core.gibbs import *  # noqa: F403
from rheos.core.mixture import GaussianMixtureField
from rheos.core.objectives import FlowMatching, Objective, Plan
from rheos.core.paths import AffinePath, GeodesicPath, JointPath, Path, PathSample
from rheos.core.premetrics import *  # noqa: F403
from rheos.core.schedules import EDM, GVP, VE, VP, Discrete, Linear, Schedule, SubVP
from rheos.core.solver import Ask, Jump, Solver
from rheos.core.sources import *  # noqa: F403
from rheos.core.spaces import Euclidean, Product, Space, UnitQuaternion
from rheos.core.steer import Branch, Steer, View
from rheos.core.times import *  # noqa: F403
from rheos.core.weights import *  # noqa: F403
