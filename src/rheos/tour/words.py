"""An optional chapter: words become pictures, with no noise and no text inside the network."""

import torch

from rheos.data import Data, embedded, load
from rheos.data.text import EmojiCaptions
from rheos.nets import UNet, VectorEncoder, VectorTower
from rheos.show import png, upscale
from rheos.show.grids import grid
from rheos.tour.story import Tour
from rheos.train import CrossFlow, Options, SourceLosses, crossflow, fit

__all__ = ["ASKED", "words"]

ASKED = (
    "grinning face", "red apple", "green apple", "yellow heart", "blue heart", "automobile", "snowman", "dog face",
    "norway flag", "beer mug",
)  # fmt: skip
"""Captions that are shown."""
GUIDANCE = 2.0
LEFT_OUT = "People & Body"
"""Mostly one gesture in six skin tones."""


def words(tour: Tour) -> None:
    """Train a flow from captions to emoji, and sample it by caption, between captions, and by sums of captions."""
    whole = load("emoji")
    data = whole.where(k for k in whole.class_names if k != LEFT_OUT)
    data = embedded(data, EmojiCaptions())
    tour.say(f"Learning to turn {len(data):,} captions into pictures.")
    shape = data.shape
    numbers = data.x[0].numel()
    with tour.seeded():
        field = crossflow.cross_field(
            UNet(3, width=16, multipliers=(1, 2, 4, 4), classes=1),
            VectorEncoder(384, shape, hidden=256),
            VectorTower(numbers, hidden=256),
        )
    run = fit(
        field,
        CrossFlow(losses=SourceLosses(contrastive=0.1, kl=0.1)),
        data,
        steps=tour.options.captions,
        out=tour.options.out / "words",
        options=Options(seed=tour.options.seed, batch=64, sample_every=0),
        resume=True,
        progress=tour.progress,
    )
    page = tour.page.heading("5. Words into pictures")
    page.text(
        "Here the flow does not begin at noise. A small network reads the embedding of a caption (MiniLM's) and gives "
        "it the shape of a picture; the flow carries it on to the picture that the caption belongs to. The flow's "
        "network never sees the text. An indicator, learned on mismatched pairs, makes guidance possible."
    )
    page.code(
        """
        data  = rheos.data.load("emoji", embed="emoji")
        field = crossflow.cross_field(net, nets.VectorEncoder(384, data.shape), nets.VectorTower(3072))
        run   = train.fit(field, train.CrossFlow(), data, steps=2000)
        x     = run.draw(2, caption=["red apple", "beer mug"], guidance=2.0)
        """.replace("        ", "")
    )
    embed, seed = EmojiCaptions(), tour.options.seed
    source = embed(list(ASKED))
    for temperature, title in ((0.0, "from the mean of each caption's latents"), (1.0, "from a sample of them")):
        x = crossflow.generate(run.field, source, steps=25, guidance=GUIDANCE, seed=seed, temperature=temperature)
        page.picture(_sheet(data, x), f"{', '.join(ASKED)}: {title}", sharp=True)
    first, last = (crossflow.start(run.field, source[k : k + 1], temperature=0.0)[0] for k in (1, 3))
    line = crossflow.flow(run.field, crossflow.interpolate(first, last, 10), steps=25, guidance=GUIDANCE)
    page.picture(_sheet(data, line), f"From {ASKED[1]} to {ASKED[3]}: flows from between their latents", sharp=True)
    green, red, yellow = (crossflow.start(run.field, source[k : k + 1], temperature=0.0) for k in (2, 1, 3))
    total = crossflow.combine((1.0, yellow), (1.0, green), (-1.0, red))
    summed = crossflow.flow(run.field, torch.cat((yellow, green, red, total)), steps=25, guidance=GUIDANCE)
    page.picture(_sheet(data, summed), "yellow heart, green apple, red apple; and first + second - third", sharp=True)


def _sheet(data: Data, x: torch.Tensor) -> bytes:
    return png(upscale(grid(data.to_pictures(x), 10)))
