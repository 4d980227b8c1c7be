"""Second chapter, first half: straighten the flow by one reflow, and sample in one step."""

from rheos.distill import PairStore, Recipe, generate, reflow
from rheos.show import progress_bar
from rheos.tour.shorten import shorten
from rheos.tour.story import Tour
from rheos.train import Options

__all__ = ["straighten"]

STEPS = 4
"""Of midpoint: on such digits the samples were as good as those of eight."""


def straighten(tour: Tour) -> None:
    """Pairs, reflow, one step; then what is best in one step and in two."""
    options, run = tour.options, tour.run
    assert run is not None
    pairs = _pairs(tour)
    tour.say("Straightening.")
    fast = tour.fast = reflow(
        run, pairs, steps=options.reflow_steps, out=options.out / "straight",
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
        pairs = distill.generate(run, "runs/pairs", 3072, recipe=distill.Recipe(guidance=1.5))
        fast  = distill.reflow(run, pairs, steps=300, out="runs/fast")
        x     = fast.draw(100, steps=1, label=3)
        """.replace("        ", "")
    )
    before = tour.sample(run.field, 20, 1)
    page.picture(tour.picture(before.x), "Before: one step of the learned flow", sharp=True)  # type: ignore[arg-type]
    for steps in (1, 2):
        tour.few("straightened", fast, steps)
    shorten(tour, pairs)


def _pairs(tour: Tour) -> PairStore:
    options, run = tour.options, tour.run
    assert run is not None
    tour.say(f"Drawing {options.pairs:,} pairs of noise and sample.")
    scale = options.guidance if tour.guided else 1.0
    recipe = Recipe(steps=STEPS, solver="midpoint", guidance=scale, seed=options.seed, chunk=256)
    with progress_bar("pairs", options.pairs, tour.progress) as advance:
        return generate(
            run, options.out / "pairs", options.pairs,
            recipe=recipe, class_names=tour.train.class_names, progress=advance,
        )  # fmt: skip
