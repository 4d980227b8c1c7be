"""`rheos distill`."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rheos.commands import kit

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.core.base import Cond
    from rheos.core.field import Field
    from rheos.data import Data
    from rheos.distill import Contest
    from rheos.distill.contest import Entry, Judge
    from rheos.train import Run

__all__ = ["Options", "main", "seconds_of"]

FEWEST = 40
"""Rows to compare with: half to choose by, half to report."""

EXAMPLES = "rheos distill runs/mine --evaluations 1,2,4 --budget 10m"


@dataclass(frozen=True)
class Options:
    """Make a trained flow few-step: try the methods at equal budget on this flow, and keep the best.

    Students are measured against rows that training held out; winners are chosen on one half of them and reported on
    the other. The run of each winner is written beside the table, the plot and the pictures, and remembers its steps
    and solver. A contest that was interrupted goes on when the command is given again; another budget, guidance or seed
    wants another --out.

    Args:
        run: The run directory, or a folder with a diffusers pipeline.
        evaluations: Numbers of network calls a sample, separated by commas.
        methods: Names separated by commas, or all.
        budget: Time for the teacher's samples, timing and all trainings together, such as 90s, 10m or 2h. What
            measuring takes besides is told before.
        guidance: Of the teacher, baked into the students; 1 is none.
        n: Samples behind each line.
        prompts: For a pipeline: a text file with one prompt a line.
        seed: Of everything.
        out: Folder for the results; a folder "distill" in the run unless given.
        json: Print what was measured as JSON on standard output.
    """

    run: Annotated[Path, tyro.conf.Positional]
    evaluations: str = "1,2,4"
    methods: str = "all"
    budget: str = "10m"
    guidance: float = 1.0
    n: int = 1000
    prompts: Path | None = None
    seed: int = 0
    out: Path | None = None
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Try, measure, write."""
    options = kit.parse(Options, argv, "distill", EXAMPLES)
    counts, seconds = kit.numbers(options.evaluations, "--evaluations"), seconds_of(options.budget)
    if options.n < 20:
        raise kit.misuse(f"--n must be at least 20, half to choose by and half to report, got {options.n}.")
    from rheos.distill import METHODS, ContestOptions, contest
    from rheos.train.interrupt import going_on

    names = _names(options.methods)
    how = ContestOptions(
        evaluations=tuple(counts), methods=names, seconds=seconds, guidance=options.guidance, samples=options.n,
        seed=options.seed,
    )  # fmt: skip
    out = options.out or options.run / "distill"
    teacher, data, cond, judge = _subject(options)
    kit.say(f"{len(names or METHODS)} methods, {seconds:g} s in all, and some time for measuring.")
    again = f"Go on:  rheos distill {shlex.join(argv)}"
    try:
        with going_on(again):
            found = contest(teacher, judge, data, out=out, options=how, cond=cond, say=kit.say)
    except KeyboardInterrupt:
        if (out / "pairs" / "store.json").exists():
            kit.say(f"Stopped; what was made in {out} is kept. {again}")
        raise
    files = _write(found, out, counts, teacher)
    if options.json:
        kit.emit({"run": str(options.run), "out": str(out), **found.to_dict(), "files": [str(f) for f in files]})
        return 0
    for k in counts:
        _print(found, k)
        best = found.best(k)
        if best is not None:
            print("\n" + _use(teacher, out / f"winner-{k}") + "\n")
    took = found.seconds
    kit.say(
        f"{found.pairs} samples of the teacher took {took.pairs:.0f} s, timing {took.timing:.0f} s, measuring "
        f"{took.measuring:.0f} s. Files are in {out}."
    )
    if found.needed:
        kit.say(f"The budget did not hold the least work of all methods: --budget {math.ceil(found.needed)}s would.")
    return 0


def _use(teacher: "Run | Field", winner: Path) -> str:
    """How the winner is sampled."""
    from rheos.train import Run

    prompt = "" if isinstance(teacher, Run) or not teacher.conditions else " --caption 'a prompt'"
    return f"    rheos sample {shlex.quote(str(winner))}{prompt}"


def _names(text: str) -> tuple[str, ...]:
    """Methods that are asked for; none for all of them."""
    if text.strip() == "all":
        return ()
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise kit.misuse("--methods names no method: names separated by commas, or all.")
    return names


def seconds_of(text: str) -> float:
    """A time such as 90s, 10m, 2h, or plain seconds.

    Example:
        >>> seconds_of("10m")
        600.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise kit.misuse(f"--budget is a time such as 90s, 10m or 2h, got {text!r}.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _subject(options: Options) -> "tuple[Run | Field, Data | None, Cond | None, Judge]":
    """Teacher, data, conditions, and what samples are measured with."""
    if (options.run / "model_index.json").is_file():
        return _pipeline(options)
    if options.prompts is not None:
        raise kit.misuse("--prompts belongs to a diffusers pipeline; this is a run.")
    from rheos.commands.given import flow_run
    from rheos.commands.yardstick import Yardstick

    run = flow_run(options.run)
    run.check_guidance(options.guidance)
    cond = _conditions(run)
    yard = Yardstick(run)
    if len(yard.real) < FEWEST:
        held = f"Only {len(yard.real)} rows were held out"
        kit.say(f"{held}, so samples are compared with training rows: memorising is not seen.")
        yard = yard.trained()
    if len(yard.real) < FEWEST:
        raise kit.misuse(f"Methods are compared on {FEWEST} rows at least; this run trained on {len(yard.real)}.")

    def judge(x: "Tensor", label: "Tensor | None", part: str) -> Mapping[str, float]:
        half = yard.part(0 if part == "choose" else 1)
        figures = half.measure(run.decode(x), label)
        order = ("frechet", "recall", "recognised", "sliced_wasserstein")
        return {name: figures[name] for name in order if figures.get(name) is not None}

    own = run.config["data"]["spec"].get("source") is not None  # a student's pairs are not read again
    return run, run.data() if own else None, cond, judge


def _conditions(run: "Run") -> "Cond | None":
    """Captions, maps and the like of the data that the teacher draws with; None for labels, which are balanced.

    Raises:
        OptionError: If the flow does not begin at noise.
    """
    import torch

    from rheos.train.beginnings import from_noise

    if not from_noise(run.law):
        raise kit.misuse(
            "Few-step methods learn from pairs of noise and sample, and this flow does not begin at noise. The solver "
            f"that needs the fewest calls is found by:  rheos tune {run.path}"
        )
    if not run.field.conditions - {"label"}:
        return None
    columns = run.real().columns
    return {name: v for name in sorted(run.field.conditions) if isinstance(v := columns[name], torch.Tensor)}


def _pipeline(options: Options) -> "tuple[Field, None, Cond | None, Judge]":
    """A pipeline as a field; students are compared with its own samples."""
    import torch

    from rheos.adapters import from_diffusers, open_pipeline
    from rheos.metrics import sliced_wasserstein
    from rheos.sample import draw

    field = from_diffusers(open_pipeline(options.run))
    cond: Cond | None = None
    if field.conditions:
        if options.prompts is None or not options.prompts.is_file():
            raise kit.misuse("This pipeline needs words: --prompts FILE, one prompt a line.")
        lines = [line.strip() for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise kit.misuse(f"--prompts {options.prompts} holds no prompt: one a line.")
        cond = field.encode_prompt(lines)
    n = min(options.n, 256)
    index = torch.arange(n) % (len(next(iter(cond.values()))) if cond else n)
    given: dict[str, Any] = {name: v[index] for name, v in (cond or {}).items()}
    real = [draw(field, n, steps=20, seed=options.seed + 5 + k, guidance=options.guidance, **given) for k in (0, 1)]

    def judge(x: "Tensor", label: "Tensor | None", part: str) -> Mapping[str, float]:
        return {"sliced_wasserstein": sliced_wasserstein(x.float(), real[part == "report"].float())}

    return field, None, cond, judge


def _write(found: "Contest", out: Path, counts: list[int], teacher: "Run | Field") -> list[Path]:
    from rheos.core.files import write_whole
    from rheos.show import curves, figure_png

    files = [out / "contest.json", out / "contest.png"]
    write_whole(files[0], kit.plain(found.to_dict()))
    lines: dict[str, tuple[list[float], list[float]]] = {}
    name = "quality"
    reference = () if found.reference is None else (replace(found.reference, method=_own_name(found.reference)),)
    for e in (*found.entries, *reference):
        if e.figures is not None:
            xs, ys = lines.setdefault(e.method, ([], []))
            name, value = next(iter(e.figures.items()))
            xs.append(e.evaluations)
            ys.append(value)
    from rheos.claims.checkout import write

    figure = curves(lines, "network evaluations", name)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the lines
    figure.set_figwidth(6.4)
    write(files[1], figure_png(figure))
    return [*files, *_pictures(found, out, counts, teacher)]


def _pictures(found: "Contest", out: Path, counts: list[int], teacher: "Run | Field") -> list[Path]:
    """A row of samples a method, a file for each number of evaluations; all from the same noise."""
    import torch

    from rheos.data.ranges import to_pictures
    from rheos.show import grid, save_png, upscale
    from rheos.train import Run

    files: list[Path] = []
    decode = getattr(teacher, "decode", None)  # of a run, or of a pipeline
    span = teacher.value_range if isinstance(teacher, Run) else (-1.0, 1.0)
    if decode is None:
        return files
    names: list[str] = []
    for k in counts:
        rows, names = [], []
        for (name, evaluations), x in found.pictures.items():
            if evaluations != k:
                continue
            x = decode(x[:16])
            names.append(name)
            if x.ndim != 4 or x.shape[1] not in (1, 3) or span is None:
                return files
            rows.append(to_pictures(x, span))
        path = out / f"samples-{k}.png"
        across = len(rows[0])
        save_png(path, upscale(grid(torch.cat(rows), across)), {"rheos": "distill", "rows": ", ".join(names)})
        kit.say(f"Rows of {path.name}: {', '.join(names)}.")
        files.append(path)
    return files


def _own_name(reference: "Entry") -> str:
    return f"teacher ({reference.solver})"


def _print(found: "Contest", k: int) -> None:
    entries = [e for e in found.entries if e.evaluations == k]
    known = sorted((e for e in entries if e.figures is not None), key=lambda e: e.first)
    names = list(known[0].figures or {}) if known else []
    if found.reference is not None:
        known.append(replace(found.reference, method=_own_name(found.reference)))
    rows = [
        [e.method, e.solver, f"{e.calls:g}", *(f"{(e.figures or {}).get(n, float('nan')):.4g}" for n in names),
         f"{e.parameters / 1e6:.2f} M", str(e.steps or "–"), f"{e.seconds:.0f}" + ", over budget" * e.over,
         f"{e.sampling:.2f}"]
        for e in known
    ]  # fmt: skip
    head = ["method", "solver", "calls", *names, "parameters", "steps", "training s", "sampling s"]
    best = found.best(k)
    caption = f"{k} network evaluation{'s' if k > 1 else ''} a sample."
    if best is not None:
        caption += f" Chosen on other samples: {best.method}."
    if found.teacher_leads(k):
        caption += " No student is better than the teacher itself at as many steps: a longer budget may help."
    failed = [f"{e.method}: {e.error}" for e in entries if e.error]
    kit.table(head, rows, caption=" ".join([caption, *failed]))
