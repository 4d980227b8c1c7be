r"""A contest: every few-step method on one field, with one budget of time, measured alike.

Which method wins depends on the field, the data and the budget, so the tool measures. The budget is cut into a part for
the teacher's samples, which all methods on pairs share, and equal parts for the methods; a method that must be trained
anew for each number of evaluations cuts its part again. Steps fit the time: a few are timed first.

Winners are chosen on one set of samples and reported on another.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import OptionError, RheosError, check_choice
from rheos.core.field import Field
from rheos.data.dataset import Data
from rheos.distill.contenders import METHODS, Contender, Stage
from rheos.distill.notes import Note, agree
from rheos.distill.pairs import Recipe, fingerprint, generate
from rheos.distill.store import PairStore
from rheos.sample import draw_solution
from rheos.train import Options, Run

__all__ = ["Contest", "ContestOptions", "Entry", "Judge", "contest"]

Judge = Callable[[Tensor, Tensor | None, Literal["choose", "report"]], Mapping[str, float]]
"""Figures of samples, and of their labels or None, against the real rows kept for choosing or for reporting. The first
figure decides; smaller is better."""


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
class Entry:
    """A line of the table.

    Args:
        method: Its name, or "teacher" with a solver.
        evaluations: Network calls a sample that were allowed.
        calls: Network calls a sample that were made; with guidance a teacher makes two at once.
        figures: What the judge says of a fresh set of samples; the first one decides.
        chosen_by: The first figure on the samples that winners were chosen by.
        parameters: Of the network that samples.
        steps: Optimiser steps.
        seconds: Of training and its own preparations, in all calls of a contest that was continued.
        sampling: Seconds of drawing all samples.
        error: Why there are no figures.
    """

    method: str
    evaluations: int
    calls: float = 0.0
    figures: Mapping[str, float] | None = None
    chosen_by: float = float("inf")
    parameters: int = 0
    steps: int = 0
    seconds: float = 0.0
    sampling: float = 0.0
    error: str | None = None


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
    """

    entries: tuple[Entry, ...]
    pairs: int
    seconds: float
    runs: Mapping[int, Run]
    pictures: Mapping[tuple[str, int], Tensor]

    def best(self, evaluations: int) -> Entry | None:
        """The winner of one number of evaluations, by the samples for choosing; None where nothing worked."""
        lines = [e for e in self.entries if e.evaluations == evaluations and e.steps and e.figures is not None]
        fit = [e for e in lines if math.isfinite(e.chosen_by)]
        return min(fit, key=lambda e: e.chosen_by, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"entries": [asdict(e) for e in self.entries], "pairs": self.pairs, "pair_seconds": self.seconds,
                "winners": {str(k): e.method for k in self.runs if (e := self.best(k)) is not None}}  # fmt: skip


class _Made(NamedTuple):
    run: Run
    steps: int
    seconds: float


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
            recipe, or other methods or evaluations, between which the budget was cut otherwise.
        RheosError: If the teacher cannot be sampled; a method that cannot run here has a line that says why.
    """
    how, folder = options or ContestOptions(), Path(out)
    field = teacher.field if isinstance(teacher, Run) else teacher
    names = how.methods or tuple(METHODS)
    recipe = replace(how.teacher, guidance=how.guidance, seed=how.seed + 1)
    share = 0.8 * how.seconds / len(names)
    agree(folder, _rules(field, data, how, cond), {
        _note(place): part for name in names for place, part in _places(METHODS[name], how, share, folder)
    })  # fmt: skip
    note = Note(folder / "pairs.json", folder / "pairs")
    with note.timed():
        rows = _affordable(field, recipe, 0.2 * how.seconds, cond, folder)
        say(f"Drawing {rows} samples of the teacher.")
        store = generate(teacher, folder / "pairs", rows, recipe=recipe, cond=_rows(cond, rows))
    stage = Stage(teacher, store, data or own_samples(store), how.guidance, cond, Options(
        sample_every=0, save_every=0, seed=how.seed, lr=5e-4), progress)  # fmt: skip
    entries, runs, pictures = list[Entry](), dict[tuple[str, int], Run](), dict[tuple[str, int], Tensor]()
    drawn_with: dict[str, Any] = dict(_labels(field, how.samples) if cond is None else _rows(cond, how.samples) or {})
    for k in how.evaluations:
        entry, pictures["teacher", k] = _measured("teacher", k, field, judge, how, drawn_with)
        entries.append(entry)
    for name in names:
        for k, made in _trained(METHODS[name], stage, how, share, folder, say):
            if isinstance(made, str):
                entries.append(Entry(name, k, error=made))
                continue
            try:
                entry, pictures[name, k] = _measured(name, k, made.run.field, judge, how, drawn_with)
            except RheosError as error:  # a student that diverged
                entries.append(Entry(name, k, error=str(error), steps=made.steps, seconds=made.seconds))
                continue
            entries.append(replace(entry, steps=made.steps, seconds=made.seconds))
            runs[name, k] = made.run
    found = Contest(tuple(entries), len(store), note.seconds, {}, pictures)
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


def _rows(cond: Cond | None, n: int) -> Cond | None:
    """Conditions repeated to n rows."""
    if not cond:
        return None
    index = torch.arange(n) % len(next(iter(cond.values())))
    return {name: v[index] for name, v in cond.items()}


def _affordable(field: Field, recipe: Recipe, seconds: float, cond: Cond | None, folder: Path) -> int:
    """How many samples the teacher draws in so many seconds; those of a store that is there already."""
    if (folder / "pairs" / "store.json").exists():
        return int(PairStore(folder / "pairs").about["n"])
    few = 32
    given: dict[str, Any] = dict(_labels(field, few) if cond is None else _rows(cond, few) or {})
    guidance = None if recipe.guidance == 1 else recipe.guidance
    spent = []
    for _ in range(2):  # the first one warms up
        begun = time.perf_counter()
        draw_solution(field, few, steps=recipe.times(field), solver=recipe.solver, guidance=guidance, **given)
        spent.append(time.perf_counter() - begun)
    return max(64, min(20_000, int(few * seconds / spent[1])))


def _labels(field: Field, n: int) -> dict[str, Tensor]:
    classes = int((getattr(field.net, "config", None) or {}).get("classes", 0) or 0)
    return {"label": torch.arange(n) % classes} if "label" in field.conditions and classes else {}


def _trained(
    method: Contender, stage: Stage, how: ContestOptions, seconds: float, folder: Path, say: Callable[[str], None]
) -> list[tuple[int, _Made | str]]:
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


def _timed(
    method: Contender, stage: Stage, k: int, seconds: float, folder: Path, say: Callable[[str], None]
) -> _Made | str:
    """One training that takes so many seconds."""
    note = Note(_note(folder), folder)
    try:
        if note["steps"] is None:
            say(f"Timing a few steps of {folder.name}.")
            note.settle(steps=_steps(method, stage, k, seconds), share=seconds)
        steps = int(note["steps"])
        say(f"Training {folder.name}: {steps} steps.")
        with note.timed():
            run = method.make(stage, k, steps, len(stage.pairs), folder)
    except RheosError as error:
        say(f"{folder.name} cannot run here: {error}")
        return str(error)
    return _Made(run, steps, note.seconds)


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _steps(method: Contender, stage: Stage, k: int, seconds: float) -> int:
    """Optimiser steps that fit: from a short and a longer trial, whose difference has no preparation in it."""
    quick = replace(stage, progress=False)
    spent = []
    for steps in (4, 4, 20):  # the first one warms up
        begun = time.perf_counter()
        method.make(quick, k, steps, min(64, len(stage.pairs)), None)
        spent.append(time.perf_counter() - begun)
    few, many = spent[1:]
    each = (many - few) / 16
    if each < 0.2 * many / 20:  # noise: a step costs no more than its share of the longer trial
        each = many / 20
    return max(16, int((seconds - few - _drawing(method, stage)) / each))


def _drawing(method: Contender, stage: Stage) -> float:
    """Seconds of what a method draws of its own before it trains."""
    if not method.draws:
        return 0.0
    few, field = 32, stage.field
    given: dict[str, Any] = dict(_labels(field, few) if stage.cond is None else stage.rows(few) or {})
    begun = time.perf_counter()
    draw_solution(field, few, steps=method.draws, solver="euler", **given)
    return (time.perf_counter() - begun) / few * min(len(stage.pairs), method.most)


def _measured(
    name: str, k: int, field: Field, judge: Judge, how: ContestOptions, given: dict[str, Any]
) -> tuple[Entry, Tensor]:
    """A line, and a few samples."""
    own: dict[str, Any] = {"solver": "jump" if field.usual == "jump" else "euler"}  # one call a step
    if name == "teacher" and how.guidance != 1:
        own["guidance"] = how.guidance
    label, figures, seconds, calls, x = given.get("label"), list[Mapping[str, float]](), 0.0, 0.0, torch.empty(0)
    for turn, part in enumerate(("choose", "report")):
        begun = time.perf_counter()
        told = draw_solution(
            field, how.samples, steps=k, seed=how.seed + 1000 + turn, batch=min(250, how.samples), **own, **given
        )
        seconds, calls = time.perf_counter() - begun, told.rows / how.samples
        assert isinstance(told.x, Tensor)
        x = told.x
        figures.append(judge(x, label, part))  # type: ignore[arg-type]
    size = sum(p.numel() for p in field.parameters())
    first = float(next(iter(figures[0].values())))
    return Entry(name, k, calls, dict(figures[1]), first, size, sampling=seconds), x[:64]
