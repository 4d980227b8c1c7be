"""The methods of a contest: each makes a run of a teacher in a number of optimiser steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from rheos.core.base import Cond
from rheos.core.field import Field
from rheos.core.files import write_whole
from rheos.data.dataset import Data
from rheos.distill.bellman_search import BellmanSearch
from rheos.distill.boss import Straightening, boss, searched_costs
from rheos.distill.consistency import consistency
from rheos.distill.instaflow import Stages, instaflow
from rheos.distill.mdt_dist import mdt_dist
from rheos.distill.progressive import progressive
from rheos.distill.reflow import reflow
from rheos.distill.rfpp import Rectification, rfpp
from rheos.distill.segments import SegmentStore, generate_segments
from rheos.distill.slimflow import Slimming, slimflow
from rheos.distill.smaller import Smaller
from rheos.distill.splitmeanflow import splitmeanflow
from rheos.distill.store import PairStore
from rheos.show import progress_bar
from rheos.train import Options, Run

__all__ = ["METHODS", "Contender", "Make", "Stage", "shared"]

ANCHORS, SEARCHED = 40, 64
"""Of the search for the best steps: times of the fine grid, trajectories."""


@final
@dataclass(frozen=True)
class Stage:
    """What all methods of a contest are given.

    Args:
        teacher: A run or a field.
        pairs: Its samples with their noise.
        data: What it learned from.
        guidance: To be baked in.
        cond: Conditions to draw with, or None for balanced labels.
        options: Of training.
        progress: Whether bars are drawn.
        evaluations: All numbers of network calls that are wanted.
    """

    teacher: Run | Field
    pairs: PairStore
    data: Data
    guidance: float
    cond: Cond | None
    options: Options
    progress: bool | None
    evaluations: tuple[int, ...] = (1,)

    @property
    def field(self) -> Field:
        """The teacher."""
        return self.teacher.field if isinstance(self.teacher, Run) else self.teacher

    @property
    def plain(self) -> Field:
        """The teacher without what an adapter puts around it: flow maps are made of its network."""
        field = self.field
        if type(field) is Field or not hasattr(field, "encode_prompt"):
            return field
        return Field(field.net, field.path, field.predicts, **field.about)

    @property
    def shared(self) -> dict[str, Any]:
        """What every method takes."""
        return {"options": self.options, "progress": self.progress}

    def rows(self, n: int) -> Cond | None:
        """Conditions of n rows."""
        if not self.cond:
            return None
        index = torch.arange(n) % len(next(iter(self.cond.values())))
        return {name: v[index] for name, v in self.cond.items()}


Make = Callable[[Stage, int, int, int, Path | None], Run]
"""(stage, evaluations, optimiser steps, rows that it may draw itself, folder) to a run."""

Walk = Callable[[Stage, int, Path], None]
"""(stage, rows, folder): what is drawn once for all numbers of evaluations."""


@final
@dataclass(frozen=True)
class Contender:
    """A method as a contest sees it.

    Args:
        name: Its slug.
        make: Trains it.
        every: Whether one training serves every number of evaluations.
        draws: Network calls a row of what it draws of its own before it trains.
        most: Rows of that, at most.
        guided: Whether these calls are guided as the teacher is.
        solver: By which its students are sampled, at one call a step: what the method is meant for.
        alike: What has steps of the same cost, and less to prepare: it is timed in its place.
        walk: Draws its rows once for all its trainings, into the folder `shared` of each; None: each draws its own.
        more: Rows that it draws besides.
    """

    name: str
    make: Make
    every: bool = True
    draws: int = 0
    most: int = 1 << 30
    guided: bool = False
    solver: str = "euler"
    alike: Make | None = None
    walk: Walk | None = None
    more: int = 0


def shared(out: Path) -> Path:
    """Where a method's trainings find what was drawn for all of them, beside the folder of one."""
    return out.with_name(f"{out.name.rpartition('-')[0]}-shared")


def _reflow(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return reflow(s.field, s.pairs, steps=steps, out=out, **s.shared)


def _rfpp(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return rfpp(s.teacher, out=out, pairs=s.pairs, steps=steps, how=Rectification(loss="huber"), **s.shared)


def _instaflow(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    first = max(1, 3 * steps // 5)
    how = Stages(pairs=rows, steps=first, distil=max(1, steps - first), polish=0, evaluations=k)
    how = replace(how, guidance=s.guidance, again=1.0, straight=replace(how.straight, steps=8))
    return instaflow(s.teacher, s.rows(rows), out=out, how=how, pairs=s.pairs if out else None, **s.shared)


def _slimflow(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    first = max(1, steps // 2)
    how = Slimming(steps=first, distil=max(1, steps - first), loss="mse", schedule=k)
    student = Smaller(seed=s.options.seed)
    return slimflow(s.teacher, student, s.rows(len(s.pairs)), out=out, how=how, pairs=s.pairs, **s.shared)


def _search(s: Stage) -> BellmanSearch:
    """One for all numbers of evaluations."""
    return BellmanSearch(anchors=max(ANCHORS, *s.evaluations), rows=min(SEARCHED, len(s.pairs)), guidance=s.guidance)


def _walks(s: Stage, rows: int, folder: Path) -> None:
    """One matrix of costs, and trajectories with all times at which somebody's steps begin."""
    search = _search(s)
    costs = searched_costs(s.field, search, folder / "costs.json", cond=s.rows(search.rows), progress=s.progress)
    times = sorted({t for k in s.evaluations for t in costs.best(k).times})
    recipe = Straightening(search=search).recipe
    with progress_bar("segments", rows, s.progress) as advance:
        generate_segments(
            s.teacher, folder / "segments", rows, times, recipe=recipe, cond=s.rows(rows), progress=advance
        )


def _boss(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    if out is None:
        how = Straightening(rows=rows, search=_search(s))
        return boss(s.teacher, k, steps=steps, how=how, cond=s.rows(rows), **s.shared)
    write_whole(out / "costs.json", (shared(out) / "costs.json").read_bytes())
    how = Straightening(rows=SegmentStore(shared(out) / "segments"), search=_search(s))
    return boss(s.teacher, k, steps=steps, out=out, how=how, cond=s.rows(how.search.rows), **s.shared)


def _splitmeanflow(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return splitmeanflow(s.plain, s.data, steps=steps, guidance=s.guidance, out=out, **s.shared)


def _mdt_dist(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return mdt_dist(s.plain, s.data, steps=steps, guidance=s.guidance, out=out, **s.shared)


def _consistency(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return consistency(s.plain, s.data, steps=steps, guidance=s.guidance, out=out, **s.shared)


def _progressive(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return progressive(s.plain, s.data, steps=steps, start=8 * k, end=k, guidance=s.guidance, out=out, **s.shared)


METHODS: dict[str, Contender] = {
    c.name: c
    for c in (
        Contender("reflow", _reflow),
        Contender("rfpp", _rfpp, alike=_reflow),
        Contender("instaflow", _instaflow, every=False, draws=8, alike=_reflow),
        Contender("slimflow", _slimflow, every=False),
        Contender(
            "boss", _boss, every=False, draws=ANCHORS, most=2000, guided=True, alike=_reflow, walk=_walks, more=SEARCHED
        ),
        Contender("splitmeanflow", _splitmeanflow, solver="jump"),
        Contender("mdt_dist", _mdt_dist, solver="renoise"),
        Contender("consistency", _consistency, solver="renoise"),
        Contender("progressive", _progressive, every=False),
    )
}
"""By name."""
