"""Guidance and inverse problems: plug-ins of the sampling loop."""

from rheos.guide.completion import Completion
from rheos.guide.restore import METHODS, Inpaint, restore

__all__ = ["METHODS", "Completion", "Inpaint", "restore"]
