"""Second chapter: straighten the flow by one reflow, and sample in one step."""

from rheos.distill import Recipe, generate, reflow
from rheos.show import progress_bar
from rheos.tour.story import Tour
from rheos.train import Options

__all__ = ["straighten"]


def straighten(tour: Tour) -> None:
    """Pairs, reflow, one step."""
    options, run = tour.options, tour.run
    assert run is not None
    tour.say(f"Drawing {options.pairs:,} pairs of noise and sample.")
    recipe = Recipe(
        steps=8, solver="midpoint", guidance=options.guidance if tour.guided else 1.0, seed=options.seed, chunk=256
    )
    with progress_bar("pairs", options.pairs, tour.progress) as advance:
        pairs = generate(
            run.field, options.out / "pairs", options.pairs,
            recipe=recipe, class_names=tour.train.class_names, progress=advance,
        )  # fmt: skip
    tour.say("Straightening.")
    folder = options.out / "straight"
    tour.fast = reflow(
        run.field, pairs, steps=options.reflow_steps, out=folder,
        options=Options(seed=options.seed, ema=0.995, sample_every=0), progress=tour.progress,
    )  # fmt: skip
    page = tour.page.heading("2. Straighten it, and one step is enough")
    page.text(
        "The learned paths bend, so one big step misses. But noise and the sample that the flow made of it are a pair, "
        "and pairs of one flow hardly cross. Training once more on these pairs straightens the paths; the guidance "
        "that drew the pairs is learned with them, so a sample costs a single network call."
    )
    page.code(
        """
        pairs = distill.generate(run.field, "runs/pairs", 3072, recipe=distill.Recipe(guidance=1.5))
        fast  = distill.reflow(run.field, pairs, steps=450, out="runs/fast")
        x     = sample.draw(fast.field, n=100, steps=1, solver="euler", label=3)
        """.replace("        ", "")
    )
    before = tour.sample(run.field, 20, 1)
    page.picture(tour.picture(before.x), "Before: one step of the learned flow", sharp=True)  # type: ignore[arg-type]
    for steps in (1, 2):
        solution = tour.sample(tour.fast.field, options.samples, steps, guided=False)
        row = tour.measure("straightened", solution, steps)
        if steps == 1:
            tour.poster["straightened, 1 step"] = solution.x[:20]  # type: ignore[index]
        caption = f"After: {steps} step{'s' * (steps > 1)}, {row['evaluations']:g} network calls a sample, same noise"
        page.picture(tour.picture(solution.x[:20]), caption, sharp=True)  # type: ignore[index]
