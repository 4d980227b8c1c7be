r"""Consistency distillation and training: jumps from two neighbouring points of a trajectory must agree.

$f(x, t) = x + (\tau - t)\,\phi(x, t)$ jumps to the end $\tau$ of the phase that t lies in, which is the data if there
is one phase. The loss is $d(f(x_t, t), \mathrm{sg} f(x_{t + \delta}, t + \delta))$, the second point being
$x_t + \delta v$ with a teacher's v (distillation), or the same pair later (training). Several phases are PCM's.

Reference: Consistency Models, Song et al. (2023), https://arxiv.org/abs/2303.01469, algorithms 2 and 3; Phased
Consistency Models, Wang et al. (2024), https://arxiv.org/abs/2405.18407
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Context, Loss
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.flowmap import TransportField
from rheos.core.objectives import FlowMatching, Plan
from rheos.core.query import Query
from rheos.core.state import State, add, rows
from rheos.data.dataset import Data
from rheos.distill.inherited import inheriting
from rheos.distill.mdt_dist import transport
from rheos.distill.paired import Averaged, Paired
from rheos.distill.teacher import Teacher, field_of, refuse_shared
from rheos.train import Options, Run, Sampling, fit

__all__ = ["Consistency", "consistency"]


@final
@dataclass(frozen=True)
class Consistency(Paired, Averaged):
    """An objective of `train.fit` for a `TransportField`.

    Args:
        teacher: Whose step leads to the neighbouring point; None: both points are noised with one noise.
        delta: Distance of the two in time, in (0, 1).
        phases: Phases of equal length; sample with as many steps.
        flow: Coupling, source, times, premetric and dropout; squares without dropout at uniform times unless given.
        averaged: Whether the second jump is that of the average of weights that training keeps.

    Raises:
        OptionError: For a delta that does not fit a phase, or a number of phases below 1.

    Example:
        >>> Consistency(phases=2).ends(torch.tensor([0.1, 0.5]))
        tensor([0.5000, 1.0000])
    """

    teacher: Teacher | None = None
    delta: float = 0.01
    phases: int = 1
    flow: FlowMatching | None = None
    averaged: bool = False

    _swap: Callable[[], AbstractContextManager[Any]] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.flow is None:
            object.__setattr__(self, "flow", FlowMatching(dropout=0.0))
        if self.phases < 1 or not 0 < self.delta < 1 / self.phases:
            raise OptionError(
                f"delta must be shorter than a phase and phases at least 1, got {self.delta} and {self.phases}."
            )

    @property
    def sampling(self) -> Sampling:
        """A step a phase; of one phase any number, with fresh noise between where the noise is normal."""
        if self.phases > 1:
            return Sampling(self.phases, "euler")
        return Sampling(solver="renoise" if self.gaussian else None)

    def ends(self, t: Tensor) -> Tensor:
        """The end of the phase that each time lies in."""
        return ((t * self.phases).floor() + 1).clamp(max=self.phases) / self.phases

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Sources, couples, times.

        Raises:
            OptionError: For another kind of field, a state of several variables, or a student that is its teacher.
        """
        if not isinstance(field, TransportField):
            raise OptionError(f"A {type(field).__name__} is not sampled in one jump. Train distill.transport(field).")
        if isinstance(x1, dict) or field.path.noisy:
            raise OptionError("Consistency is trained on tensor states, on paths without noise of their own.")
        if self.teacher is not None:
            refuse_shared(field, self.teacher)
        plan = self.pairing.prepare(field, x1, cond, draws)
        if self.teacher is not None and not self.teacher.plain:
            plan = plan._replace(extra={**plan.extra, "scales": self.teacher.scales(rows(x1), draws)})
        return plan

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row."""
        low, high = field.finite
        t = cast(Tensor, plan.t).clamp(max=1 - 1e-6).clamp(low, high)
        end = self.ends(t)
        later = torch.minimum(t + self.delta, end)
        sample = field.path.sample(plan.x0, plan.x1, t)
        x = cast(Tensor, sample.xt)
        with torch.no_grad():
            if self.teacher is None:
                ahead = cast(Tensor, field.path.sample(plan.x0, plan.x1, later).xt)
            else:
                v = self.teacher.velocity(x, t, plan.cond, plan.extra.get("scales"))
                ahead = cast(Tensor, add(x, later - t, v))
            with self._swap() if self._swap is not None else nullcontext():
                target = self._jump(field, ahead, later.clamp(low, high), end, plan.cond)
        value = self._jump(field, x, t, end, plan.cond)
        losses = self.pairing.parts.premetric(value, target, Context(x, t))
        for name, part in plan.extra.items():
            losses = losses if name == "scales" else losses + part.to(losses)
        return Loss(losses, plan.weight.to(losses), plan.logs)

    def _jump(self, field: Field, x: Tensor, t: Tensor, end: Tensor, cond: Cond) -> Tensor:
        phi = field.answer(Query(x, t, (t, end), cond, "velocity")).value
        return cast(Tensor, add(x, end - t, phi))


def consistency(
    field: Field | Run,
    data: Data,
    *,
    steps: int,
    objective: Consistency | None = None,
    guidance: float = 1.0,
    out: str | Path | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Distil a field to a consistency model, with the same network.

    Args:
        field: The teacher, a field or a run.
        data: What the teacher learned from.
        steps: Optimiser steps.
        objective: A `Consistency`; one phase unless given. Without a teacher of its own it gets this one.
        guidance: Scale of the teacher's guidance, which becomes part of the student.
        out: Run directory, continued if it is there.
        options: Of `train.fit`; a learning rate of 3e-4 unless given.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run; `sample.draw(run.field, steps=1)` jumps, and `solver="renoise"` takes several steps.

    Raises:
        OptionError: For guidance beside an objective with a teacher.
        RheosError: As `train.fit`.
    """
    teacher, loss = field_of(field), objective or Consistency()
    if loss.teacher is not None and guidance != 1.0:
        raise OptionError("guidance belongs to the objective's teacher here: Consistency(Teacher(field, guidance)).")
    if loss.teacher is None:
        loss = replace(loss, teacher=Teacher(teacher, guidance))
    made = transport(teacher, cast(Teacher, loss.teacher).scale)
    return fit(
        made, loss, inheriting(data, field), steps=steps, out=out, options=options or Options(lr=3e-4),
        resume=out is not None, progress=progress,
    )  # fmt: skip
