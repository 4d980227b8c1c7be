"""Few-step flows: pair stores, reflow, and the methods that are built on them."""

from rheos.distill.bellman import BellmanCosts, BellmanSchedule, BellmanSearch, bellman_costs
from rheos.distill.boss import Straightening, boss
from rheos.distill.chords import ChordMatching, chord_errors, chord_loss
from rheos.distill.consistency import Consistency, consistency
from rheos.distill.contenders import METHODS
from rheos.distill.contest import Contest, ContestOptions, Entry, contest
from rheos.distill.distillation import AtTimes, Decoded, Distillation, distil, distillation, t_schedule
from rheos.distill.flowmaps import FlowMapLoss
from rheos.distill.groups import Flip, Group, QuarterTurns, Together, equivariance_gap
from rheos.distill.instaflow import Stages, instaflow
from rheos.distill.inverted import MixedPairs, invert_pairs
from rheos.distill.kit import same_teacher
from rheos.distill.latents import encode, interpolate, slerp, translate
from rheos.distill.mdt_dist import TransportLoss, mdt_dist, transport
from rheos.distill.pairs import PairStore, Recipe, generate, given_pairs
from rheos.distill.progressive import Halving, progressive
from rheos.distill.reflow import reflow
from rheos.distill.retimed import retimed
from rheos.distill.rfpp import Rectification, heun_steps, rfpp
from rheos.distill.segments import SegmentRecipe, SegmentStore, generate_segments
from rheos.distill.slimflow import FlowGuided, Slimming, slimflow
from rheos.distill.smaller import Smaller
from rheos.distill.splitmeanflow import splitmeanflow, student
from rheos.distill.straight import Paths, Size, SizeReport, paths, size, sizes
from rheos.distill.students import StackedVelocity, low_rank, transfer
from rheos.distill.teacher import Teacher

__all__ = [
    "METHODS",
    "AtTimes",
    "BellmanCosts",
    "BellmanSchedule",
    "BellmanSearch",
    "ChordMatching",
    "Consistency",
    "Contest",
    "ContestOptions",
    "Decoded",
    "Distillation",
    "Entry",
    "Flip",
    "FlowGuided",
    "FlowMapLoss",
    "Group",
    "Halving",
    "MixedPairs",
    "PairStore",
    "Paths",
    "QuarterTurns",
    "Recipe",
    "Rectification",
    "SegmentRecipe",
    "SegmentStore",
    "Size",
    "SizeReport",
    "Slimming",
    "Smaller",
    "StackedVelocity",
    "Stages",
    "Straightening",
    "Teacher",
    "Together",
    "TransportLoss",
    "bellman_costs",
    "boss",
    "chord_errors",
    "chord_loss",
    "consistency",
    "contest",
    "distil",
    "distillation",
    "encode",
    "equivariance_gap",
    "generate",
    "generate_segments",
    "given_pairs",
    "heun_steps",
    "instaflow",
    "interpolate",
    "invert_pairs",
    "low_rank",
    "mdt_dist",
    "paths",
    "progressive",
    "reflow",
    "retimed",
    "rfpp",
    "same_teacher",
    "size",
    "sizes",
    "slerp",
    "slimflow",
    "splitmeanflow",
    "student",
    "t_schedule",
    "transfer",
    "translate",
    "transport",
]
