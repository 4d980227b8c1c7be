"""Third chapter: fill in what a mask hides."""

from typing import Any

import torch

from rheos.guide import Inpaint, restore
from rheos.show import beside, grid, png, upscale
from rheos.tour.story import Tour

__all__ = ["complete"]


def complete(tour: Tour) -> None:
    """Hide the lower half of held-out pictures and let the flow complete them."""
    run = tour.run
    assert run is not None
    tour.say("Filling in hidden halves.")
    n = min(10, len(tour.held_out))
    batch = tour.held_out.batch(torch.linspace(0, len(tour.held_out) - 1, n).long())
    height = batch.x.shape[2]
    mask = torch.zeros(1, 1, height, 1)
    mask[:, :, : height // 2] = 1
    given: dict[str, Any] = {"steps": 25, "solver": "euler", "guidance": tour.guided, **batch.cond}
    rows = [restore(run.field, batch.x, Inpaint(mask), seed=seed, **given) for seed in (1, 2, 3)]
    hidden = torch.where(mask.bool(), batch.x, 0.0)
    show = {"held-out pictures": batch.x, "what the flow saw": hidden}
    show |= {f"completion {k + 1}": x for k, x in enumerate(rows)}
    tour.poster["lower halves filled in"] = torch.cat((hidden[:5], rows[0][:5], hidden[5:], rows[0][5:]))
    page = tour.page.heading("3. Steer it")
    page.text(
        "A plug-in of the sampling loop changes the course without touching the network. This one keeps the upper half "
        "of held-out pictures and lets the flow fill in the rest: three different seeds, three different completions."
    )
    page.code("x = guide.restore(run.field, y, guide.Inpaint(mask), steps=25, guidance=1.5, label=label)")
    sheets = {name: upscale(grid(tour.train.to_pictures(x), 2), 150) for name, x in show.items()}
    page.picture(png(beside(sheets)), "Upper halves kept, lower halves filled in", width=860)
