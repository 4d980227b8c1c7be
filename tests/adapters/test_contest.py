"""A pipeline's network in a contest of few-step methods."""

from pathlib import Path

import torch
from torch import nn

from rheos.adapters import from_diffusers
from rheos.distill import ContestOptions, Recipe, contest
from rheos.sample import draw
from rheos.train import load

QUICK = Recipe(steps=2, solver="euler", chunk=32)


def test_a_pipeline_s_network_is_a_teacher_like_any_other(tmp_path: Path, sd3: nn.Module) -> None:
    field = from_diffusers(sd3)
    field.shape = (4, 8, 8)
    cond = {"encoder_hidden_states": torch.randn(3, 5, 16), "pooled_projections": torch.randn(3, 8)}
    options = ContestOptions((1,), ("reflow", "consistency", "splitmeanflow"), seconds=1.0, samples=4, teacher=QUICK)
    found = contest(
        field, lambda x, _, __: {"size": float(x.std())}, out=tmp_path, options=options, cond=cond, progress=False
    )
    assert {e.method: e.error for e in found.entries} == dict.fromkeys(
        ("teacher", "reflow", "consistency", "splitmeanflow")
    )
    winner = load(tmp_path / "winner-1")  # a run like any other: nothing is handed over
    x = draw(winner.field, 2, steps=None if winner.field.times else 1, **{n: v[:2] for n, v in cond.items()})
    assert x.shape == (2, 4, 8, 8)
