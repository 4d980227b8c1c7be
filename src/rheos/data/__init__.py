"""Data sets in memory: embedded ones and the user's own."""

from rheos.data.arrays import save
from rheos.data.dataset import About, Batch, Data
from rheos.data.loading import SOURCES, load
from rheos.data.ranges import check_range
from rheos.data.toys import toy

__all__ = ["SOURCES", "About", "Batch", "Data", "check_range", "load", "save", "toy"]
