"""How a contest measures a field: lines of its table."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.field import Field
from rheos.distill.pairs import Recipe
from rheos.sample import draw_solution

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
@dataclass
class Measure:
    """Draws samples, always from the same noise, and lets a judge look at them.

    Args:
        judge: Looks.
        samples: Rows of a set.
        seed: Of the noise.
        given: Conditions of the rows.
        drawing: Seconds of drawing so far.
        looking: Seconds of the judge so far.
        looks: How often it looked.
    """

    judge: Judge
    samples: int
    seed: int
    given: Mapping[str, Any]
    drawing: float = 0.0
    looking: float = 0.0
    looks: int = 0

    @property
    def seconds(self) -> float:
        """That all of it took so far."""
        return self.drawing + self.looking

    @property
    def look(self) -> float:
        """Seconds of one look of the judge."""
        return self.looking / max(1, self.looks)

    def line(self, name: str, k: int, field: Field, solver: str, guidance: float = 1.0) -> tuple[Entry, Tensor]:
        """A line of a field at k steps, chosen by one set and reported on another; and a few samples."""
        solver = "jump" if field.usual == "jump" else solver
        first = self._drawn(field, 0, k, solver, guidance)
        chosen = self._told(first.x, "choose")
        told = self._drawn(field, 1, k, solver, guidance)
        figures = self._told(told.x, "report")
        by = float(next(iter(chosen.values())))
        line = Entry(name, k, told.calls, figures, by, _size(field), sampling=told.seconds, solver=solver)
        return line, told.x[:64]

    def reference(self, field: Field, recipe: Recipe) -> Entry:
        """The line of a teacher as its own recipe draws it; on the set for reporting alone, for nothing is chosen."""
        told = self._drawn(field, 1, recipe.times(field), recipe.solver, recipe.guidance)
        figures = self._told(told.x, "report")
        allowed = round(told.calls if recipe.guidance == 1 else told.calls / 2)
        return Entry(
            "teacher", allowed, told.calls, figures, parameters=_size(field), sampling=told.seconds,
            solver=recipe.solver,
        )  # fmt: skip

    def _drawn(self, field: Field, turn: int, steps: int | tuple[float, ...], solver: str, guidance: float) -> "_Drawn":
        """A set of samples."""
        begun = time.perf_counter()
        told = draw_solution(
            field, self.samples, steps=steps, solver=solver, guidance=None if guidance == 1 else guidance,
            seed=self.seed + 1000 + turn, batch=min(250, self.samples), **self.given,
        )  # fmt: skip
        spent = time.perf_counter() - begun
        self.drawing += spent
        assert isinstance(told.x, Tensor)
        return _Drawn(told.x, told.rows / self.samples, spent)

    def _told(self, x: Tensor, part: Literal["choose", "report"]) -> dict[str, float]:
        """What the judge says."""
        begun = time.perf_counter()
        figures = dict(self.judge(x, self.given.get("label"), part))
        self.looking += time.perf_counter() - begun
        self.looks += 1
        return figures


class _Drawn(NamedTuple):
    """Samples, the network calls of one, and the seconds of all."""

    x: Tensor
    calls: float
    seconds: float


def _size(field: Field) -> int:
    return sum(p.numel() for p in field.parameters())


def repeated(cond: Cond | None, n: int) -> Cond | None:
    """Conditions repeated to n rows."""
    if not cond:
        return None
    index = torch.arange(n) % len(next(iter(cond.values())))
    return {name: v[index] for name, v in cond.items()}
