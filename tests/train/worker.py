"""What each process of `test_distributed` runs: several trainings, one after another, a folder each."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from rheos import core, nets
from rheos.core.errors import RheosError
from rheos.data import load
from rheos.train import Options, fit

OPTIONS = {
    "batch": 8, "lr": 2e-3, "warmup": 2, "ema": 0.9, "log_every": 4, "save_every": 3, "sample_every": 6,
    "sample_count": 10, "keep": 9,
}  # fmt: skip


def field(seed: int = 0) -> core.Field:
    """A small U-Net; processes other than the first begin with weights that must not matter."""
    torch.manual_seed(seed)
    return core.Field(nets.UNet(1, width=8, multipliers=(1, 2), heads=2, classes=10))


def train(out: Path, coupling: Any, steps: int = 8, seed: int = 0, **options: Any) -> Any:
    """Eight steps on real digits."""
    objective = core.FlowMatching(coupling)
    how = Options(**{**OPTIONS, **options})
    return fit(field(seed), objective, load("digits"), steps=steps, out=out, options=how, resume=True, progress=False)


JOBS: dict[str, dict[str, Any]] = {
    "plain": {"coupling": "independent"},
    "gibbs": {"coupling": core.Gibbs()},
    "sharded": {"coupling": core.Gibbs(), "parallel": "fsdp"},
    "accumulated": {"coupling": core.Gibbs(), "accumulate": 2},
    "uneven": {"coupling": "exact-ot", "batch": 9},
    "resumed": {"coupling": core.Gibbs(), "steps": (4, 8), "decay": "constant"},
    "resumed-sharded": {"coupling": core.Gibbs(), "steps": (4, 8), "decay": "constant", "parallel": "fsdp"},
}


def main(folder: Path, names: list[str]) -> None:
    """All named jobs, then one that must be refused in every process."""
    rank = int(os.environ.get("RANK", "0"))
    for name in names:
        job = dict(JOBS[name])
        for steps in job.pop("steps", (8,)):
            run = train(folder / name, steps=steps, seed=rank, **job)
        for kind, flow in (("field", run.field), ("raw", run.raw)):
            total = sum(float(p.double().sum()) for p in flow.parameters())
            (folder / f"{name}.{kind}.{rank}").write_text(repr(total))
    try:
        train(folder / names[0], core.Sinkhorn(0.5), seed=rank)
    except RheosError as error:
        (folder / f"refused.{rank}").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
