"""What fits a share of a contest's time: rows of the teacher, rows that a method draws itself, optimiser steps."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, final

from rheos.core.base import Cond
from rheos.core.field import Field
from rheos.distill.contenders import Contender, Make, Stage
from rheos.distill.measuring import repeated
from rheos.distill.pairs import Recipe, balanced
from rheos.distill.store import PairStore
from rheos.sample import draw_solution
from rheos.sample.methods import solver

__all__ = ["LEAST", "ROWS", "Costs", "Plan", "affordable", "call_seconds", "calls_of"]

LEAST = 4
"""Optimiser steps of a method, however little time there is: one for each stage of any of them."""
ROWS = 16
"""Rows that a method draws itself, however little time there is."""
PART = 0.3
"""Of its share, for what a method draws itself."""
FEW = 32
CALLS = 4
SHORT, LONG, LONGER = 3, 6, 20
"""Steps of trials; the last where they cost next to nothing."""
NOTHING = 0.02


class Plan(NamedTuple):
    """What a method does in its time.

    Args:
        steps: Of the optimiser.
        rows: That it draws itself, where it does.
        seconds: That all of it will take.
        least: Seconds of the least that it can do.
    """

    steps: int
    rows: int
    seconds: float = 0.0
    least: float = 0.0


def call_seconds(field: Field, cond: Cond | None) -> float:
    """Seconds of a network call a row, without guidance."""
    given: dict[str, Any] = balanced(field, FEW, repeated(cond, FEW))
    spent = []
    for _ in range(2):  # the first one warms up
        begun = time.perf_counter()
        draw_solution(field, FEW, steps=CALLS, solver="euler", **given)
        spent.append(time.perf_counter() - begun)
    return spent[1] / (FEW * CALLS)


def affordable(field: Field, recipe: Recipe, seconds: float, call: float, folder: Path) -> int:
    """How many samples the teacher draws in so many seconds; those of a store that is there already.

    Args:
        field: The teacher.
        recipe: How it draws.
        seconds: That there are.
        call: Seconds of a network call a row.
        folder: Of the store.
    """
    if (folder / "store.json").exists():
        return int(PairStore(folder).about["n"])
    return max(64, min(20_000, int(seconds / (call * calls_of(field, recipe)))))


def calls_of(field: Field, recipe: Recipe) -> int:
    """Network calls of a row of the teacher."""
    once = (len(recipe.times(field)) - 1) * max(1, solver(recipe.solver).evaluations)
    return once if recipe.guidance == 1 else 2 * once


@final
@dataclass
class Costs:
    """What the work of a contest costs on this machine; trials of a step are made once for all methods alike in it.

    Args:
        stage: What all methods are given.
        call: Seconds of a network call of the teacher a row.
        seconds: That trials took so far.
    """

    stage: Stage
    call: float
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._steps: dict[Make, float] = {}

    def planned(self, method: Contender, k: int, seconds: float) -> Plan:
        """Rows that take a part of the time, and steps that take the rest.

        Args:
            method: Whose training it is.
            k: Its number of evaluations.
            seconds: That it has.
        """
        each = self._step(method, k, seconds)
        many = len(self.stage.evaluations) if method.walk else 1  # trainings that one drawing serves
        row = self._row(method) / many
        more, most = method.more, min(len(self.stage.pairs), method.most)
        rows = min(most, max(ROWS, int(PART * seconds / row) - more)) if row else most
        drawing = row * (rows + more)
        steps = max(LEAST, int((seconds - drawing) / each))
        least = row * (min(ROWS, most) + more) + LEAST * each
        return Plan(steps, rows, drawing + steps * each, least)

    def _row(self, method: Contender) -> float:
        """Seconds of a row that a method draws itself before it trains; 0 where it draws none."""
        twice = method.guided and self.stage.guidance != 1
        return method.draws * self.call * (2 if twice else 1)

    def _step(self, method: Contender, k: int, seconds: float) -> float:
        """Seconds of an optimiser step, by a short and a longer trial, whose difference has no preparation in it."""
        make = method.alike or method.make
        if make not in self._steps:
            begun = time.perf_counter()
            try:
                self._steps[make] = self._tried(make, k, seconds)
            finally:
                self.seconds += time.perf_counter() - begun
        return self._steps[make]

    def _tried(self, make: Make, k: int, seconds: float) -> float:
        quick = replace(self.stage, progress=False)
        rows = min(64, len(self.stage.pairs))

        def trial(stage: Stage, steps: int) -> float:
            begun = time.perf_counter()
            make(stage, k, steps, rows, None)
            return time.perf_counter() - begun

        trial(replace(quick, options=replace(quick.options, batch=8)), SHORT)  # warms up
        few, steps = trial(quick, SHORT), LONG
        if few > seconds:  # it does its least whatever a step costs
            return few / SHORT
        many = trial(quick, steps)
        if many < NOTHING * seconds:
            steps = LONGER
            many = trial(quick, steps)
        each = (many - few) / (steps - SHORT)
        return many / steps if each < 0.2 * many / steps else each  # noise: no more than its share of the longer trial
