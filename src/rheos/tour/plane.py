"""Fourth chapter: the same in the plane, where paths can be seen."""

import torch

from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.data import load
from rheos.distill import Recipe, generate, reflow
from rheos.metrics.trajectories import straightness
from rheos.nets import MLP
from rheos.sample import draw_solution
from rheos.show import figure_png, trajectories
from rheos.tour.story import Tour
from rheos.train import Options, fit

__all__ = ["plane"]


def plane(tour: Tour) -> None:
    """Trajectories before and after straightening."""
    tour.say("Drawing paths in the plane.")
    out, seed, steps = tour.options.out, tour.options.seed, tour.options.plane_steps
    data = load("8gaussians", limit=4096)
    options = Options(seed=seed, batch=256, lr=2e-3, sample_every=0)
    with tour.seeded():
        flow = Field(MLP(2, hidden=64, depth=3))
    folder = out / "plane"
    run = fit(flow, FlowMatching(), data, steps=steps, out=folder, options=options,
              resume=True, progress=tour.progress)  # fmt: skip
    pairs = generate(run.field, out / "plane-pairs", 4096, recipe=Recipe(steps=20, chunk=4096, seed=seed))
    fast = reflow(run.field, pairs, steps=steps, out=out / "plane-straight", options=options, progress=tour.progress)
    shown, bends = {}, {}
    for name, field in (("before", run.field), ("after one reflow", fast.field)):
        solution = draw_solution(field, 300, steps=60, solver="heun", seed=seed, trace=True)
        path = solution.path
        assert isinstance(path, torch.Tensor)
        shown[name] = path
        bends[name] = straightness(path, torch.tensor(solution.times, dtype=torch.float64))
    page = tour.page.heading("4. See it")
    page.text(
        "The same two steps in the plane, from a Gaussian (sand) to eight Gaussians (sea). Before, paths lean to the "
        "middle and turn late. After one reflow they are nearly straight, which is all that one-step sampling needs."
    )
    figures = ", ".join(f"{name} {value:.3f}" for name, value in bends.items())
    page.picture(figure_png(trajectories(shown)), f"Straightness defect (0 is a straight line): {figures}", width=860)
