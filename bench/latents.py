"""An epoch of a latent flow from cached moments beside one that encodes every picture each time."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.harness import Ratio, in_turn
from rheos.core import Draws, FlowMatching
from rheos.data import LatentCodec, encoded, load
from rheos.nets import suggest
from rheos.train import Autoencoding
from rheos.train.lfm import latent_field

ROWS, BATCH, SIZE = 96, 32, 64


def caching() -> list[Ratio]:
    """Crops of photographs, the autoencoder that is suggested for their size, the U-Net suggested for its latents.

    Both epochs take the same optimiser steps on fresh samples of the posterior; weights are untrained, which costs the
    same. The cache is a file; the pass that fills it is not counted, its time is told.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures = load("photos", size=SIZE, limit=ROWS, conditions=[])
    codec = LatentCodec(Autoencoding().network(pictures).eval().requires_grad_(False)).fit_scale(pictures)
    with tempfile.TemporaryDirectory() as folder:
        latents = encoded(pictures, codec, cache=Path(folder) / "latents.safetensors")
        field = latent_field(suggest(latents.shape)).train()
        optimiser = torch.optim.AdamW(field.parameters(), 1e-3, fused=True)
        objective = FlowMatching()

        def learn(z: Tensor, draws: Draws) -> None:
            plan = objective.prepare(field, z, {}, draws)
            objective.loss(field, plan).value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        def epoch(batch: Callable[[Tensor, Draws], Tensor], learns: bool = True) -> None:
            for step in range(ROWS // BATCH):
                draws = Draws.training(0, step, BATCH)
                z = batch(pictures.indices(0, step, BATCH), draws.fold("data"))
                if learns:
                    learn(z, draws)

        def cached(rows: Tensor, draws: Draws) -> Tensor:
            return latents.batch(rows, draws).x

        def anew(rows: Tensor, draws: Draws) -> Tensor:
            with torch.no_grad():
                return codec.encode(pictures.batch(rows).x, draws)

        times = in_turn(
            {
                "cached": lambda: epoch(cached),
                "encoding": lambda: epoch(anew),
                "cached, data alone": lambda: epoch(cached, learns=False),
                "encoding, data alone": lambda: epoch(anew, learns=False),
            },
            repeats=5,
            warm=1,
        )
    detail = ", ".join(f"{name} {t.text(1e3, 'ms')}" for name, t in times.items())
    ratios = (a / b for a, b in zip(times["encoding"].seconds, times["cached"].seconds, strict=True))
    alone = times["encoding, data alone"].median / times["cached, data alone"].median
    return [
        Ratio(
            "latent epoch from a cache, times faster", "encoding each time", median(ratios), ">=", 5.0, "times", detail
        ),
        Ratio("latents from a cache, times faster", "encoding each time", alone, ">=", 20.0, "times", detail),
    ]
