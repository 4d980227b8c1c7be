"""The pictures of the concepts page, drawn from rheos itself: `python docs/make_pictures.py` (half a minute, CPU)."""

import io
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rheos.core import AffinePath, Draws, ExactOT, Field, FlowMatching, GaussianMixtureField, Independent, row_seeds
from rheos.nets import MLP
from rheos.sample import CFG, solve

HERE = Path(__file__).parent / "pictures"
INK, SEA, SAND, CORAL, MIST = "#1b2a41", "#1f7a8c", "#e0a458", "#c8553d", "#d0d4da"
LINE = [SEA, CORAL, SAND, INK, "#7a5c99", "#6a994e"]


def sheet(columns: int, rows: int = 1, width: float = 2.9, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """A white page with panels."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", facecolor="white")
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(rows * columns)]


def plain(axes: Axes, title: str, reach: float) -> None:
    """A panel of the plane, without ticks."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_aspect("equal")
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(MIST)


def chart(axes: Axes, title: str, x: str, y: str) -> None:
    """A panel with axes."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8, color=MIST)
    axes.grid(color=MIST, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set_color(MIST)


def keep(figure: Figure, name: str) -> None:
    """Write a picture with few colours, which is small, and without the date of its making."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, bbox_inches="tight", pad_inches=0.05)
    HERE.mkdir(exist_ok=True)
    path = HERE / f"{name}.png"
    Image.open(buffer).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def lines(axes: Axes, path: Tensor, colour: str = INK, alpha: float = 0.35) -> None:
    """Trajectories (times, rows, 2), from sand to sea."""
    p = path.detach().numpy()
    axes.add_collection(LineCollection(list(p.swapaxes(0, 1)), colors=colour, linewidths=0.6, alpha=alpha))
    axes.scatter(*p[0].T, s=9, color=SAND, zorder=3, linewidths=0)
    axes.scatter(*p[-1].T, s=9, color=SEA, zorder=4, linewidths=0)


def ring(count: int = 6, radius: float = 3.0, std: float = 0.25, labels: bool = False) -> GaussianMixtureField:
    """A ring of Gaussians whose exact flow is known."""
    angle = torch.arange(count) * (2 * torch.pi / count) + torch.pi / 6
    means = radius * torch.stack((angle.cos(), angle.sin()), 1)
    return GaussianMixtureField(means, [std] * count, labels=torch.arange(count) if labels else None)


def noise(n: int, seed: int = 0) -> Tensor:
    """Source rows."""
    return Draws(row_seeds(seed, n)).normal(torch.empty(n, 2, dtype=torch.float64), "source")  # type: ignore[return-value]


def time() -> None:
    """Noise becomes data as t goes from 0 to 1."""
    field, figure_axes = ring(), sheet(5, width=2.1, height=2.4)
    figure, panels = figure_axes
    found = solve(field, noise(900), [k / 40 for k in range(41)], "heun", trace=True)
    for axes, k in zip(panels, (0, 10, 20, 30, 40), strict=True):
        t = k / 40
        mix = [(1 - t) * a + t * b for a, b in zip((0.878, 0.643, 0.345), (0.122, 0.478, 0.549), strict=True)]
        axes.scatter(*found.path[k].T, s=3, color=[mix], alpha=0.6, linewidths=0)  # type: ignore[index, union-attr]
        plain(axes, f"t = {t:g}" + {0: "  (noise, x₀)", 40: "  (data, x₁)"}.get(k, ""), 4.2)
    keep(figure, "time")


def kinds() -> None:
    """What a network may predict at one point, and how the guess of the data settles on the way."""
    field = ring()
    figure, (left, right) = sheet(2, width=3.6, height=3.6)
    cloud = field.sample_data(600)
    t, x = 0.55, torch.tensor([[0.55, 1.25]], dtype=torch.float64)
    data, source, velocity = (f(x, t)[0] for f in (field.data, field.noise, field))
    plain(left, f"one point, t = {t}", 4.2)
    left.scatter(*cloud.T, s=2, color=MIST, linewidths=0)
    left.plot(*torch.stack((source, data)).T, color=MIST, linewidth=1, zorder=1)
    point, tip = x[0], x[0] + 0.28 * velocity
    arrow = {"arrowstyle": "-|>", "color": CORAL, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    left.annotate("", xy=tip.tolist(), xytext=point.tolist(), arrowprops=arrow)
    marks = [(data, SEA, "data  x̂₁"), (source, SAND, "noise  x̂₀"), (point, INK, "state  x")]
    for where, colour, name in marks:
        left.scatter(*where, s=34, color=colour, zorder=5, linewidths=0)
        left.annotate(name, where.tolist(), xytext=(8, -4), textcoords="offset points", fontsize=9, color=INK)
    left.annotate(
        "velocity\nx̂₁ − x̂₀", tip.tolist(), xytext=(-56, -14), textcoords="offset points", fontsize=9, color=CORAL
    )
    plain(right, "the state (ink) and its data estimate (sea)", 4.2)
    right.scatter(*cloud.T, s=2, color=MIST, linewidths=0)
    grid = [k / 200 for k in range(201)]
    start = torch.tensor([[-1.3, 0.9], [0.9, -1.4], [1.2, 1.0]], dtype=torch.float64)
    path = solve(field, start, grid, "heun", trace=True).path
    guesses = torch.stack([field.data(p, k) for p, k in zip(path, grid, strict=True)])  # type: ignore[arg-type]
    for row in range(len(start)):
        right.plot(*path[:, row].T, color=INK, linewidth=1.4)  # type: ignore[index, union-attr]
        right.plot(*guesses[:, row].T, color=SEA, linewidth=1.4, linestyle=(0, (3, 1.5)))
        right.scatter(*start[row], s=26, color=SAND, zorder=5, linewidths=0)
        right.scatter(*path[-1, row], s=26, color=SEA, zorder=5, linewidths=0)  # type: ignore[index]
    keep(figure, "kinds")


def schedules() -> None:
    """The coefficients of the usual paths, and the signal-to-noise ratio that they share."""
    figure, (left, middle, right) = sheet(3, width=3.0, height=2.8)
    t = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    for name, colour, width in zip(("linear", "gvp", "vp", "sub-vp"), LINE, (1.6, 3.4, 3.4, 1.4), strict=False):
        law = AffinePath(name).law
        left.plot(t, law.alpha(t), color=colour, linewidth=width)
        left.plot(t, law.sigma(t), color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
        middle.plot(t, law.lam(t), color=colour, linewidth=1.6, label=name)
        right.plot(law.sigma(t), law.alpha(t), color=colour, linewidth=1.6 if name == "vp" else width)
    chart(left, "α (solid) and σ (dashed)", "t", "")
    chart(middle, "λ = ln(α / σ)", "t", "")
    middle.set_ylim(-7, 7)
    middle.legend(fontsize=8, frameon=False, loc="lower right")
    chart(right, "from noise to data", "σ", "α")
    right.set_aspect("equal")
    keep(figure, "schedules")


def learned(coupling: Independent | ExactOT, data: GaussianMixtureField, steps: int = 1500) -> Field:
    """A small network trained with a coupling; the loop of `train.fit` in its barest form."""
    torch.manual_seed(0)
    field = Field(MLP(2, hidden=96, depth=3), "linear")
    objective = FlowMatching(coupling=coupling)
    optimiser = torch.optim.Adam(field.parameters(), lr=2e-3)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        x1 = data.sample_data(256, seed=step).float()
        loss = objective.loss(field, objective.prepare(field, x1, {}, Draws.training(0, step, 256))).value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
    return field.eval()


def couplings() -> None:
    """Pairs, and the trajectories that are learned from them: independent, and by optimal transport."""
    data, start = ring(), noise(160, seed=3)
    figure, panels = sheet(4, width=2.5, height=2.75)
    x1 = data.sample_data(160, seed=5)
    draws = Draws(row_seeds(0, 160))
    x0 = ExactOT()(start, x1, {}, draws).x0
    for axes, source, title in ((panels[0], start, "independent pairs"), (panels[2], x0, "optimal-transport pairs")):
        lines(axes, torch.stack((source, x1)), alpha=0.3)  # type: ignore[list-item]
        plain(axes, title, 4.0)
    for axes, coupling in ((panels[1], Independent()), (panels[3], ExactOT())):
        field = learned(coupling, data)
        path = solve(field, start.float(), [k / 60 for k in range(61)], "heun", trace=True).path
        lines(axes, path)  # type: ignore[arg-type]
        length = (path[1:] - path[:-1]).norm(dim=-1).sum()  # type: ignore[index, operator]
        straight = (path[-1] - path[0]).norm(dim=-1).sum()  # type: ignore[index, operator]
        plain(axes, f"learned, {100 * (length / straight - 1):.1f} % longer", 4.0)
    keep(figure, "couplings")


def solvers() -> None:
    """Error against network calls, on a flow whose end is known."""
    field, x = ring(std=0.5), noise(400)
    truth = solve(field, x, [k / 2000 for k in range(2001)], "rk4").x
    figure, (left, right) = sheet(2, width=3.6, height=3.4)
    for name, colour in zip(("euler", "midpoint", "heun", "rk4", "ab2", "unipc"), LINE, strict=True):
        calls, errors = [], []
        for steps in (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
            found = solve(field, x, [k / steps for k in range(steps + 1)], name)
            calls.append(found.calls)
            errors.append(float((found.x - truth).norm(dim=1).square().mean().sqrt()))  # type: ignore[operator, union-attr]
        left.loglog(calls, errors, color=colour, marker="o", markersize=3, linewidth=1.4, label=name)
    left.set_xlim(3.5, 560)
    chart(left, "error at t = 1", "network calls", "root mean square")
    left.legend(fontsize=8, frameon=False, loc="lower left")
    right.scatter(*field.sample_data(900).T, s=2, color=MIST, linewidths=0)
    for steps, colour in ((2, CORAL), (4, SAND), (16, SEA)):
        path = solve(field, x[:60], [k / steps for k in range(steps + 1)], "euler", trace=True).path
        segments = list(path.numpy().swapaxes(0, 1))  # type: ignore[union-attr]
        right.add_collection(LineCollection(segments, colors=colour, linewidths=0.7, alpha=0.7))
        right.scatter(*path[-1].T, s=8, color=colour, zorder=4, linewidths=0, label=f"{steps} steps")  # type: ignore[index, union-attr]
    plain(right, "Euler with few steps stops short", 5.0)
    right.legend(fontsize=8, frameon=False, loc="upper left")
    keep(figure, "solvers")


def steer() -> None:
    """Classifier-free guidance is a steer: it folds two velocities into one."""
    field, n = ring(std=0.75, radius=2.2, labels=True), 500
    figure, panels = sheet(4, width=2.3, height=2.6)
    cloud = field.sample_data(1500)
    label = torch.zeros(n, dtype=torch.int64)
    for axes, scale in zip(panels, (0.0, 1.0, 2.0, 4.0), strict=True):
        steers = () if scale == 1.0 else (CFG(scale),)
        found = solve(field, noise(n), [k / 50 for k in range(51)], "heun", cond={"label": label}, steers=steers)
        axes.scatter(*cloud.T, s=2, color=MIST, linewidths=0)
        axes.scatter(*found.x.T, s=4, color=SEA, alpha=0.7, linewidths=0)  # type: ignore[union-attr]
        names = {0.0: "w = 0: no condition", 1.0: "w = 1: the condition"}
        plain(axes, names.get(scale, f"w = {scale:g}: guided"), 5.0)
    keep(figure, "steer")


if __name__ == "__main__":
    for make in (time, kinds, schedules, couplings, solvers, steer):
        make()
