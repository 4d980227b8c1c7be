"""Figures drawn by matplotlib, without global state: each function makes and returns its own figure."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "figure_png", "scatter", "trajectories"]

INK, SEA, SAND = "#1b2a41", "#1f7a8c", "#e0a458"


def _axes(count: int, size: float = 3.6) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size * count, size), layout="constrained")
    axes = [figure.add_subplot(1, count, k + 1) for k in range(count)]
    return figure, axes


def _bare(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#d0d4da")


def scatter(sets: Mapping[str, Float[Tensor, "n 2"]]) -> "Figure":
    """Point clouds in the plane, one panel each, on one scale."""
    figure, panels = _axes(len(sets))
    clouds = {name: x.detach().cpu().numpy() for name, x in sets.items()}
    everything = np.concatenate(list(clouds.values()))
    low, high = everything.min(0) - 0.5, everything.max(0) + 0.5
    for axes, (name, points) in zip(panels, clouds.items(), strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=3, color=SEA, alpha=0.5, linewidths=0)
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        _bare(axes, name)
    return figure


def trajectories(paths: Mapping[str, Float[Tensor, "t n 2"]], most: int = 200) -> "Figure":
    """Trajectories in the plane from their start (sand) to their end (sea), one panel a set.

    Args:
        paths: States at increasing times, by panel title.
        most: At most so many trajectories a panel.
    """
    from matplotlib.collections import LineCollection

    figure, panels = _axes(len(paths))
    lines = {name: p[:, :most].detach().cpu().numpy() for name, p in paths.items()}
    everything = np.concatenate([p.reshape(-1, 2) for p in lines.values()])
    low, high = everything.min(0) - 0.3, everything.max(0) + 0.3
    for axes, (name, path) in zip(panels, lines.items(), strict=True):
        axes.add_collection(LineCollection(list(path.swapaxes(0, 1)), colors=INK, linewidths=0.5, alpha=0.35))
        axes.scatter(path[0, :, 0], path[0, :, 1], s=7, color=SAND, zorder=3, linewidths=0)
        axes.scatter(path[-1, :, 0], path[-1, :, 1], s=7, color=SEA, zorder=4, linewidths=0)
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        _bare(axes, name)
    return figure


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, log: bool = True
) -> "Figure":
    """Curves of a figure against another, points marked.

    Args:
        lines: (x, y) by name.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        log: Whether both axes are logarithmic.
    """
    figure, (axes,) = _axes(1, 4.4)
    for k, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.3, label=name, color=f"C{k}")
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#e6e8eb", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    return figure


def figure_png(figure: "Figure", dpi: int = 130) -> bytes:
    """A figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
