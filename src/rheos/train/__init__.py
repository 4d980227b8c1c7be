"""Training: one loop for every objective, runs that survive, and reading them back."""

from rheos.train.fit import fit
from rheos.train.options import Options
from rheos.train.run import Run, load
from rheos.train.trackers import Tracker

__all__ = ["Options", "Run", "Tracker", "fit", "load"]
