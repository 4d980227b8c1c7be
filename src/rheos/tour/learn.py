"""First chapter: train a flow and sample it with several step counts."""

from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.nets import suggest
from rheos.tour.story import Tour
from rheos.train import Options, fit

__all__ = ["learn"]

STEPS = (1, 2, 4, 20)


def learn(tour: Tour) -> None:
    """Train, sample, measure."""
    options, data = tour.options, tour.train
    tour.say(f"Learning a flow on {len(data):,} pictures of {data.name}.")
    with tour.seeded():
        flow = Field(suggest(data.shape, classes=data.classes))
    folder = options.out / "flow"
    tour.run = fit(
        flow,
        FlowMatching(),
        data,
        steps=options.steps,
        out=folder,
        options=Options(seed=options.seed, lr=3e-3, sample_every=max(options.steps // 4, 1)),
        resume=True,
        progress=tour.progress,
    )
    page = tour.page.heading("1. Learn a flow")
    page.text(
        "A network learns the velocity that carries noise, at t = 0, to pictures, at t = 1: take a picture and a "
        "noise, walk a random part of the straight line between them, and predict its direction. To sample, start "
        "at fresh noise and follow the velocity. More steps follow it more closely, and cost more network calls."
    )
    page.code(
        """
        data  = rheos.data.load("mnist5k", size=16)
        field = core.Field(nets.suggest(data.shape, classes=data.classes))
        run   = train.fit(field, core.FlowMatching(), data, steps=900, out="runs/mine")
        x     = sample.draw(run.field, n=100, steps=20, solver="euler", guidance=1.5, label=3)
        """.replace("        ", "")
    )
    for steps in STEPS:
        tour.say(f"Sampling with {steps} step{'s' * (steps > 1)}.")
        solution = tour.sample(tour.run.field, options.samples, steps)
        row = tour.measure("learned", tour.run, solution, steps)
        if steps in (1, 20):
            tour.poster[f"learned, {steps} step{'s' * (steps > 1)}"] = solution.x[:20]  # type: ignore[index]
        caption = f"{steps} step{'s' * (steps > 1)}, {row['evaluations']:g} network calls a sample"
        page.picture(tour.picture(solution.x[:20]), caption, sharp=True)  # type: ignore[index]
