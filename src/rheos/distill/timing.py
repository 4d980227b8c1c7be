"""What fits a share of a contest's time: rows of the teacher, rows that a method draws itself, optimiser steps."""

import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rheos.core.base import Cond
from rheos.core.field import Field
from rheos.distill.contenders import Contender, Stage
from rheos.distill.measuring import repeated
from rheos.distill.pairs import Recipe, balanced
from rheos.distill.store import PairStore
from rheos.sample import draw_solution

__all__ = ["LEAST", "Plan", "affordable", "planned"]

LEAST = 16
"""Optimiser steps and rows of a method, however little time there is."""
PART = 0.3
"""Of its share, for what a method draws itself."""
FEW = 32


class Plan(NamedTuple):
    """What a method does in its time.

    Args:
        steps: Of the optimiser.
        rows: That it draws itself, where it does.
    """

    steps: int
    rows: int


def affordable(field: Field, recipe: Recipe, seconds: float, cond: Cond | None, folder: Path) -> int:
    """How many samples the teacher draws in so many seconds; those of a store that is there already."""
    if (folder / "store.json").exists():
        return int(PairStore(folder).about["n"])
    given = balanced(field, FEW, repeated(cond, FEW))
    spent = []
    for _ in range(2):  # the first one warms up
        begun = time.perf_counter()
        draw_solution(
            field, FEW, steps=recipe.times(field), solver=recipe.solver, guidance=_scale(recipe.guidance), **given
        )
        spent.append(time.perf_counter() - begun)
    return max(64, min(20_000, int(FEW * seconds / spent[1])))


def planned(method: Contender, stage: Stage, k: int, seconds: float) -> Plan:
    """Rows that take a part of the time, and steps that take the rest.

    A step is timed by a short and a longer trial, whose difference has no preparation in it.
    """
    each_row = _row(method, stage)
    most = min(len(stage.pairs), method.most)
    rows = min(most, max(LEAST, int(PART * seconds / each_row))) if each_row else most
    quick = replace(stage, progress=False)
    spent = []
    for steps in (4, 4, 20):  # the first one warms up
        begun = time.perf_counter()
        method.make(quick, k, steps, min(64, rows), None)
        spent.append(time.perf_counter() - begun)
    few, many = spent[1:]
    each = (many - few) / 16
    if each < 0.2 * many / 20:  # noise: a step costs no more than its share of the longer trial
        each = many / 20
    drawing = each_row * max(0, rows - 64)  # the others are in the trial
    return Plan(max(LEAST, int((seconds - few - drawing) / each)), rows)


def _row(method: Contender, stage: Stage) -> float:
    """Seconds of a row that a method draws itself before it trains; 0 where it draws none."""
    if not method.draws:
        return 0.0
    given = balanced(stage.field, FEW, repeated(stage.cond, FEW))
    guidance = _scale(stage.guidance) if method.guided else None
    spent = []
    for _ in range(2):
        begun = time.perf_counter()
        draw_solution(stage.field, FEW, steps=method.draws, solver="euler", guidance=guidance, **given)
        spent.append(time.perf_counter() - begun)
    return spent[1] / FEW


def _scale(guidance: float) -> float | None:
    return None if guidance == 1 else guidance
