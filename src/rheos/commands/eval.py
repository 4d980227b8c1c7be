"""`rheos eval`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rheos.commands import kit
from rheos.commands.asked import Asked, asked
from rheos.commands.yardstick import Yardstick

if TYPE_CHECKING:
    from rheos.train import Run

__all__ = ["Options", "main"]

FEW = 20
"""Below so many held-out rows it is said that figures say little."""
NEIGHBOURS = 5
"""As many rows, and a feature net's figures are not defined."""
EXAMPLES = "rheos eval runs/mine --n 2000 --steps 1,2,4,20"


@dataclass(frozen=True)
class Options:
    """Measure a trained flow: quality of its samples against the number of network calls.

    Samples are compared with the rows that training held out. For digits, mnist5k and emoji distances are measured in
    the features of a small net that ships with the library; for other data by the sliced Wasserstein distance of the
    numbers themselves. The line "real" says what rows of the training set would get: no samples do much better.

    Samples that depend on captions, masks or other columns are drawn for those of held-out rows; "found" and "in 5" say
    how often a sample's nearest picture, or one of its five nearest, among these rows is the one it was drawn for.

    Args:
        run: The run directory.
        n: Samples a line.
        steps: Numbers of steps, separated by commas; 1,2,4,20 unless given, 1,2,4 for a flow map, and its own number
            for a flow that was made for certain steps, such as a winner of rheos distill.
        solver: A name of rheos list solvers; unless given, the one that the flow was made for, or euler.
        guidance: How strongly samples are pulled towards their label; 1 is not at all.
        temperature: What the noise at the start is multiplied by, as for rheos sample.
        seed: Of the noise, the same for every line.
        batch: Rows at a time, to bound memory.
        json: Print the lines as JSON on standard output.
    """

    run: Annotated[Path, tyro.conf.Positional]
    n: int = 1000
    steps: str | None = None
    solver: str | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    batch: int = 250
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Draw, measure, print."""
    options = kit.parse(Options, argv, "eval", EXAMPLES)
    counts = None if options.steps is None else kit.numbers(options.steps, "--steps")
    if options.n < 20 or options.batch < 1:
        raise kit.misuse(f"--n must be at least 20 and --batch at least 1, got {options.n} and {options.batch}.")
    from rheos.commands.given import flow_run
    from rheos.core.errors import check_choice
    from rheos.sample import MAPS, SOLVERS

    if options.solver is not None:
        check_choice("solver", options.solver, SOLVERS | MAPS)
    run = flow_run(options.run)
    if options.solver is None:
        own = run.sampling.solver or ("jump" if run.field.usual == "jump" else "euler")
        options = replace(options, solver=own)
    held, rows = Yardstick(run), asked(run, options.n)
    yard = _enough(held)
    lines = [{"steps": None, "network_calls": 0.0, "seconds": 0.0, **yard.floor(options.n)}]
    for steps in counts or _usual(run):
        kit.say(f"Drawing {options.n} samples with {steps} step{'s' if steps > 1 else ''} of {options.solver}.")
        lines.append({"steps": steps, **_line(run, (yard, held), rows, steps, options)})
    if options.json:
        about = {"run": str(options.run), "n": options.n, "solver": options.solver, "guidance": options.guidance}
        against = {"real_rows": len(yard.real), "held_out": yard.fair, "features": yard.name}
        kit.emit({**about, **against, "lines": lines})
        return 0
    _print(lines, yard, rows)
    return 0


def _usual(run: "Run") -> list[int]:
    """Numbers of steps that say something of this flow: its own, or few and many."""
    own = run.sampling.steps if run.field.times is None else len(run.field.times) - 1
    return [own] if own is not None else [1, 2, 4, *([20] if run.field.usual_steps > 4 else [])]


def _enough(held: Yardstick) -> Yardstick:
    """What samples are compared with: the held-out rows, or those of training where a feature net needs more."""
    n, fair = len(held.real), held.fair
    if fair and n < FEW:
        kit.say(
            f"{_rows(n, 'row')} held out, so the figures say little. Hold more out in training: "
            "--set 'data.split=[\"train\", 0.3, 0]'."
        )
    if held.net is None or n > NEIGHBOURS or not fair:
        return held
    kit.say(f"The figures need more than {NEIGHBOURS} rows, so samples are compared with training rows.")
    return held.trained()


def _rows(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _line(run: "Run", yards: tuple[Yardstick, Yardstick], rows: Asked, steps: int, options: Options) -> dict[str, Any]:
    from rheos.train import draw_run

    yard, held = yards
    guidance = options.guidance if rows.cond else 1.0
    begun = time.perf_counter()
    drawn = draw_run(
        run, options.n, rows.cond, steps=steps, solver=options.solver, guidance=guidance, seed=options.seed,
        temperature=options.temperature, batch=min(options.batch, options.n),
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    labels = rows.labels
    if labels is None and rows.index is not None:
        labels = held.labels(rows.index)  # a caption's picture should be of its class
    figures = yard.measure(drawn.x, labels)
    found = None if rows.index is None else held.follows(drawn.x, rows.index, set(rows.cond) - {"label"})
    if found is not None:
        figures["retrieval"] = found._asdict()
    return {"network_calls": drawn.solution.rows / options.n, "seconds": round(seconds, 2), **figures}


def _print(lines: list[dict[str, Any]], yard: Yardstick, rows: Asked) -> None:
    against = (
        _rows(len(yard.real), "held-out row")
        if yard.fair
        else f"{_rows(len(yard.real), 'row')} that were trained on, as too few were held out: memorising is not seen"
    )
    head = ["steps", "network calls", "seconds"]
    if yard.net is None:
        head.append("sliced Wasserstein")
        caption = (
            f"Sliced Wasserstein distance of the samples' own numbers (for pictures, of pixels) to {against}; smaller "
            "is better. No feature net ships for these data; pixels show colours and layout better than shapes."
        )
    else:
        head += ["Fréchet", "kernel", "precision", "recall", "coverage", "recognised"]
        caption = (
            f"Fréchet and kernel distance: smaller is better; precision, recall, coverage: larger, at most 1. "
            f"Features of {yard.net.info or yard.net.name}, against {against}."
        )
    chance = next((line["retrieval"] for line in lines if "retrieval" in line), None)
    if chance is not None:
        head += ["found", "in 5"]
        caption += _following(chance, rows, yard)
    elif rows.index is not None:
        caption += f" Whether samples follow their {_asked_for(rows)} is not measured: two different ones are needed."
    body = [_cells(line, yard.net is not None) + _found(line) * (chance is not None) for line in lines]
    kit.table(head, body, caption=caption)


def _asked_for(rows: Asked) -> str:
    from rheos.train.drawing import CAPTIONED

    names = set(rows.cond) - {"label"}
    return "caption" if names <= set(CAPTIONED) else " and ".join(sorted(names))


def _following(chance: dict[str, Any], rows: Asked, yard: Yardstick) -> str:
    which = "held-out rows" if yard.fair else "rows"
    luck = " and ".join(f"{chance[name]:.2%}" for name in ("chance1", "chance5"))
    return (
        f" Found, in 5: samples whose nearest picture, or one of whose five nearest, of {chance['rows']} {which} has "
        f"the {_asked_for(rows)} that they were drawn for; {luck} by chance."
    )


def _found(line: dict[str, Any]) -> list[str]:
    figures = line.get("retrieval")
    return ["–", "–"] if figures is None else [f"{figures[name]:.1%}" for name in ("top1", "top5")]


def _cells(line: dict[str, Any], features: bool) -> list[str]:
    cells = ["real" if line["steps"] is None else str(line["steps"]), f"{line['network_calls']:g}",
             f"{line['seconds']:.1f}"]  # fmt: skip
    if not features:
        return [*cells, f"{line['sliced_wasserstein']:.4f}"]
    error = "" if line["frechet_error"] is None else f" ± {line['frechet_error']:.2g}"
    known = "–" if line["recognised"] is None else f"{line['recognised']:.1%}"
    shares = [f"{line[name]:.3f}" for name in ("precision", "recall", "coverage")]
    return [*cells, f"{line['frechet']:.3g}{error}", f"{line['kernel']:.3g}", *shares, known]
