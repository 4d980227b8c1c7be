"""Makes `fixtures/run_v1`, once: a run that every later version must load and resume. Not a test.

A new format gets a fixture of its own beside the old ones: python tests/train/make_fixture.py run_v2
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from rheos import core, nets
from rheos.data import load
from rheos.sample import draw
from rheos.train import Options, fit


def main(name: str) -> None:
    """Four steps of six, so that there is something to go on with."""
    folder = Path(__file__).parent / "fixtures" / name
    if folder.exists():
        raise SystemExit(f"{folder} exists: a stored format never changes.")
    torch.manual_seed(0)
    field = core.Field(nets.MLP(2, hidden=8, depth=1), shift=2.0)
    objective = core.FlowMatching(core.Gibbs(), "logit-normal", "huber")
    options = Options(batch=8, lr=0.01, save_every=4, log_every=3, sample_every=0, keep=1, ema=0.9, warmup=1)
    data = load("moons", limit=50)
    run = fit(field, objective, data, steps=4, out=folder, options=options)
    (folder / "state" / "lock").unlink()
    (folder / "README.md").unlink()  # documents are tests, and this one names no real folder
    x = {"ema": draw(run.field, 4, steps=4), "raw": draw(run.raw, 4, steps=4)}
    save_file(x, folder / "expected.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
