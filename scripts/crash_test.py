#!/usr/bin/env python3
"""Kill a training at random moments, resume it, and compare its end with that of one that was left alone.

    python scripts/crash_test.py [--trials 20] [--seed 0] [--kills 3]

Each trial trains a small U-Net (dropout, weighted coupling, average, pictures) on real digits in a process of its own,
which is killed with SIGKILL up to `kills` times and started again with resume=True. After each kill whatever is in
the directory must load. In the end weights, average, moments, counters, metrics.jsonl and pictures must be those of
the undisturbed run to the last bit.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

STEPS = 40


def train(folder: str) -> None:
    """The run that is killed; on one thread, since it shares the machine with whoever kills it."""
    import torch

    from rheos import core, nets
    from rheos.data import load
    from rheos.train import Options, fit

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nets.UNet(1, width=8, multipliers=(1, 2), attention=(), classes=10, dropout=0.2)
    options = Options(batch=32, lr=2e-3, ema=0.95, log_every=3, save_every=2, sample_every=10, sample_count=10, keep=2)
    objective = core.FlowMatching(core.Gibbs(), "logit-normal")
    fit(core.Field(net), objective, load("digits"), steps=STEPS, out=folder, options=options, resume=True)


def end(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that a run leaves and that must not depend on its history."""
    last = folder / "state" / f"step-{STEPS:07d}"
    files = [*last.glob("*.safetensors"), *folder.glob("*.safetensors"), folder / "metrics.jsonl"]
    found = {str(f.relative_to(folder)): f.read_bytes() for f in (*files, *folder.glob("samples/*.png"))}
    state = json.loads((last / "state.json").read_text())
    del state["seconds"]
    return {**found, "state.json": json.dumps(state, sort_keys=True).encode()}


def disturbed(folder: Path, seconds: float, kills: int, rng: random.Random) -> tuple[list[str], dict[str, bytes]]:
    """A run that is killed up to `kills` times; what happened, and how it ended."""
    from rheos.core.errors import RheosError
    from rheos.train import load

    fork, story = multiprocessing.get_context("fork"), []
    while True:
        child = fork.Process(target=train, args=(str(folder),))
        child.start()
        if len(story) == kills:
            child.join()
        elif rng.random() < 0.25:  # anywhere, most likely before the first step
            child.join(rng.uniform(0.0, seconds))
        else:  # while there is a run
            while child.exitcode is None and not (folder / "config.json").exists():
                child.join(0.002)
            child.join(rng.uniform(0.0, seconds))
        if child.exitcode is not None:
            if child.exitcode:
                raise SystemExit(f"A resumed training ended with status {child.exitcode}.")
            return story, end(folder)
        child.kill()
        child.join()
        if not (folder / "config.json").exists():
            story.append("before it began")
            continue
        try:
            story.append(f"step {load(folder).step}")
        except RheosError as error:
            raise SystemExit(f"After a kill the directory does not load: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Print a line a trial; 0 if all ended like the undisturbed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    import PIL.PngImagePlugin  # noqa: F401

    from rheos.data import load

    load("digits")  # children find everything loaded: a kill then hits training, not importing

    rng, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        begun = time.perf_counter()
        _, want = disturbed(root / "undisturbed", 0.0, 0, rng)
        seconds = time.perf_counter() - begun
        print(f"undisturbed: {STEPS} steps in {seconds:.1f} s, {len(want)} files")
        print(f"{'trial':>5}  {'seconds':>7}  {'equal':>5}  killed, and resumed from")
        for trial in range(options.trials):
            begun = time.perf_counter()
            story, got = disturbed(root / str(trial), 0.5 * seconds, options.kills, rng)
            differ = sorted(n for n in want.keys() | got.keys() if want.get(n) != got.get(n))
            bad += bool(differ)
            verdict = "no" if differ else "yes"
            print(
                f"{trial:>5}  {time.perf_counter() - begun:7.1f}  {verdict:>5}  {', '.join(story) or 'never'}",
                flush=True,
            )
            if differ:
                print(f"       differ: {', '.join(differ)}")
    print(f"{options.trials - bad} of {options.trials} trials ended bit for bit like the undisturbed run.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
