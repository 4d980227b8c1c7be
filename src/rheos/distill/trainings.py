"""The trainings of a contest: which there are, what each does in its time, and what came of it."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from rheos.core.errors import RheosError
from rheos.core.files import write_whole
from rheos.distill.contenders import Contender, Stage, shared
from rheos.distill.measuring import Entry
from rheos.distill.notes import Note
from rheos.distill.timing import Costs, Plan
from rheos.train import Run

__all__ = ["PARTS", "Made", "Training", "least_budget", "planned", "told", "trained", "trainings"]

PARTS = (0.2, 0.8)
"""Of the budget, for the teacher's samples and for trainings."""

Say = Callable[[str], None]


@final
@dataclass(frozen=True)
class Training:
    """One training of a contest.

    Args:
        method: What is trained.
        k: Number of evaluations; of a training that serves every number, the first.
        folder: Where.
        share: Its seconds.
    """

    method: Contender
    k: int
    folder: Path
    share: float

    @property
    def note(self) -> Path:
        """The file that says how long it took."""
        return self.folder.with_name(f"{self.folder.name}.json")


class Made(NamedTuple):
    """What came of a training: a run, or why there is none."""

    run: Run | str
    share: float
    steps: int = 0
    seconds: float = 0.0

    def failed(self, name: str, k: int, error: str) -> Entry:
        """The line of one that has no figures."""
        return Entry(name, k, error=error, steps=self.steps, seconds=self.seconds, share=self.share)


def trainings(methods: Sequence[Contender], evaluations: Sequence[int], seconds: float, folder: Path) -> list[Training]:
    """Equal shares for all methods, cut again where a method is trained for each number of evaluations.

    Args:
        methods: What is tried.
        evaluations: Numbers of network calls.
        seconds: Of the whole contest.
        folder: Of the contest.
    """
    share, made = PARTS[1] * seconds / len(methods), list[Training]()
    for method in methods:
        if method.every:
            made.append(Training(method, evaluations[0], folder / method.name, share))
            continue
        part = share / len(evaluations)
        made += [Training(method, k, folder / f"{method.name}-{k}", part) for k in evaluations]
    return made


def planned(work: Sequence[Training], costs: Costs, say: Say) -> dict[Path, Plan | str]:
    """What each training does, by its folder, or why it cannot run; what was settled in an earlier call stays.

    The time of the trials is taken from all shares alike.

    Args:
        work: All trainings.
        costs: Of steps and rows.
        say: Told what is being done.
    """
    found, fresh = dict[Path, Plan | str](), list[Training]()
    for one in work:
        note = Note(one.note, one.folder)
        if note["steps"] is None:
            fresh.append(one)
        else:
            rows, least = int(note["rows"] or len(costs.stage.pairs)), float(note["least"] or 0.0)
            found[one.folder] = Plan(int(note["steps"]), rows, least=least)
    if fresh:
        say(f"Timing a few steps of {', '.join(dict.fromkeys(one.method.name for one in fresh))}.")
    for one in fresh:  # trials are kept: the second look takes no time
        with _alone(one, found, say):
            costs.planned(one.method, one.k, one.share)
    left = max(0.0, 1 - costs.seconds / sum(one.share for one in work))
    for one in fresh:
        if one.folder not in found:
            plan = costs.planned(one.method, one.k, left * one.share)
            found[one.folder] = plan
            Note(one.note, one.folder).settle(steps=plan.steps, rows=plan.rows, least=plan.least, share=one.share)
    return found


def least_budget(work: Sequence[Training], plans: dict[Path, Plan | str], timing: float, seconds: float) -> float:
    """The budget that holds the least work of every training; 0 where the one that was given does.

    Args:
        work: All trainings.
        plans: Of `planned`.
        timing: Seconds of the trials.
        seconds: The budget.
    """
    whole, need = sum(one.share for one in work), 0.0
    for one in work:
        plan = plans[one.folder]
        if isinstance(plan, Plan):
            need = max(need, plan.least * whole / one.share)
    need = (need + timing) / PARTS[1]
    return need if need > seconds else 0.0


def trained(one: Training, plan: Plan | str, stage: Stage, say: Say) -> Made:
    """One training; whatever goes wrong in it ends this one alone.

    Args:
        one: Which.
        plan: What it does, or why it cannot run.
        stage: What all methods are given.
        say: Told what is being done.
    """
    note = Note(one.note, one.folder)
    if isinstance(plan, str):
        return Made(plan, one.share, 0, note.seconds)
    wrong = dict[Path, Plan | str]()
    say(f"Training {one.folder.name}: {plan.steps} steps.")
    with _alone(one, wrong, say):
        drawn = _walked(one, plan, stage)
        with note.timed():
            run = one.method.make(stage, one.k, plan.steps, plan.rows, one.folder)
        return Made(run, one.share, plan.steps, note.seconds + drawn)
    return Made(str(wrong[one.folder]), one.share, 0, note.seconds)


def _walked(one: Training, plan: Plan, stage: Stage) -> float:
    """Seconds, of one training, of what its method draws once for all of them."""
    if one.method.walk is None:
        return 0.0
    place = shared(one.folder)
    note = Note(place.with_name(f"{place.name}.json"), place)
    if note["rows"] is None:
        note.settle(rows=plan.rows)
    if not note["done"]:
        with note.timed():
            one.method.walk(stage, int(note["rows"]), place)
    return note.seconds / len(stage.evaluations)


@contextmanager
def _alone(one: Training, found: dict[Path, Plan | str], say: Say) -> Iterator[None]:
    """Write down why a training cannot run, instead of raising it."""
    try:
        yield
    except Exception as error:
        found[one.folder] = told(error)
        say(f"{one.folder.name} cannot run here: {told(error)}")
        if not isinstance(error, RheosError):  # nobody expected it
            write_whole(one.note.with_suffix(".error.txt"), traceback.format_exc())


def told(error: Exception) -> str:
    """An error in a line: ours are sentences, others need their kind."""
    return str(error) if isinstance(error, RheosError) else f"{type(error).__name__}: {error}"
