"""`rheos sample`."""

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rheos.commands import kit

if TYPE_CHECKING:
    from rheos.commands.asked import Asked
    from rheos.sample import Grid
    from rheos.train import Drawn, Run

__all__ = ["Options", "main", "read_grid"]

EXAMPLES = "rheos sample runs/mine --n 16 --steps 20 --label 3 --guidance 2"


@dataclass(frozen=True)
class Options:
    """Draw samples from a trained flow.

    Row k has the seed --seed plus k, whatever its neighbours: what one picture's file says in its text fields draws
    that picture again with --n 1.

    Args:
        run: The run directory.
        n: How many.
        steps: Steps of the solver, 20 unless given (4 for a flow map); a step of heun costs two network calls, one of
            euler one. A flow that was made for certain steps, such as a winner of rheos distill, has their number.
        solver: A name of rheos list solvers; unless given, the one that the flow was made for (a winner's own, euler
            for a flow with times of its own, jump for a flow map), else heun. rheos tune says which suits a run.
        grid: The times between which it steps: uniform (unless given, or the flow's own), quadratic, logsnr, karras,
            beta, sway, with numbers such as karras:5 or sway:-0.5; or the times themselves, such as 0,0.3,1, which then
            say how many steps.
        shift: Of the grid; above 1 there are more steps near the noise. What the flow was trained with unless given.
        guidance: How strongly samples are pulled towards their label; 1 is not at all, and costs half.
        temperature: What the noise at the start is multiplied by; below 1 samples are more typical and less various;
            with 0 a flow of captions begins at each caption's mean.
        label: A class by number or name, or none; every class in turn unless given.
        caption: Texts for a flow of captions, in turn, or none; those of held-out rows unless given.
        given: Rows that give what else samples depend on (masks, small pictures, captions): a folder or file like the
            data it was trained on, or for masks their folder; held-out rows unless given.
        seed: Of the first row.
        out: Folder for the files; a folder "drawn" in the run unless given.
        format: png: a picture each and one grid; npz: all numbers in one file; auto: png where there are pictures.
        batch: Rows at a time, to bound memory.
        json: Print what was done as JSON on standard output.
    """

    run: Annotated[Path, tyro.conf.Positional]
    n: int = 16
    steps: int | None = None
    solver: str | None = None
    grid: str | None = None
    shift: float | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    label: str | None = None
    caption: tuple[str, ...] = ()
    given: str | None = None
    seed: int = 0
    out: Path | None = None
    format: Literal["auto", "png", "npz"] = "auto"
    batch: int = 256
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Draw and write."""
    options = kit.parse(Options, argv, "sample", EXAMPLES)
    if options.seed < 0:
        raise kit.misuse(f"--seed must be at least 0, got {options.seed}.")
    if options.n < 1 or options.batch < 1:
        raise kit.misuse(f"--n and --batch must be at least 1, got {options.n} and {options.batch}.")
    from rheos.commands.asked import asked
    from rheos.commands.given import flow_run
    from rheos.core.errors import check_choice
    from rheos.sample import MAPS, SOLVERS, grid_for
    from rheos.train import draw_run

    if options.solver is not None:
        check_choice("solver", options.solver, SOLVERS | MAPS)
    read_grid(options, 1.0)
    run = flow_run(options.run)
    options, grid, steps = settled(options, run)
    rows = asked(run, options.n, options.seed, label=options.label, caption=options.caption, given=options.given)
    if options.guidance != 1 and not rows.cond:
        raise kit.misuse("--guidance pulls samples towards their label or caption, and these have none. Leave it out.")
    run.check_guidance(options.guidance)
    kind = _format(run, options.format)
    begun = time.perf_counter()
    drawn = draw_run(
        run,
        options.n,
        rows.cond,
        steps=grid_for(run.field, grid, steps),
        solver=options.solver,
        guidance=options.guidance,
        temperature=options.temperature,
        seed=[options.seed + k for k in range(options.n)],
        batch=min(options.batch, options.n),
    )
    seconds = time.perf_counter() - begun
    files = _write(run, drawn, rows, options, kind, (grid, steps))
    calls = drawn.solution.rows / options.n
    if options.json:
        kit.emit({
            "run": str(options.run), "files": [str(f) for f in files], "n": options.n, "steps": steps,
            "solver": options.solver, "grid": grid.spacing, "shift": grid.shift, "guidance": options.guidance,
            "temperature": options.temperature, "network_calls": calls,
            "seeds": drawn.solution.seeds.tolist(),
            "labels": None if rows.labels is None else rows.labels.tolist(), "captions": rows.texts.get("caption"),
            "seconds": round(seconds, 2),
        })  # fmt: skip
        return 0
    print(files[0])
    kit.say(
        f"{options.n} samples by {steps} steps of {options.solver}: {calls:g} network calls a sample, "
        f"{seconds:.1f} s. Files are in {files[0].parent}."
    )
    return 0


def settled(options: Options, run: "Run") -> "tuple[Options, Grid, int]":
    """The options with a solver, the grid and its steps: what is not given is the flow's own, or the usual.

    Raises:
        OptionError: If the flow was made for another number of steps.
    """
    from rheos.sample import grid_for

    own = run.field.times if options.grid is None and options.shift is None else None
    if own is None:
        grid = read_grid(options, run.field.shift)
        if grid.steps is not None and options.steps not in (None, grid.steps):
            raise kit.misuse(
                f"--grid {options.grid} has {grid.steps} steps, and --steps says {options.steps}. Leave one out."
            )
        way = run.sampling
        steps = grid.steps or options.steps or way.steps or run.field.usual_steps
        return replace(options, solver=options.solver or way.solver or run.field.usual), grid, steps
    count = len(own) - 1 if options.steps is None else options.steps
    grid_for(run.field, count)
    text = ",".join(["0", *(repr(t) for t in own[1:-1]), "1"])  # the field's finite range cuts the ends again
    return (
        replace(options, solver=options.solver or run.sampling.solver or "euler", grid=text),
        read_grid(replace(options, grid=text), 1.0),
        count,
    )


def read_grid(options: Options, shift: float) -> "Grid":
    """The grid of --grid and --shift.

    Args:
        options: The flags.
        shift: Where neither flag gives one.

    Raises:
        OptionError: For a text that is no grid, or two shifts.
    """
    from rheos.sample import Grid

    text = options.grid or "uniform"
    if options.shift is None:
        return Grid.read(text, shift)
    if "@" in text:
        raise kit.misuse(f"--grid {text} has a shift already. Leave out --shift {options.shift:g}.")
    return Grid.read(text, options.shift)


def _format(run: "Run", asked: str) -> str:
    """What is written, checked before anything is drawn."""
    shape, span = run.field.shape or (), run.value_range
    decoded = run.codec is not None or run.prompted is not None
    pictures = decoded or (len(shape) == 3 and shape[0] in (1, 3) and span is not None)
    if asked == "auto":
        return "png" if pictures else "npz"
    if asked == "png" and not pictures:
        raise kit.misuse(f"These samples of shape {tuple(shape)} are no pictures. Use --format npz.")
    return asked


def _write(
    run: "Run", drawn: "Drawn", rows: "Asked", options: Options, kind: str, way: "tuple[Grid, int]"
) -> list[Path]:
    import numpy as np

    from rheos.claims.checkout import write
    from rheos.data.ranges import to_pictures
    from rheos.show import grid, save_png, upscale

    folder = options.out or options.run / "drawn"
    x, seeds = drawn.x, drawn.solution.seeds.tolist()
    if kind == "npz":
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"x": x.cpu().numpy(), "seed": np.array(seeds)}
        if rows.labels is not None:
            arrays["label"] = rows.labels.cpu().numpy()
        if "caption" in rows.texts:
            arrays["caption"] = np.array(rows.texts["caption"])
        np.savez(buffer, **arrays)
        path = folder / "samples.npz"
        write(path, buffer.getvalue())
        return [path]
    span = run.value_range
    assert span is not None
    pictures = to_pictures(x, span)
    about = {"rheos": "sample", "run": str(options.run), "steps": str(way[1]), "solver": str(options.solver),
             "grid": way[0].spacing, "shift": f"{way[0].shift:.12g}", "guidance": f"{options.guidance:g}",
             "temperature": f"{options.temperature:g}"}  # fmt: skip
    columns = max(1, min(16, round(math.sqrt(options.n * 1.6))))
    first = folder / "grid.png"
    save_png(first, upscale(grid(pictures, columns)), {**about, "seed": f"{seeds[0]}..{seeds[-1]}"})
    files = [first]
    for k, seed in enumerate(seeds):
        path = folder / f"{seed:06d}.png"
        save_png(path, grid(pictures[k : k + 1], 1, gap=0), {**about, "seed": str(seed), **rows.of(k)})
        files.append(path)
    return files
