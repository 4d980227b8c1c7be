"""Pictures and pages: what a person looks at."""

from rheos.show.figures import curves, figure_png, scatter, trajectories
from rheos.show.grids import beside, grid, png, save_png, upscale
from rheos.show.page import Page
from rheos.show.progress import progress_bar

__all__ = [
    "Page",
    "beside",
    "curves",
    "figure_png",
    "grid",
    "png",
    "progress_bar",
    "save_png",
    "scatter",
    "trajectories",
    "upscale",
]  # fmt: skip
