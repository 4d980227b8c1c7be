"""`rheos train`."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheos.commands import kit

if TYPE_CHECKING:
    from rheos.commands.experiment import Experiment

__all__ = ["Options", "main"]

EXAMPLES = "rheos train --data my_pictures --size 32 --steps 2000 --out runs/mine"


@dataclass(frozen=True)
class Options:
    """Train a flow on your data: a folder of pictures, a .npz file, or a built-in set.

    A network that fits the data is chosen: a U-Net for pictures, an MLP for vectors, conditioned on the class where
    there are labels (subfolders are classes), or on captions by --set data.embed=minilm. A tenth of the rows is held
    out for rheos eval. Killed at any moment, the run goes on with --resume. On several processes: torchrun
    --nproc-per-node 2 -m rheos train ...

    Args:
        data: A folder of pictures, a .npy or .npz file, or a name of rheos list data.
        out: The run directory to make.
        steps: Optimiser steps; 2000, or as in the description, unless given.
        size: Side of square pictures in pixels; needed where the files differ in size.
        config: A JSON description to begin from: what --dry-run prints, or another run's config.json.
        set: Changes of the description, each path=value, such as options.lr=0.002 or objective.coupling=gibbs.
        resume: Go on with the run in --out.
        dry_run: Print the complete description, and train nothing.
        json: Print the result as JSON on standard output.
    """

    data: str | None = None
    out: Path | None = None
    steps: int | None = None
    size: int | None = None
    config: Path | None = None
    set: tuple[str, ...] = ()
    resume: bool = False
    dry_run: bool = False
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Train."""
    options = kit.parse(Options, kit.gather(argv, "--set"), "train", EXAMPLES)
    if options.out is None and not options.dry_run:
        raise kit.misuse("Where should the run go? Name a directory with --out, such as --out runs/mine.")
    if options.out is not None and (options.out / "config.json").exists() and not (options.resume or options.dry_run):
        raise kit.misuse(f"{options.out} holds a run already. Go on with it by --resume, or choose another --out.")
    from rheos.commands.experiment import experiment

    made = experiment(_description(options), options.set)
    if options.dry_run:
        kit.emit(made.config)
        kit.say(_summary(made))
        return 0
    kit.say(_summary(made))
    from rheos.train import fit
    from rheos.train.interrupt import going_on

    begun = time.perf_counter()
    try:
        with going_on(f"Go on:  rheos train --resume --out {options.out}"):
            run = fit(
                made.field,
                made.objective,
                made.data,
                steps=made.steps,
                out=options.out,
                options=made.options,
                resume=options.resume,
            )
    except KeyboardInterrupt:
        if options.out is not None and (options.out / "config.json").exists():
            kit.say(f"Stopped; what was learned is kept. Go on:  rheos train --resume --out {options.out}")
        raise
    loss = next((line["loss"] for line in reversed(run.metrics()) if "loss" in line), math.nan)
    seconds = time.perf_counter() - begun
    if options.json:
        kit.emit({"run": str(options.out), "step": run.step, "loss": loss, "seconds": round(seconds, 1)})
        return 0
    kit.say(f"Trained {run.step} steps in {seconds:.0f} s, the last loss is {loss:.4g}. The run is in {options.out}.")
    if made.flows:
        kit.say(f"Draw from it:  rheos sample {options.out}")
        kit.say(f"Measure it:    rheos eval {options.out}")
    else:
        source = made.config["data"]["source"]
        size = made.config["data"].get("size")
        sized = "" if size is None else f" --size {size}"
        kit.say(
            f"Learn its latents:  rheos train --data {source}{sized} --set data.codec={options.out} --out runs/latent"
        )
    return 0


def _description(options: Options) -> dict[str, Any]:
    """The description so far: the run that is resumed, or a file; the flags on top."""
    from rheos.commands.experiment import read
    from rheos.metrics.features import held_out_split

    given: dict[str, Any] = {}
    if options.config is not None:
        given = read(options.config)
    elif options.resume and options.out is not None and (options.out / "config.json").is_file():
        given = read(options.out / "config.json")
    about = dict(given.get("data") or {})
    if options.resume and about.get("codec") and not Path(about["codec"]).exists():
        about["codec"] = str(Path(str(options.out)) / "codec")  # the run's own copy
    if options.data is not None and options.data != about.get("source"):
        about = {"source": options.data, "split": held_out_split(options.data)}
    if options.size is not None:
        about["size"] = options.size
    given["data"] = about
    if options.steps is not None:
        given["steps"] = options.steps
    return given


def _summary(made: "Experiment") -> str:
    numbers = sum(p.numel() for p in made.field.parameters())
    given = f" given its {', '.join(sorted(made.field.conditions))}" if made.field.conditions else ""
    net = type(made.field.net).__name__
    from rheos.train.classwise import TRANSPORT, advice

    said = (
        None if isinstance(getattr(made.objective, "coupling", None), TRANSPORT) else advice(made.objective, made.data)
    )
    does = f"predicts {made.field.predicts}{given}" if made.flows else "learns latents"
    return (
        f"{made.data!r}{''.join(f' {note}' for note in made.data.notes)}\n"
        f"{net} with {numbers / 1e6:.2f} M parameters {does}; {made.steps} steps of "
        f"{made.options.batch} rows." + (f"\n{said}" if said else "")
    )
