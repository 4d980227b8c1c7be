"""Second chapter, second half: of the few-step methods, the ones that were best for this flow in one step and in two.

Which these are was measured once, with equal seconds for each method (docs/tour.md has the table): distillation of the
straightened flow on the teacher's own pairs, for as many steps as it will take. That is the second stage of InstaFlow
without its second set of pairs.
"""

from rheos.distill import PairStore, distil
from rheos.tour.story import Tour
from rheos.tour.table import quality_table
from rheos.train import Options

__all__ = ["shorten"]

COUNTS = (1, 2)


def shorten(tour: Tour, pairs: PairStore) -> None:
    """A student for each number of steps, and the table of what few steps give.

    Args:
        tour: After straightening.
        pairs: What straightening learned from.
    """
    options, fast = tour.options, tour.fast
    assert fast is not None
    page = tour.page
    page.text(
        "A straight flow is easy to distil: a student begins as it and learns where its own one step, or its own two, "
        "should have ended. Given equal seconds on such digits, this was the best of the few-step methods in one step, "
        "and level with the best in two."
    )
    page.code(
        """
        one = distill.distil(fast, pairs, steps=250, schedule=1, out="runs/one")
        two = distill.distil(fast, pairs, steps=250, schedule=2, out="runs/two")
        x   = one.draw(100, label=3)
        """.replace("        ", "")
    )
    for steps in COUNTS:
        tour.say(f"Distilling to {steps} step{'s' * (steps > 1)}.")
        student = distil(
            fast, pairs, steps=options.distil_steps, schedule=steps, out=options.out / f"distilled-{steps}",
            options=Options(seed=options.seed, lr=1e-3, ema=0.995, sample_every=0), progress=tour.progress,
        )  # fmt: skip
        tour.few("distilled", student, steps)
    quality_table(page, [r for r in tour.rows if r["flow"] != "learned" or r["steps"] in (*COUNTS, 20)])
    calls = 2 * pairs.about["recipe"]["steps"] * (2 if tour.guided else 1)  # midpoint has two a step, guidance doubles
    scale = f" --guidance {options.guidance:g}" if tour.guided else ""
    page.text(
        "Seconds are of each flow's own training. A distilled flow has the straightened one behind it, and both have "
        f"the {len(pairs):,} pairs, which cost {calls} network calls each. On another flow another method may "
        "win: the next line tries all of them on yours, with equal time for each, and keeps the winners as runs."
    )
    page.code(f"rheos distill {options.out / 'flow'} --evaluations 1,2,4{scale}")
