"""`rheos tune`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rheos.commands import kit

if TYPE_CHECKING:
    from rheos.sample.recommendation import Recommendation, Trial
    from rheos.train import Run

__all__ = ["Options", "main"]

EXAMPLES = "rheos tune runs/mine --evaluations 4,8,16"


@dataclass(frozen=True)
class Options:
    """Find the solver and the time grid that follow a trained flow best.

    All solvers carry the same noise over all grids within each budget of network calls, and are compared with a fine
    reference. The choice is made on one half of the rows, the errors are those of the other half. It says how well the
    flow is followed, not how good its samples are: that is rheos eval.

    Args:
        run: The run directory.
        evaluations: Budgets of network calls a sample, separated by commas.
        n: Rows, half to choose on and half to measure on.
        solvers: Names of rheos list solvers, separated by commas; all with a fixed number of deterministic steps unless
            given. Euler and Heun are always among them.
        grids: Grids as rheos sample takes them, a shift after an @, separated by commas, such as uniform@3,karras:5, or
            by semicolons where one is a list of times; a choice of seven unless given.
        guidance: How strongly samples are pulled towards their label; 1 is not at all.
        temperature: What the noise at the start is multiplied by, as for rheos sample.
        label: A class by number or name, or none; every class in turn unless given.
        caption: Texts for a flow of captions, in turn, or none; those of held-out rows unless given.
        given: Rows that give what else samples depend on, as for rheos sample.
        seed: Of the first row.
        out: Folder for tune.json and tune.png; a folder "tune" in the run unless given.
        json: Print what was measured as JSON on standard output.
    """

    run: Annotated[Path, tyro.conf.Positional]
    evaluations: str = "4,8,16"
    n: int = 64
    solvers: str | None = None
    grids: str | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    label: str | None = None
    caption: tuple[str, ...] = ()
    given: str | None = None
    seed: int = 0
    out: Path | None = None
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Measure, write, say."""
    options = kit.parse(Options, argv, "tune", EXAMPLES)
    budgets = kit.numbers(options.evaluations, "--evaluations")
    if options.n < 4:
        raise kit.misuse(f"--n must be at least 4, half to choose on and half to measure on, got {options.n}.")
    from rheos.commands.given import flow_run
    from rheos.core.errors import check_choice
    from rheos.sample import SOLVERS
    from rheos.sample.grids import Grid

    solvers = None if options.solvers is None else options.solvers.split(",")
    grids = None if options.grids is None else options.grids.split(";" if ";" in options.grids else ",")
    for name in solvers or ():
        check_choice("solver", name, SOLVERS)
    for text in grids or ():
        Grid.read(text)
    run = flow_run(options.run)
    if run.field.times is not None:
        count = len(run.field.times) - 1
        raise kit.misuse(
            f"This flow was made for its own {count} steps, so there is nothing to choose:  rheos eval {options.run}"
        )
    if run.field.usual_steps <= 4:
        raise kit.misuse(
            f"A flow map jumps, and only the number of jumps can be chosen:  rheos eval {options.run} --steps 1,2,4"
        )
    found = _measure(run, options, budgets, solvers, grids)
    lines = {e: _command(options, run, found.best(e)) for e in found.evaluations if found.within(e)}
    plain = {"run": str(options.run), "n": options.n, "guidance": options.guidance, **found.to_dict(),
             "commands": {str(e): line for e, line in lines.items()}}  # fmt: skip
    files = _write(found, plain, options.out or options.run / "tune")
    if options.json:
        kit.emit({**plain, "files": [str(f) for f in files]})
        return 0
    for e in found.evaluations:
        if e in lines:
            _print(found, e, lines[e])
        else:
            kit.say(f"Within {e} network calls nothing works; tune.json says why.")
    if found.left_out:
        kit.say(f"Not tried, tune.json says why: {', '.join(found.left_out)}.")
    kit.say(f"The reference is {found.reference}, known to {found.accuracy:.2g}. Files are in {files[0].parent}.")
    return 0


def _measure(
    run: "Run", options: Options, budgets: list[int], solvers: list[str] | None, grids: list[str] | None
) -> "Recommendation":
    from rheos.commands.asked import asked
    from rheos.sample.recommend import recommend
    from rheos.show import progress_bar
    from rheos.train.drawing import told_of

    rows = asked(run, options.n, options.seed, label=options.label, caption=options.caption, given=options.given)
    if options.guidance != 1 and not rows.cond:
        raise kit.misuse("--guidance pulls samples towards their label or caption, and these have none. Leave it out.")
    seeds = [options.seed + k for k in range(options.n)]
    kit.say(f"Drawing the reference, then trying solvers and grids on {options.n} rows.")
    with progress_bar("trials", 1) as bar:
        return recommend(
            run.field,
            budgets,
            solvers=solvers,
            grids=grids,
            n=options.n,
            seed=seeds,
            guidance=options.guidance,
            progress=bar,
            **told_of(run, options.n, rows.cond, seeds, options.temperature),
        )


def _command(options: Options, run: "Run", best: "Trial") -> str:
    """The line that samples like the best trial."""
    words = ["rheos", "sample", str(options.run), "--solver", best.solver, "--steps", str(best.steps)]
    words += ["--grid", best.grid.spacing]
    if best.grid.shift != run.field.shift:
        words += ["--shift", f"{best.grid.shift:.12g}"]
    if options.guidance != 1:
        words += ["--guidance", f"{options.guidance:g}"]
    if options.temperature != 1:
        words += ["--temperature", f"{options.temperature:g}"]
    if options.label is not None:
        words += ["--label", options.label]
    if options.caption:
        words += ["--caption", *options.caption]
    if options.given is not None:
        words += ["--given", options.given]
    return shlex.join(words)


def _write(found: "Recommendation", plain: dict[str, Any], folder: Path) -> list[Path]:
    from rheos.claims.checkout import write
    from rheos.show import curves, figure_png

    files = [folder / "tune.json", folder / "tune.png"]
    write(files[0], (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    lines = found.curves()
    figure = curves(lines, "network calls", f"error against the reference, median of {found.measured_on} rows")
    write(files[1], figure_png(figure))
    return files


def _print(found: "Recommendation", budget: int, line: str) -> None:
    from rheos.sample.recommendation import HEAD

    rows = [t.cells() for t in found.shown(budget)]
    kit.table(HEAD, rows, caption=found.sentence(budget))
    print(f"\n    {line}\n")
