"""Few-step flows: pair stores and reflow."""

from rheos.distill.pairs import PairStore, Recipe, generate
from rheos.distill.reflow import reflow

__all__ = ["PairStore", "Recipe", "generate", "reflow"]
