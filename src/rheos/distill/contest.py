r"""A contest: every few-step method on one field, with one budget of time, measured alike.

Which method wins depends on the field, the data and the budget, so the tool measures. The budget is cut into a part for
the teacher's samples, which all methods on pairs share, and equal parts for the methods; a method that must be trained
anew for each number of evaluations cuts its part again. Steps fit the time: a few are timed first.

Winners are chosen on one set of samples and reported on another.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, final

from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import OptionError, check_choice
from rheos.core.field import Field
from rheos.data.dataset import Data
from rheos.distill.contenders import METHODS, Contender, Stage
from rheos.distill.measuring import Entry, Judge, Measure, repeated
from rheos.distill.notes import Note, agree, alone
from rheos.distill.pairs import Recipe, balanced, fingerprint, generate
from rheos.distill.store import PairStore
from rheos.distill.timing import LEAST, Costs, affordable, call_seconds, calls_of
from rheos.distill.trainings import PARTS, Made, least_budget, planned, told, trained, trainings
from rheos.train import Options, Run, Sampling
from rheos.train.interrupt import going_on

__all__ = ["Contest", "ContestOptions", "Entry", "Judge", "Seconds", "contest"]


@final
@dataclass(frozen=True)
class ContestOptions:
    """What is tried.

    Args:
        evaluations: Numbers of network calls a sample.
        methods: Names of `rheos.distill.METHODS`; empty: all.
        seconds: Of the whole contest, but for measuring.
        guidance: Of the teacher, baked into every student; 1: none.
        samples: Behind each line of the table.
        teacher: How the teacher's samples are drawn.
        seed: Of everything.

    Raises:
        OptionError: For counts below 1 or a time that is not positive.
        UnknownOptionError: For an unknown method.
    """

    evaluations: tuple[int, ...] = (1, 2, 4)
    methods: tuple[str, ...] = ()
    seconds: float = 600.0
    guidance: float = 1.0
    samples: int = 1000
    teacher: Recipe = Recipe()  # noqa: RUF009  # frozen
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.evaluations or min(self.evaluations) < 1 or len(set(self.evaluations)) < len(self.evaluations):
            raise OptionError(f"evaluations are different numbers of at least 1, got {self.evaluations}.")
        if not self.seconds > 0 or self.samples < 4:
            raise OptionError(f"seconds must be positive and samples at least 4, got {self.seconds}, {self.samples}.")
        for name in self.methods:
            check_choice("method", name, METHODS)
        if len(set(self.methods)) < len(self.methods):
            raise OptionError(f"Each method is tried once, got {self.methods}.")


class Seconds(NamedTuple):
    """What a contest took beside its trainings, whose lines have their own.

    Args:
        pairs: Drawing the teacher's samples, in all calls.
        timing: Trials of steps, in this call.
        measuring: Drawing samples of all lines and looking at them, in this call; the budget does not count it.
    """

    pairs: float = 0.0
    timing: float = 0.0
    measuring: float = 0.0


@final
@dataclass(frozen=True)
class Contest:
    """What a contest found.

    Args:
        entries: The teacher's lines first, then the methods'.
        pairs: Teacher samples that the methods on pairs learned from.
        seconds: Of all but the trainings.
        runs: Winner by number of evaluations; each draws with so many evaluations of its method's solver.
        pictures: Some samples by method and number of evaluations, from the same noise.
        reference: The teacher as its own recipe draws it, with many more calls; it takes no part.
        needed: The budget, in seconds, that would hold the least work of all; 0 where the one that was given does.
    """

    entries: tuple[Entry, ...]
    pairs: int
    seconds: Seconds
    runs: Mapping[int, Run]
    pictures: Mapping[tuple[str, int], Tensor]
    reference: Entry | None = None
    needed: float = 0.0

    def best(self, evaluations: int) -> Entry | None:
        """The winner of one number of evaluations, by the samples for choosing; None where nothing worked."""
        lines = [e for e in self.entries if e.evaluations == evaluations and e.steps and e.figures is not None]
        fit = [e for e in lines if math.isfinite(e.chosen_by)]
        return min(fit, key=lambda e: e.chosen_by, default=None)

    def teacher_leads(self, evaluations: int) -> bool:
        """Whether no student is better than the untrained teacher at as many steps, by what is reported."""
        lines = [e for e in self.entries if e.evaluations == evaluations]
        teacher = min((e.first for e in lines if e.method == "teacher"), default=math.inf)
        return not any(e.first < teacher for e in lines if e.method != "teacher")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        counts = dict.fromkeys(e.evaluations for e in self.entries)
        return {
            "entries": [_plain(e) for e in self.entries],
            "reference": None if self.reference is None else _plain(self.reference),
            "pairs": self.pairs,
            "pair_seconds": self.seconds.pairs,
            "timing_seconds": self.seconds.timing,
            "measuring_seconds": self.seconds.measuring,
            "needed_seconds": self.needed,
            "winners": {str(k): e.method for k in self.runs if (e := self.best(k)) is not None},
            "teacher_leads": [k for k in counts if self.teacher_leads(k)],
        }


def _plain(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "over": entry.over}


def contest(
    teacher: Run | Field,
    judge: Judge,
    data: Data | None = None,
    *,
    out: str | Path,
    options: ContestOptions | None = None,
    cond: Cond | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Contest:
    """Try few-step methods on a field, and keep the winners as runs.

    In `out`: `pairs`, a folder a training, and `winner-K`, a run for each number of evaluations. A contest that was
    interrupted is continued there, and its seconds add up; one that is asked for something else needs another folder.

    Args:
        teacher: A run or a field on an affine path; `rheos.adapters.from_diffusers` makes one of a pipeline.
        judge: Measures samples.
        data: What the teacher learned from; its own samples unless given.
        out: A folder.
        options: What is tried.
        cond: Conditions to draw with, repeated as often as needed; labels are balanced unless given.
        say: Told what is being done.
        progress: Whether bars are drawn; None: on terminals.

    Raises:
        RunError: If `out` holds a contest with another budget, guidance or seed, another teacher, data, conditions or
            recipe, or other methods or evaluations, between which the budget was cut otherwise; or if another process
            is at work there.
        RheosError: If the teacher cannot be sampled; a method that cannot run here has a line that says why.
    """
    with alone(Path(out)), going_on(f"The same contest, asked for again in {out}, goes on from there"):
        return _held(teacher, judge, data, Path(out), options or ContestOptions(), cond, say, progress)


def _held(
    teacher: Run | Field,
    judge: Judge,
    data: Data | None,
    folder: Path,
    how: ContestOptions,
    cond: Cond | None,
    say: Callable[[str], None],
    progress: bool | None,
) -> Contest:
    """The contest in a folder that nobody else uses."""
    field = teacher.field if isinstance(teacher, Run) else teacher
    methods = [METHODS[name] for name in how.methods or METHODS]
    recipe = replace(how.teacher, guidance=how.guidance, seed=how.seed + 1)
    work = trainings(methods, how.evaluations, how.seconds, folder)
    agree(folder, _rules(field, data, how, cond), {one.note: one.share for one in work})
    call = call_seconds(field, cond)
    rows = affordable(field, recipe, PARTS[0] * how.seconds, call, folder / "pairs")
    measure = Measure(judge, how.samples, how.seed, balanced(field, how.samples, repeated(cond, how.samples)))
    many, calls = calls_of(field, recipe), 2 * how.samples * sum(how.evaluations)  # of a sample; of a method's lines
    own = calls * (1 if how.guidance == 1 else 2) + many * how.samples
    say(f"Measuring the teacher takes about {_about(call * own)}, and the judge's looks.")
    entries, runs, pictures = list[Entry](), dict[tuple[str, int], Run](), dict[tuple[str, int], Tensor]()
    for k in how.evaluations:
        entry, pictures["teacher", k] = measure.line("teacher", k, field, "euler", how.guidance)
        entries.append(entry)
    reference = measure.reference(field, recipe)
    looks = 2 * len(methods) * len(how.evaluations) * measure.look
    say(
        f"Drawing {rows} samples of the teacher takes about {_about(rows * call * many)}, training and its timing "
        f"{_about(PARTS[1] * how.seconds)}; measuring the methods takes {_about(len(methods) * call * calls + looks)} "
        "more."
    )
    note = Note(folder / "pairs.json", folder / "pairs")
    with note.timed():
        store = generate(teacher, folder / "pairs", rows, recipe=recipe, cond=repeated(cond, rows))
    stage = Stage(teacher, store, data or own_samples(store), how.guidance, cond, Options(
        sample_every=0, save_every=0, seed=how.seed, lr=5e-4), progress, how.evaluations)  # fmt: skip
    costs = Costs(stage, call)
    plans = planned(work, costs, say)
    needed = least_budget(work, plans, costs.seconds, how.seconds)
    if needed:
        say(
            f"Warning: in equal shares of {how.seconds:g} s some trainings do their least, {LEAST} steps, and take "
            f"longer. A budget of {_about(needed)} has room for the least of all; more than that is worth measuring."
        )
    for method in methods:
        name = method.name
        done = [trained(one, plans[one.folder], stage, say) for one in work if one.method is method]
        for k, made in zip(how.evaluations, done * (len(how.evaluations) if method.every else 1), strict=True):
            entry, shown = _measured(measure, method, k, made)
            entries.append(entry)
            if shown is not None and isinstance(made.run, Run):
                runs[name, k], pictures[name, k] = made.run, shown
    spent = Seconds(note.seconds, costs.seconds, measure.seconds)
    found = Contest(tuple(entries), len(store), spent, {}, pictures, reference, needed)
    winners = dict[int, Run]()
    for k in how.evaluations:
        if (best := found.best(k)) is not None:
            winners[k] = runs[best.method, k].sampled_by(Sampling(k, best.solver))
            _replace(winners[k], folder / f"winner-{k}")
    return replace(found, runs=winners)


def _measured(measure: Measure, method: Contender, k: int, made: Made) -> tuple[Entry, Tensor | None]:
    """The line of a training, and a few samples; None of one that failed, or whose student diverged."""
    if isinstance(made.run, str):
        return made.failed(method.name, k, made.run), None
    try:
        entry, shown = measure.line(method.name, k, made.run.field, method.solver)
    except Exception as error:
        return made.failed(method.name, k, told(error)), None
    return replace(entry, steps=made.steps, seconds=made.seconds, share=made.share), shown


def _about(seconds: float) -> str:
    """Seconds for people: rounded up to two digits."""
    if seconds < 1:
        return "a second"
    unit = 10 ** max(0, math.floor(math.log10(seconds)) - 1)
    return f"{math.ceil(seconds / unit) * unit} s"


def _replace(run: Run, place: Path) -> None:
    """The run at a place, whole before what was there goes; what others put beside it stays, such as samples."""
    fresh, old = (place.with_name(f".{place.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    run.save(fresh)
    if place.exists():
        for entry in list(place.iterdir()):
            if not (fresh / entry.name).exists():
                entry.replace(fresh / entry.name)
        place.replace(old)
    fresh.replace(place)
    shutil.rmtree(old, ignore_errors=True)


def own_samples(store: PairStore) -> Data:
    """A store's samples without their noise, as data."""
    data = store.data()
    return replace(data, conditions=tuple(n for n in data.conditions or () if n not in ("x0", "seed")))


def _rules(field: Field, data: Data | None, how: ContestOptions, cond: Cond | None) -> dict[str, Any]:
    """What a contest that is continued may not change."""
    plain = {k: v for k, v in asdict(how.teacher).items() if k not in ("guidance", "seed")}
    return {
        "budget": f"{how.seconds:g} s",
        "guidance": how.guidance,
        "seed": how.seed,
        **{f"value of teacher.{k}": v for k, v in plain.items()},
        "teacher fingerprint": fingerprint(field, {}),
        "conditions fingerprint": fingerprint(field, cond) if cond else None,
        "data fingerprint": None if data is None else data.fingerprint,
    }
