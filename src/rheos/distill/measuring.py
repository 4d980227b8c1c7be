"""How a contest measures a field: lines of its table."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.field import Field
from rheos.distill.pairs import Recipe
from rheos.sample import Solution, draw_solution

__all__ = ["OVER", "Entry", "Judge", "Measure", "repeated"]

OVER = 1.25
"""Shares of time above which a line is marked."""

Judge = Callable[[Tensor, Tensor | None, Literal["choose", "report"]], Mapping[str, float]]
"""Figures of samples, and of their labels or None, against the real rows kept for choosing or for reporting. The first
figure decides; smaller is better."""


@final
@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Args:
        method: Its name, or "teacher".
        evaluations: Network calls a sample that were allowed.
        calls: Network calls a sample that were made; with guidance a teacher makes two at once.
        figures: What the judge says of a fresh set of samples; the first one decides.
        chosen_by: The first figure on the samples that winners were chosen by.
        parameters: Of the network that samples.
        steps: Optimiser steps.
        seconds: Of training and its own preparations, in all calls of a contest that was continued.
        sampling: Seconds of drawing all samples.
        error: Why there are no figures.
        solver: Samples by these steps: what the method is meant for.
        share: Seconds that it was given.
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
    solver: str = "euler"
    share: float = 0.0

    @property
    def over(self) -> bool:
        """Whether it took much more time than it was given: more than 1.25 shares."""
        return self.share > 0 and self.seconds > OVER * self.share

    @property
    def first(self) -> float:
        """The figure that decides; infinite where there is none."""
        return float(next(iter(self.figures.values()))) if self.figures else float("inf")


@final
@dataclass(frozen=True)
class Measure:
    """Draws samples, always from the same noise, and lets a judge look at them.

    Args:
        judge: Looks.
        samples: Rows of a set.
        seed: Of the noise.
        given: Conditions of the rows.
    """

    judge: Judge
    samples: int
    seed: int
    given: Mapping[str, Any]

    def line(self, name: str, k: int, field: Field, solver: str, guidance: float = 1.0) -> tuple[Entry, Tensor]:
        """A line of a field at k steps, chosen by one set and reported on another; and a few samples."""
        solver = "jump" if field.usual == "jump" else solver
        first, _ = self._drawn(field, 0, k, solver, guidance)
        chosen = self.judge(_one(first), self.given.get("label"), "choose")
        begun = time.perf_counter()
        told, calls = self._drawn(field, 1, k, solver, guidance)
        seconds, x = time.perf_counter() - begun, _one(told)
        figures = dict(self.judge(x, self.given.get("label"), "report"))
        by = float(next(iter(chosen.values())))
        return Entry(name, k, calls, figures, by, _size(field), sampling=seconds, solver=solver), x[:64]

    def reference(self, field: Field, recipe: Recipe) -> Entry:
        """The line of a teacher as its own recipe draws it; on the set for reporting alone, for nothing is chosen."""
        begun = time.perf_counter()
        told, calls = self._drawn(field, 1, recipe.times(field), recipe.solver, recipe.guidance)
        seconds = time.perf_counter() - begun
        figures = dict(self.judge(_one(told), self.given.get("label"), "report"))
        allowed = round(calls if recipe.guidance == 1 else calls / 2)
        return Entry(
            "teacher", allowed, calls, figures, parameters=_size(field), sampling=seconds, solver=recipe.solver
        )

    def _drawn(
        self, field: Field, turn: int, steps: int | tuple[float, ...], solver: str, guidance: float
    ) -> tuple[Solution, float]:
        """A set of samples, and the network calls of one."""
        told = draw_solution(
            field, self.samples, steps=steps, solver=solver, guidance=None if guidance == 1 else guidance,
            seed=self.seed + 1000 + turn, batch=min(250, self.samples), **self.given,
        )  # fmt: skip
        return told, told.rows / self.samples


def _one(told: Solution) -> Tensor:
    assert isinstance(told.x, Tensor)
    return told.x


def _size(field: Field) -> int:
    return sum(p.numel() for p in field.parameters())


def repeated(cond: Cond | None, n: int) -> Cond | None:
    """Conditions repeated to n rows."""
    if not cond:
        return None
    index = torch.arange(n) % len(next(iter(cond.values())))
    return {name: v[index] for name, v in cond.items()}
