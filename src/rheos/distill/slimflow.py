r"""SlimFlow: few steps *and* few parameters. A small network learns a large one's flow, then jumps by its own.

1. *Pairs* (noise, sample) of the teacher; a symmetry of it makes more of them (`Together`).
2. *Annealing reflow* (`AnnealedPairs`): the student cannot begin with the teacher's weights, so its coupling moves
   slowly from independent to the teacher's.
3. *Flow-guided distillation* of the small flow $v$ into a student $u$ that begins as a copy: with $p = u(z, 0)$

$$ E_{pairs} D(x_1,\; x_0 + u(x_0, 0)) \;+\; E_{z, t} D\bigl(\mathrm{sg}[x_t + (1 - t)\,v(x_t, t)],\; z + p\bigr),
   \qquad x_t = z + t\,\mathrm{sg}[p], $$

where the second term needs no stored pair: two steps of the student's own flow correct its one step, on fresh noise.

Reference: SlimFlow, Zhu, Liu and Liu (2024), https://arxiv.org/abs/2407.12718
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from rheos.core.annealed import AnnealedPairs
from rheos.core.base import Cond, Context, Coupling, Loss, Premetric
from rheos.core.couplings import GivenPairs
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.objectives import Plan
from rheos.core.query import Query
from rheos.core.state import State, expand
from rheos.distill.distillation import (
    Distillation,
    Schedule,
    begun,
    between,
    distillation,
    guidance_of,
    seen,
    usual_options,
)
from rheos.distill.groups import Group, Together, check_equivariant
from rheos.distill.kit import (
    check_teacher,
    drawn,
    known,
    linear,
    same_teacher,
    student_of,
    workplace,
)
from rheos.distill.pairs import Recipe
from rheos.distill.reflow import reflow
from rheos.distill.smaller import Smaller
from rheos.distill.store import PairStore
from rheos.distill.teacher import Teacher, field_of, refuse_shared
from rheos.train import Options, Run, fit

__all__ = ["FlowGuided", "Slimming", "slimflow"]


@final
@dataclass(frozen=True, eq=False)
class FlowGuided:
    r"""Distillation on pairs, plus two steps of a guide on fresh noise.

    Args:
        pairs: The first term, of `distillation`; its premetric serves both.
        guide: The frozen flow.
        weight: Of the second term; 0 leaves it out.
        span: Where its time is drawn from; the paper says (0, 1), the authors' code (0.2, 0.8).
        first: Who takes the first of the two steps: the student itself, or the guide.

    Raises:
        OptionError: For a negative weight.
        TimeError: For a span that is no part of [0, 1].
        UnknownOptionError: For another first.

    Reference: SlimFlow, https://arxiv.org/abs/2407.12718, eq. 9-11 and algorithm 2.
    """

    pairs: Distillation
    guide: Teacher
    weight: float = 1.0
    span: tuple[float, float] = (0.2, 0.8)
    first: Literal["student", "guide"] = "student"

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise OptionError(f"weight must be 0 or positive, got {self.weight}.")
        between(*self.span)
        check_choice("first", self.first, ("student", "guide"))

    @property
    def gaussian(self) -> bool:
        """No: the noise belongs to its sample."""
        return False

    @property
    def grid(self) -> tuple[float, ...] | None:
        """The times between which the student steps."""
        return self.pairs.grid

    @property
    def consumes(self) -> tuple[str, ...]:
        """What the pairs use up."""
        return self.pairs.consumes

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "FlowGuided":
        """The pairs calibrated."""
        return replace(self, pairs=cast(Distillation, self.pairs.calibrate(x1, cond, draws)))

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """A plan of the pairs, with fresh noise and another time beside.

        Raises:
            OptionError: If guide and student do not fit.
            ShapeError: For a state with parts.
        """
        self._check(field)
        plan = self.pairs.prepare(field, x1, cond, draws)
        if isinstance(plan.x0, dict) or isinstance(plan.t, dict):
            raise ShapeError("Flow-guided distillation takes one tensor, this state has parts.")
        low, high = self.span
        t = low + (high - low) * draws.uniform("two steps")
        fresh = cast(Tensor, draws.normal(plan.x0, "two steps"))
        return plan._replace(x0={"pairs": plan.x0, "fresh": fresh}, t={"pairs": plan.t, "fresh": t})

    def _check(self, student: Field) -> None:
        guide = self.guide.field
        if not linear(student) or not linear(guide):
            raise OptionError(
                f"Guide and student must both live on the linear path, got {guide.path} and {student.path}."
            )
        if student.conditions != guide.conditions:
            raise OptionError(
                f"The guide takes the conditions {sorted(guide.conditions)}, the student {sorted(student.conditions)}; "
                "both must take the same."
            )
        refuse_shared(student, self.guide)

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row: of its pair, and of its fresh noise."""
        x0, t = cast(dict[str, Tensor], plan.x0), cast(dict[str, Tensor], plan.t)
        known = self.pairs.loss(field, plan._replace(x0=x0["pairs"], t=t["pairs"]))
        if not self.weight:
            return known
        rows, length = self._two_steps(field, x0["fresh"], t["fresh"], plan.cond)
        share = known.weight.sum()
        logs = {
            "pairs": (known.rows.detach() * known.weight).sum() / share,
            "two_steps": (rows.detach() * known.weight).sum() / share,
            "jump": length,
        }
        return Loss(known.rows + self.weight * rows, known.weight, {**known.logs, **logs})

    def _two_steps(self, field: Field, z: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """The second term, and how far the student jumps: it is partly its own teacher, so watch that for drift."""
        start = torch.zeros_like(t)
        p = cast(Tensor, field.answer(Query(z, start, (start, start), cond, grad=torch.is_grad_enabled())).value)
        own = p.detach() if self.first == "student" else self.guide.velocity(z, start, cond)
        half = z + expand(t, z) * own
        target = half + expand(1 - t, z) * self.guide.velocity(half, t, cond)
        jump = z + p
        rows = self.pairs.parts.premetric(jump, target, Context(z, start, jump, target))
        return rows, p.detach().square().mean().sqrt()


@final
@dataclass(frozen=True)
class Slimming:
    """The pipeline, stage by stage, with the switches of the paper's ablations.

    Args:
        pairs: How many pairs of the teacher.
        recipe: How they are drawn.
        steps: Optimiser steps of the annealing reflow.
        beta: Its schedule, see `AnnealedPairs`; 0 is a plain reflow.
        over: Steps until the pairs are the teacher's; half of `steps` unless given.
        group: A symmetry of the teacher, which is checked, or None.
        distil: Steps of the distillation.
        loss: Its premetric: "auto" (LPIPS or features of one of our nets; L2 for what is no picture), or as in
            `rheos.distill.Stages`.
        schedule: Times of the pairs' term, see `t_schedule`: the number of steps of the student.
        weight: Of the two-step term; 0 leaves it out.
        span: Its times.
        first: Who takes its first step, "student" or "guide".
        begin: What the distillation begins with: the small "flow", or the "fresh" student.
        source: Whose pairs the distillation uses: the "teacher"'s, or the small "flow"'s own.

    Raises:
        OptionError: For numbers out of range.
        UnknownOptionError: For unknown names.
    """

    pairs: int = 20_000
    recipe: Recipe = field(default_factory=Recipe)
    steps: int = 4000
    beta: str | float = "linear"
    over: int | None = None
    group: Group | None = None
    distil: int = 3000
    loss: str | Premetric = "auto"
    schedule: Schedule = 1
    weight: float = 1.0
    span: tuple[float, float] = (0.2, 0.8)
    first: Literal["student", "guide"] = "student"
    begin: Literal["flow", "fresh"] = "flow"
    source: Literal["teacher", "flow"] = "teacher"

    def __post_init__(self) -> None:
        for name in ("pairs", "steps", "distil"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_choice("begin", self.begin, ("flow", "fresh"))
        check_choice("source", self.source, ("teacher", "flow"))
        check_choice("first", self.first, ("student", "guide"))
        between(*self.span)
        self.annealed()

    def annealed(self) -> Coupling:
        """The coupling of the reflow."""
        over = max(self.steps // 2, 1) if self.over is None and isinstance(self.beta, str) else self.over
        return self.moved(AnnealedPairs(self.beta, over))

    def moved(self, inner: Coupling) -> Coupling:
        """A coupling under the symmetry, if there is one."""
        return inner if self.group is None else Together(self.group, inner)


def slimflow(
    teacher: Run | Field,
    student: Field | nn.Module | Smaller,
    cond: Cond | None = None,
    *,
    out: str | Path | None = None,
    how: Slimming | None = None,
    pairs: PairStore | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a smaller network to make the teacher's samples in one call.

    Everything below `out` is continued after an interruption: `pairs`, `flow` (the small flow, which is good in a few
    steps), with `source="flow"` its `own` pairs, and `student` (the run that is returned).

    Args:
        teacher: A field or a run, on any affine path.
        student: A smaller network of the same conditions, a field on the linear path with its weights at the start, or
            `Smaller`, which makes one of the teacher's.
        cond: Conditions, `how.pairs` rows; labels are balanced unless given.
        out: A folder; None: a temporary one, of which only the run in memory remains.
        how: The stages.
        pairs: Pairs of the teacher that exist already; a few are drawn again, to be sure.
        options: Of both trainings; Adam at 5e-4 unless given.
        progress: Whether bars are drawn; None: on terminals.

    Returns:
        The student's run: `draw(run.field, n)`. `rheos.distill.sizes` compares the networks.

    Raises:
        OptionError: For a teacher that is not equivariant under `how.group`, or that seems to predict noise though a
            velocity was declared, or for a student on another path.
        ShapeError: For a student of another shape.
        DataError: For pairs of another teacher.
        RheosError: As `generate` and `train.fit`.
    """
    how, options = how or Slimming(), options or usual_options()
    large = field_of(teacher)
    small = student_of(student(large.net) if isinstance(student, Smaller) else student)
    loss = seen(how.loss, large.shape, large.value_range) or "mse"
    check_teacher(large, cond)
    if how.group is not None:
        check_equivariant(large, how.group, cond)
    if pairs is not None:
        same_teacher(large, pairs)
        pairs = pairs.inheriting(teacher)
    with workplace(out) as folder:
        at = (lambda name: folder / name) if out is not None else (lambda name: None)
        store = pairs or drawn(large, folder / "pairs", how.pairs, how.recipe, cond, teacher, progress, out is not None)
        flow = reflow(
            small, store, steps=how.steps, out=at("flow"), coupling=how.annealed(), options=options, progress=progress
        ).field
        own = store
        if how.source == "flow":
            recipe = replace(how.recipe, seed=how.recipe.seed + 1, guidance=1.0, grid=None)
            own = drawn(flow, folder / "own", how.pairs, recipe, cond, teacher, progress, out is not None)
        have = known(own, flow)
        terms = replace(distillation(have, how.schedule, loss), coupling=how.moved(GivenPairs()))
        objective = FlowGuided(terms, Teacher(flow), how.weight, how.span, how.first)
        start = begun(flow if how.begin == "flow" else small, guidance_of(store))
        return fit(
            start, objective, have[0], steps=how.distil, out=at("student"), options=options, resume=out is not None,
            progress=progress,
        )  # fmt: skip
