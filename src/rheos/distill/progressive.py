r"""Progressive distillation: a student whose one step is two of its teacher's, again and again.

With N steps, $t_i = i / N$, the student's velocity at $(x, t_i)$ is regressed on
$(x'' - x) N$, where $x''$ is where two Euler steps of $1 / 2N$ of the teacher lead; the student is the next teacher.

Reference: Progressive Distillation, Salimans & Ho (2022), https://arxiv.org/abs/2202.00512, algorithm 2; there on
cosine schedules with DDIM, which is Euler on the linear path.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Context, Loss
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.flowmap import TransportField
from rheos.core.objectives import FlowMatching, Plan
from rheos.core.query import Query
from rheos.core.state import State, add
from rheos.data.dataset import Data
from rheos.distill.inherited import inheriting
from rheos.distill.mdt_dist import transport
from rheos.distill.paired import Paired
from rheos.distill.teacher import Teacher, field_of, refuse_shared
from rheos.train import Options, Run, Sampling, fit

__all__ = ["Halving", "progressive"]


@final
@dataclass(frozen=True)
class Halving(Paired):
    """One round: an objective of `train.fit` for a field that takes `steps` Euler steps.

    Args:
        teacher: Takes twice as many.
        steps: The student's, at least 1.
        flow: Coupling, source, premetric, weight, dropout; squares without dropout unless given. Times are the grid's.

    Raises:
        OptionError: For steps below 1.
    """

    teacher: Teacher
    steps: int
    flow: FlowMatching | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"steps must be at least 1, got {self.steps}.")
        if self.flow is None:
            object.__setattr__(self, "flow", FlowMatching(dropout=0.0))

    @property
    def sampling(self) -> Sampling:
        """The student's Euler steps."""
        return Sampling(self.steps, "euler")

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Sources, couples, and a time of the grid for each row.

        Raises:
            OptionError: For another kind of field, a state of several variables, or a student that is its teacher.
        """
        if not isinstance(field, TransportField):
            raise OptionError(f"A {type(field).__name__} is not sampled in few steps. Train distill.transport(field).")
        if isinstance(x1, dict) or field.path.noisy:
            raise OptionError("Steps are halved on tensor states, on paths without noise of their own.")
        refuse_shared(field, self.teacher)
        plan = self.pairing.prepare(field, x1, cond, draws)
        t = (draws.uniform("step") * self.steps).floor().clamp(max=self.steps - 1) / self.steps
        return plan._replace(t=t)

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row."""
        t, h, (low, high) = cast(Tensor, plan.t), 0.5 / self.steps, field.finite
        x = cast(Tensor, field.path.sample(plan.x0, plan.x1, t).xt)
        with torch.no_grad():
            first = self.teacher.velocity(x, t, plan.cond)
            second = self.teacher.velocity(cast(Tensor, add(x, h, first)), t + h, plan.cond)
            target = 0.5 * (first + second)
        inside = t.clamp(low, high)
        value = cast(Tensor, field.answer(Query(x, inside, (inside, t + 2 * h), plan.cond, "velocity")).value)
        parts = self.pairing.parts
        losses = parts.premetric(value, target, Context(x, t))
        losses = losses * parts.weight.factor(inside, field.path, "velocity").to(losses)
        for part in plan.extra.values():
            losses = losses + part.to(losses)
        return Loss(losses, plan.weight.to(losses), plan.logs)


def progressive(
    field: Field | Run,
    data: Data,
    *,
    steps: int,
    start: int = 16,
    end: int = 1,
    guidance: float = 1.0,
    out: str | Path | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Halve the steps of a field until few are left.

    Args:
        field: The teacher, a field or a run.
        data: What the teacher learned from.
        steps: Optimiser steps of all rounds together.
        start: Euler steps of the teacher.
        end: Of the last student: `start` halved a few times.
        guidance: Scale of the teacher's guidance, which becomes part of the students.
        out: Directory with a run a round; finished rounds are read, an unfinished one is continued.
        options: Of `train.fit`, for each round; a learning rate of 3e-4 unless given.
        progress: Whether a bar is drawn for each round; None: on terminals.

    Returns:
        The run of the last round; sample with `steps=end`.

    Raises:
        OptionError: If `start` is no power of two times `end`, or there are fewer steps than rounds.
        RheosError: As `train.fit`.
    """
    counts: list[int] = []
    while end >= 1 and (not counts or counts[-1] > end):
        counts.append((counts[-1] if counts else start) // 2)
    if end < 1 or not counts or end * 2 ** len(counts) != start:
        raise OptionError(f"start must be end times 2, 4, 8 and so on, got {start} and {end}.")
    if steps < len(counts):
        raise OptionError(f"{len(counts)} rounds need as many steps at least, got {steps}.")
    teacher, scale = field_of(field), guidance
    for k, count in enumerate(counts):
        loss = Halving(Teacher(teacher, guidance if k == 0 else 1.0), count)
        part = steps * (k + 1) // len(counts) - steps * k // len(counts)
        place = Path(out) / f"steps_{count:03d}" if out is not None else None
        run = fit(
            transport(teacher, scale), loss, inheriting(data, field), steps=part, out=place,
            options=options or Options(lr=3e-4), resume=place is not None, progress=progress,
        )  # fmt: skip
        teacher = run.field
    return run
