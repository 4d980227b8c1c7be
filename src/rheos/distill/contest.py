r"""A contest: every few-step method on one field, with one budget of time, measured alike.

Which method wins depends on the field, the data and the budget, so the tool measures. The budget is cut into a part for
the teacher's samples, which all methods on pairs share, and equal parts for the methods; a method that must be trained
anew for each number of evaluations cuts its part again. Steps fit the time: a few are timed first.

Winners are chosen on one set of samples and reported on another.
"""

import math
import os
import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, final

from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import OptionError, RheosError, check_choice
from rheos.core.field import Field
from rheos.core.files import write_whole
from rheos.data.dataset import Data
from rheos.distill.contenders import METHODS, Contender, Stage
from rheos.distill.measuring import Entry, Judge, Measure, repeated
from rheos.distill.notes import Note, agree, alone
from rheos.distill.pairs import Recipe, balanced, fingerprint, generate
from rheos.distill.store import PairStore
from rheos.distill.timing import affordable, planned
from rheos.train import Options, Run

__all__ = ["Contest", "ContestOptions", "Entry", "Judge", "contest"]


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


@final
@dataclass(frozen=True)
class Contest:
    """What a contest found.

    Args:
        entries: The teacher's lines first, then the methods'.
        pairs: Teacher samples that the methods on pairs learned from.
        seconds: Of drawing them, in all calls.
        runs: Winner by number of evaluations.
        pictures: Some samples by method and number of evaluations, from the same noise.
        reference: The teacher as its own recipe draws it, with many more calls; it takes no part.
    """

    entries: tuple[Entry, ...]
    pairs: int
    seconds: float
    runs: Mapping[int, Run]
    pictures: Mapping[tuple[str, int], Tensor]
    reference: Entry | None = None

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
            "pair_seconds": self.seconds,
            "winners": {str(k): e.method for k in self.runs if (e := self.best(k)) is not None},
            "teacher_leads": [k for k in counts if self.teacher_leads(k)],
        }


def _plain(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "over": entry.over}


class _Made(NamedTuple):
    """A training, or why there is none."""

    run: Run | str
    share: float
    steps: int = 0
    seconds: float = 0.0

    def failed(self, name: str, k: int, error: str) -> Entry:
        """The line of one that has no figures."""
        return Entry(name, k, error=error, steps=self.steps, seconds=self.seconds, share=self.share)


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
    with alone(Path(out)):
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
    names = how.methods or tuple(METHODS)
    recipe = replace(how.teacher, guidance=how.guidance, seed=how.seed + 1)
    share = 0.8 * how.seconds / len(names)
    agree(folder, _rules(field, data, how, cond), {
        _note(place): part for name in names for place, part in _places(METHODS[name], how, share, folder)
    })  # fmt: skip
    note = Note(folder / "pairs.json", folder / "pairs")
    with note.timed():
        rows = affordable(field, recipe, 0.2 * how.seconds, cond, folder / "pairs")
        say(f"Drawing {rows} samples of the teacher.")
        store = generate(teacher, folder / "pairs", rows, recipe=recipe, cond=repeated(cond, rows))
    stage = Stage(teacher, store, data or own_samples(store), how.guidance, cond, Options(
        sample_every=0, save_every=0, seed=how.seed, lr=5e-4), progress)  # fmt: skip
    measure = Measure(judge, how.samples, how.seed, balanced(field, how.samples, repeated(cond, how.samples)))
    entries, runs, pictures = list[Entry](), dict[tuple[str, int], Run](), dict[tuple[str, int], Tensor]()
    for k in how.evaluations:
        entry, pictures["teacher", k] = measure.line("teacher", k, field, "euler", how.guidance)
        entries.append(entry)
    reference = measure.reference(field, recipe)
    for name in names:
        method = METHODS[name]
        for k, made in _trained(method, stage, how, share, folder, say):
            if isinstance(made.run, str):
                entries.append(made.failed(name, k, made.run))
                continue
            try:
                entry, pictures[name, k] = measure.line(name, k, made.run.field, method.solver)
            except Exception as error:  # a student that diverged
                entries.append(made.failed(name, k, _told(error)))
                continue
            entries.append(replace(entry, steps=made.steps, seconds=made.seconds, share=made.share))
            runs[name, k] = made.run
    found = Contest(tuple(entries), len(store), note.seconds, {}, pictures, reference)
    winners = {k: runs[e.method, k] for k in how.evaluations if (e := found.best(k)) is not None}
    for k, run in winners.items():
        _replace(run, folder / f"winner-{k}")
    return replace(found, runs=winners)


def _replace(run: Run, place: Path) -> None:
    """The run at a place, whole before what was there goes."""
    fresh = place.with_name(f".{place.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    run.save(fresh)
    shutil.rmtree(place, ignore_errors=True)
    fresh.replace(place)


def own_samples(store: PairStore) -> Data:
    """A store's samples without their noise, as data."""
    data = store.data()
    return replace(data, conditions=tuple(n for n in data.conditions or () if n not in ("x0", "seed")))


def _trained(
    method: Contender, stage: Stage, how: ContestOptions, seconds: float, folder: Path, say: Callable[[str], None]
) -> list[tuple[int, _Made]]:
    """The method's runs, or why there are none, by number of evaluations."""
    work = zip(how.evaluations, _places(method, how, seconds, folder), strict=False)
    made = [_timed(method, stage, k, share, place, say) for k, (place, share) in work]
    return [(k, made[0] if method.every else made[i]) for i, k in enumerate(how.evaluations)]


def _places(method: Contender, how: ContestOptions, seconds: float, folder: Path) -> list[tuple[Path, float]]:
    """Folder and seconds of the method's one training, or of that for each number of evaluations."""
    if method.every:
        return [(folder / method.name, seconds)]
    return [(folder / f"{method.name}-{k}", seconds / len(how.evaluations)) for k in how.evaluations]


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


def _timed(method: Contender, stage: Stage, k: int, seconds: float, folder: Path, say: Callable[[str], None]) -> _Made:
    """One training that takes so many seconds; whatever goes wrong in it ends this one alone."""
    note, steps = Note(_note(folder), folder), 0
    try:
        if note["steps"] is None:
            say(f"Timing a few steps of {folder.name}.")
            plan = planned(method, stage, k, seconds)
            note.settle(steps=plan.steps, rows=plan.rows, share=seconds)
        steps, rows = int(note["steps"]), int(note["rows"] or len(stage.pairs))
        say(f"Training {folder.name}: {steps} steps.")
        with note.timed():
            run = method.make(stage, k, steps, rows, folder)
    except Exception as error:
        say(f"{folder.name} cannot run here: {_told(error)}")
        if not isinstance(error, RheosError):  # nobody expected it
            write_whole(_note(folder).with_suffix(".error.txt"), traceback.format_exc())
        return _Made(_told(error), seconds, 0, note.seconds)
    return _Made(run, seconds, steps, note.seconds)


def _told(error: Exception) -> str:
    """An error in a line: ours are sentences, others need their kind."""
    return str(error) if isinstance(error, RheosError) else f"{type(error).__name__}: {error}"


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
