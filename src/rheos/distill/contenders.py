"""The methods of a contest: each makes a run of a teacher in a number of optimiser steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from rheos.core.base import Cond
from rheos.core.errors import OptionError
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
from rheos.distill.slimflow import Slimming, slimflow
from rheos.distill.splitmeanflow import splitmeanflow
from rheos.distill.store import PairStore
from rheos.train import Options, Run

__all__ = ["METHODS", "Contender", "Stage"]


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
    """

    teacher: Run | Field
    pairs: PairStore
    data: Data
    guidance: float
    cond: Cond | None
    options: Options
    progress: bool | None

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
    """

    name: str
    make: Make
    every: bool = True
    draws: int = 0
    most: int = 1 << 30
    guided: bool = False
    solver: str = "euler"


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
    with torch.random.fork_rng([]):
        torch.manual_seed(s.options.seed)
        student = smaller(s.field.net)
    return slimflow(s.teacher, student, s.rows(len(s.pairs)), out=out, how=how, pairs=s.pairs, **s.shared)


def _boss(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    search = BellmanSearch(anchors=max(k, 40), rows=min(64, len(s.pairs)), guidance=s.guidance)
    how = Straightening(rows=rows, search=search)
    if out is not None:  # one matrix of costs serves every k
        costs, shared = out / "costs.json", out.with_name("boss-costs.json")
        searched_costs(s.field, search, shared, cond=s.rows(search.rows), progress=s.progress)
        write_whole(costs, shared.read_bytes())
    return boss(s.teacher, k, steps=steps, out=out, how=how, cond=s.rows(how.rows), **s.shared)


def _splitmeanflow(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return splitmeanflow(s.plain, s.data, steps=steps, guidance=s.guidance, out=out, **s.shared)


def _mdt_dist(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return mdt_dist(s.plain, s.data, steps=steps, guidance=s.guidance, out=out, **s.shared)


def _consistency(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return consistency(s.plain, s.data, steps=steps, guidance=s.guidance, out=out, **s.shared)


def _progressive(s: Stage, k: int, steps: int, rows: int, out: Path | None) -> Run:
    return progressive(s.plain, s.data, steps=steps, start=8 * k, end=k, guidance=s.guidance, out=out, **s.shared)


def smaller(net: torch.nn.Module) -> torch.nn.Module:
    """A network of the same kind with half the width.

    Raises:
        OptionError: For a network that does not say how wide it is.
    """
    config = dict(getattr(net, "config", None) or {})
    for name in ("width", "hidden", "dim"):
        if isinstance(config.get(name), int) and type(net).__name__ in ("UNet", "MLP", "DiT"):
            made: torch.nn.Module = type(net)(**{**config, name: max(4, config[name] // 2)})
            return made
    raise OptionError(f"slimflow needs a smaller network, and {type(net).__name__} has no width to halve.")


METHODS: dict[str, Contender] = {
    c.name: c
    for c in (
        Contender("reflow", _reflow),
        Contender("rfpp", _rfpp),
        Contender("instaflow", _instaflow, every=False, draws=8),
        Contender("slimflow", _slimflow, every=False),
        Contender("boss", _boss, every=False, draws=40, most=2000, guided=True),
        Contender("splitmeanflow", _splitmeanflow, solver="jump"),
        Contender("mdt_dist", _mdt_dist, solver="renoise"),
        Contender("consistency", _consistency, solver="renoise"),
        Contender("progressive", _progressive, every=False),
    )
}
"""By name."""
