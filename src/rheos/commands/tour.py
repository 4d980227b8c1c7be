"""`rheos tour`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rheos.commands import kit

__all__ = ["Options", "main"]

EXAMPLES = "rheos tour; rheos tour --data my_pictures --out runs/mine"


@dataclass(frozen=True)
class Options:
    """See it all once: train a flow, sample it, straighten it, fill in what a mask hides, and write a report.

    Takes a few minutes on two CPU cores; an unfinished tour in the same folder is continued.

    Args:
        data: mnist5k, another name of rheos list data, or your own folder of pictures.
        out: Folder of the runs and of report.html.
        size: Side of the pictures in pixels; 16 for mnist5k and 32 for other data, unless given.
        steps: Training steps.
        pairs: Pairs (noise, sample) that straightening learns from.
        reflow_steps: Training steps of straightening.
        distil_steps: Training steps of each of the two distillations that follow, to one step and to two.
        plane_steps: Training steps of each of the two flows in the plane.
        samples: Samples behind each line of the table of quality.
        guidance: Scale of guidance towards the label, where the data have labels; 1 is none.
        captions: Training steps of a further chapter, on captions that become pictures of 32 × 32; 0 leaves it out,
            2000 take about six minutes on one core.
        seed: Of everything.
        json: Print what was measured as JSON on standard output.
    """

    data: str = "mnist5k"
    out: Path = Path("runs/tour")
    size: int | None = None
    steps: int = 900
    pairs: int = 3072
    reflow_steps: int = 300
    distil_steps: int = 250
    plane_steps: int = 1000
    samples: int = 1000
    guidance: float = 1.5
    captions: int = 0
    seed: int = 0
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Give the tour."""
    options = kit.parse(Options, argv, "tour", EXAMPLES)
    from rheos.tour import TourOptions, run_tour

    asked = TourOptions(**{f.name: getattr(options, f.name) for f in fields(options) if f.name != "json"})
    result = run_tour(asked, kit.say)
    if options.json:
        kit.emit({"report": str(result.report), "rows": list(result.rows), "seconds": result.seconds})
        return 0
    body = [
        (
            str(r["flow"]),
            str(r["steps"]),
            f"{r['evaluations']:g}",
            f"{r['frechet']:.3g}",
            "–" if r["recognised"] is None else f"{r['recognised']:.1%}",
            f"{r['recall']:.2f}",
            f"{r['seconds']:.0f}",
        )
        for r in result.rows
    ]
    kit.table(("flow", "steps", "network calls", "Fréchet distance", "recognised", "recall", "training s"), body)
    print(f"Open {result.report} (it took {result.seconds:.0f} s).")
    return 0
