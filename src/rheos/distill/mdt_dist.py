r"""MDT-dist: a network with one time learns to jump to the data.

The marginal-data transport is $X_{t \to 1}(x) = x + (1 - t)\,\phi(x, t)$ with phi the average velocity over [t, 1].
Along the teacher's flow $v = u_\phi := \phi - (1 - t) \frac{d}{dt} \phi$. *Velocity matching* regresses phi on
$v_T + (1 - t) \frac{d}{dt} \phi$; *velocity distillation* pushes one-step samples along $u_\phi - v_T$, a difference of
scores whose student half is the student itself. No discriminator, no second network.

Reference: MDT-dist, Zhou et al. (2025), https://arxiv.org/abs/2509.04406, eq. 8 and 14.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Context, Loss
from rheos.core.derivative import Derivative, inject_gradient
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.flowmap import FlowMapField, TransportField
from rheos.core.objectives import FlowMatching, Plan
from rheos.core.packed import masked_mean
from rheos.core.paths import AffinePath
from rheos.core.query import Query
from rheos.core.state import State, add, rows, scale
from rheos.data.dataset import Data
from rheos.distill.inherited import inheriting
from rheos.distill.paired import Paired
from rheos.distill.teacher import Teacher, field_of, refuse_shared
from rheos.train import Options, Run, Sampling, fit

__all__ = ["TransportLoss", "mdt_dist", "transport"]

_OWN = ("first", "second", "scales", "scales of distillation")


@final
@dataclass(frozen=True)
class TransportLoss(Paired):
    r"""$\lambda_{VM} L_{VM} + \lambda_{VD} L_{VD}$; an objective of `train.fit` for a `TransportField`.

    $L_{VM} = \lVert \phi(x_t, t) - \mathrm{sg}(v_T + (1 - t) \frac{d}{dt} \phi) \rVert^2$ on noised data. $L_{VD}$ has
    the gradient $g\, \partial \phi(z, 0)$ with $g = u_\phi(x'_t, t) - v_T(x'_t, t)$ on a one-step sample
    $x' = z + \phi(z, 0)$, noised afresh to the same t. Both are means over the elements of a row.

    A network on padded sets says which of its conditions marks the tokens that exist, `net.present = "mask"`; noise,
    norms and means then know these alone (`rheos.core.packed`).

    Args:
        teacher: Whose flow is followed, with the guidance of velocity matching.
        derivative: Of phi along the teacher's velocity; a finite difference of 0.01 unless given. Times are squeezed so
            that none steps beyond 1.
        flow: Coupling, source, times, dropout; squares without dropout at uniform times unless given.
        matching: Weight of velocity matching.
        distillation: Weight of velocity distillation.
        after: Steps of training before distillation begins.
        guidance: Of the teacher in distillation; as in matching unless given.

    Raises:
        OptionError: For negative weights, both zero, a negative `after`, or guidance of a teacher without conditions.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> TransportLoss(Teacher(GaussianMixtureField([[2.0]], [0.5]))).derivative
        Derivative(mode='fd', delta=0.01, normalize='none')
    """

    teacher: Teacher
    derivative: Derivative | None = None
    flow: FlowMatching | None = None
    matching: float = 1.0
    distillation: float = 0.1
    after: int = 0
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.derivative is None:
            object.__setattr__(self, "derivative", Derivative("fd"))
        if self.flow is None:
            object.__setattr__(self, "flow", FlowMatching(dropout=0.0))
        if min(self.matching, self.distillation) < 0 or self.matching + self.distillation == 0:
            raise OptionError(f"Weights are at least 0 and not both 0, got {self.matching} and {self.distillation}.")
        if self.after < 0:
            raise OptionError(f"after counts steps, at least 0, got {self.after}.")
        if self.guidance not in (None, 1.0) and not self.teacher.field.conditions:
            raise OptionError(f"guidance {self.guidance} needs a conditional teacher; this one takes no conditions.")

    @property
    def sampling(self) -> Sampling:
        """Jumps with fresh noise between, where the noise is normal."""
        return Sampling(solver="renoise" if self.gaussian else None)

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Sources, couples, times; and the two noises of distillation, once it has begun.

        Raises:
            OptionError: For another kind of field, a state of several variables, or a student that is its teacher.
        """
        self._check(field, x1)
        plan, n = self.pairing.prepare(field, x1, cond, draws), rows(x1)
        t, how = cast(Tensor, plan.t), cast(Derivative, self.derivative)
        extra: dict[str, Tensor] = dict(plan.extra)
        if self.distillation and (draws.step is None or draws.step >= self.after):
            like = cast(Tensor, plan.x0)
            extra |= {name: cast(Tensor, self.source(like, cond, draws.fold(name))) for name in ("first", "second")}
            if self.guidance is not None:
                extra["scales of distillation"] = torch.full_like(t, self.guidance)
        if not self.teacher.plain:
            extra["scales"] = self.teacher.scales(n, draws)
        squeezed = t * (1 - how.delta) if how.mode == "fd" else t
        return plan._replace(t=squeezed, extra=extra)

    def _check(self, field: Field, x1: State) -> None:
        if isinstance(field, FlowMapField):
            raise OptionError("This field has two times: train it with FlowMapLoss, by rheos.distill.splitmeanflow.")
        if not isinstance(field, TransportField):
            raise OptionError(
                f"A {type(field).__name__} is not sampled in one jump. Train distill.transport(field), or call "
                "rheos.distill.mdt_dist(field, data)."
            )
        if isinstance(x1, dict) or field.path.noisy:
            raise OptionError("The transport is trained on tensor states, on paths without noise of their own.")
        refuse_shared(field, self.teacher)

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row, with `matching` and `distillation` in the log."""
        self._check(field, plan.x1)
        low, high = field.finite
        t = cast(Tensor, plan.t)
        t = t if (low, high) == (0.0, 1.0) else t.clamp(low, high)
        present = _present(field, plan.cond)
        total, logs = None, dict(plan.logs)
        if self.matching:
            total, logs["matching"] = self._match(field, plan, t, present)
        if "first" in plan.extra:
            pushed = self._distil(field, plan, t, present)
            logs["distillation"] = pushed.detach().mean()
            total = self.distillation * pushed if total is None else total + self.distillation * pushed
        if total is None:  # only distillation is wanted, and it has not begun
            total = _ask(field, cast(Tensor, plan.x0), t, plan.cond).flatten(1).sum(1) * 0.0
        for name, part in plan.extra.items():
            total = total if name in _OWN else total + part.to(total)
        return Loss(total, plan.weight.to(total), logs)

    def _match(self, field: Field, plan: Plan, t: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        x = _kept(cast(Tensor, field.path.sample(plan.x0, plan.x1, t).xt), present)
        value = _ask(field, x, t, plan.cond)
        target = self._target(field, x, t, value.detach(), plan.cond, plan.extra.get("scales"), present)
        metric, context = self.pairing.parts.premetric, Context(x, t)
        losses = (
            masked_mean((value - target).square(), present) if present is not None else metric(value, target, context)
        )
        scale = self.pairing.parts.weight.factor(t, field.path, "velocity")
        return self.matching * losses * scale.to(losses), losses.detach().mean()

    def _distil(self, field: Field, plan: Plan, t: Tensor, present: Tensor | None) -> Tensor:
        start = torch.zeros_like(t).clamp(min=field.finite[0])
        level = cast(AffinePath, field.path).law.sigma(start)  # sampling begins with this noise
        z = _kept(cast(Tensor, scale(level, plan.extra["first"])), present)
        jump = _ask(field, z, start, plan.cond)
        with torch.no_grad():
            fake = cast(Tensor, add(z, 1 - start, jump.detach()))
            x = _kept(cast(Tensor, field.path.sample(plan.extra["second"], fake, t).xt), present)
            value = _ask(field, x, t, plan.cond)
            scales = plan.extra.get("scales of distillation", plan.extra.get("scales"))
            g = value - self._target(field, x, t, value, plan.cond, scales, present)
        if present is None:
            return inject_gradient(jump, g)
        return masked_mean((jump - (jump - g).detach()).square(), present)

    @torch.no_grad()
    def _target(
        self,
        field: Field,
        x: Tensor,
        t: Tensor,
        value: Tensor,
        cond: Cond,
        scales: Tensor | None,
        present: Tensor | None,
    ) -> Tensor:
        """v_T + (1 - t) dphi/dt: phi minus this is u_phi - v_T."""
        v = _kept(self.teacher.velocity(x, t, cond, scales), present)
        how = cast(Derivative, self.derivative)
        slope = how(lambda a, b: _kept(_ask(field, a, b, cond), present), x, t, v, value=_kept(value, present))
        return cast(Tensor, add(v, 1 - t, slope))


def _ask(field: Field, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return cast(Tensor, field.answer(Query(x, t, (t, t), cond, "velocity")).value)


def _present(field: Field, cond: Cond) -> Tensor | None:
    name = getattr(field.net, "present", None)
    return None if name is None else cond[name]


def _kept(x: Tensor, present: Tensor | None) -> Tensor:
    return x if present is None else x * present.to(x.dtype).unsqueeze(-1)


def transport(teacher: Field, baked: float = 1.0) -> TransportField:
    """A copy of a field that is to learn to jump: the same network and path, ready to train.

    Args:
        teacher: The field; it is copied.
        baked: Scale of the guidance that training will put in.

    Raises:
        OptionError: For a field with two times, or around another one.

    Example:
        >>> from rheos.nets import MLP
        >>> field = Field(MLP(2))
        >>> x = torch.randn(3, 2)
        >>> torch.equal(transport(field)(x, 0.2), field(x, 0.2))
        True
    """
    if isinstance(teacher, FlowMapField):
        raise OptionError("This field has two times and jumps already. Train it with rheos.distill.splitmeanflow.")
    if not (teacher.bare or type(teacher) is TransportField):
        raise OptionError(
            f"A {type(teacher).__name__} is a field of its own kind. Distil the field that it is made of."
        )
    made = TransportField(copy.deepcopy(teacher.net), teacher.path, teacher.predicts, baked=baked, **teacher.about)
    return made.train().requires_grad_(True)


def mdt_dist(
    field: Field | Run,
    data: Data,
    *,
    steps: int,
    objective: TransportLoss | None = None,
    guidance: float = 1.0,
    out: str | Path | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Distil a field to one that jumps to the data, with the same network.

    Args:
        field: The teacher, a field or a run.
        data: What the teacher learned from.
        steps: Optimiser steps.
        objective: A `TransportLoss` with a teacher; velocity matching, and for the last three tenths of the steps a
            tenth of velocity distillation, unless given.
        guidance: Scale of the teacher's guidance, which becomes part of the student.
        out: Run directory, continued if it is there.
        options: Of `train.fit`; a learning rate of 3e-4 unless given.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run; `sample.draw(run.field, steps=1)` jumps.

    Raises:
        OptionError: For guidance beside an objective, which has its own.
        RheosError: As `train.fit`.

    Example:
        >>> from rheos import data, nets
        >>> field = Field(nets.MLP(2, hidden=8, depth=1))
        >>> run = mdt_dist(field, data.load("moons", limit=64), steps=2, options=Options(batch=16))
        >>> type(run.field).__name__
        'TransportField'
    """
    teacher = field_of(field)
    if objective is not None and guidance != 1.0:
        raise OptionError("guidance belongs to the objective's teacher here: TransportLoss(Teacher(field, guidance)).")
    loss = objective or TransportLoss(Teacher(teacher, guidance), after=round(0.7 * steps))
    return fit(
        transport(teacher, loss.teacher.scale), loss, inheriting(data, field), steps=steps, out=out,
        options=options or Options(lr=3e-4), resume=out is not None, progress=progress,
    )  # fmt: skip
