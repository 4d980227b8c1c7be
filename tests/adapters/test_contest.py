"""A pipeline's network in a contest of few-step methods."""

from pathlib import Path

import torch
from torch import nn

from rheos.adapters import from_diffusers
from rheos.distill import ContestOptions, Recipe, contest

QUICK = Recipe(steps=2, solver="euler", chunk=32)


def test_a_pipeline_s_network_is_a_teacher_like_any_other(tmp_path: Path, sd3: nn.Module) -> None:
    field = from_diffusers(sd3)
    field.shape = (4, 8, 8)
    cond = {"encoder_hidden_states": torch.randn(3, 5, 16), "pooled_projections": torch.randn(3, 8)}
    options = ContestOptions((1,), ("reflow", "consistency", "splitmeanflow"), seconds=1.0, samples=4, teacher=QUICK)
    found = contest(
        field, lambda x, _, __: {"size": float(x.std())}, out=tmp_path, options=options, cond=cond, progress=False
    )
    errors = {e.method: e.error for e in found.entries}
    assert "no module that embeds the time" in errors.pop("splitmeanflow")  # where a second time enters
    assert errors == {"teacher": None, "reflow": None, "consistency": None}
