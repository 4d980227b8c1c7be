r"""The losses of flow maps: splitting, halving, MeanFlow by forward mode or finite difference, improved MeanFlow.

A flow map's average velocity u over [s, t] obeys, for every m between,
$u(x_s, s, t) = \lambda u(x_s, s, m) + (1 - \lambda) u(x_m, m, t)$ with $\lambda = (m - s) / (t - s)$ and
$x_m = x_s + (m - s) u(x_s, s, m)$. SplitMeanFlow regresses the left side on the right: three plain calls. As m falls
to s the identity becomes MeanFlow's, $u = v + (t - s) \frac{d}{ds} u$, whose derivative needs forward mode; with
$\lambda = 1/2$ it is that of shortcut models. The boundary is u(x, s, s) = v(x, s).

Reference: SplitMeanFlow, Guo et al. (2025), https://arxiv.org/abs/2507.16884; Mean Flows, Geng et al. (2025),
https://arxiv.org/abs/2505.13447
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast, final

import torch
from torch import Tensor

from rheos.core.adaptive import Adaptive
from rheos.core.base import Cond, Context, Loss, TimeDistribution
from rheos.core.derivative import Derivative
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, check_choice
from rheos.core.field import Field
from rheos.core.flowmap import FlowMapField
from rheos.core.intervals import apart, intervals
from rheos.core.objectives import FlowMatching, Parts, Plan
from rheos.core.premetrics import MSE
from rheos.core.state import State, add, lerp, rows, where_rows
from rheos.core.time_laws import LogitNormal
from rheos.core.times import TwoTimes, shifted
from rheos.distill.paired import Averaged, Paired
from rheos.distill.teacher import Teacher, refuse_shared

__all__ = ["FlowMapLoss", "Target", "split_target"]

Target = Literal["split", "half", "jvp", "fd", "imf"]
TARGETS = ("split", "half", "jvp", "fd", "imf")
_OWN = ("apart", "lam", "dropped", "scales")


@final
@dataclass(frozen=True)
class FlowMapLoss(Paired, Averaged):
    r"""$d(u_\theta(x_s, s, t), \mathrm{sg}(\text{target}))$ over data, noise and intervals; for `train.fit`.

    Where s = t the target is the velocity: the teacher's with its guidance, or else the path's, $x_1 - x_0$. Elsewhere:

    - "split": $\lambda u(x_s, s, m) + (1 - \lambda) u(x_m, m, t)$, lambda uniform; three calls, no transform.
    - "half": likewise with lambda = 1/2; with `times=Dyadic()` it is the target of shortcut models.
    - "jvp": MeanFlow, $v + (t - s) \frac{d}{ds} u$ along v.
    - "fd": likewise by a finite difference.
    - "imf": improved MeanFlow; the derivative is taken along the predicted velocity u(x, s, s), so that what is
      compared with $x_1 - x_0$ depends on x alone.

    Args:
        target: Which target.
        times: Law of the intervals, with its share of s = t: `TwoTimes`, `Dyadic`, `TwoLaws` or `Deployed`. Unless
            given, uniform with half of the rows on s = t; for the three kinds of MeanFlow logit-normal (0.4, 1) with
            three quarters.
        flow: Coupling, source, premetric, weight and dropout; its own times are not used. Unless given, squares for
            "split" and "half", `Adaptive` for the others; conditions are dropped in a tenth of the rows, or in none
            where a teacher guides.
        teacher: Whose velocity is the boundary; None: learn from scratch.
        guidance: Without a teacher: (w, k) of MeanFlow's guided target
            $w v + (1 - w - k) u_\varnothing(x, s, s) + k u_c(x, s, s)$, in effect a scale of w / (1 - k).
        derivative: How "fd" and the others differentiate; "fd" takes its delta alone.
        averaged: Whether targets come from the average of weights that training keeps.

    Raises:
        OptionError: For a law without intervals, one whose share of s = t is zero, a premetric on data estimates,
            or guidance out of range.
        UnknownOptionError: For an unknown target.

    Example:
        >>> FlowMapLoss("jvp").times
        TwoTimes(inner=LogitNormal(mean=0.4, std=1.0), equal=0.75)

    Reference: Guo et al. (2025), algorithm 1; Geng et al. (2025), algorithm 1 and eq. 21; improved Mean Flows (2025).
    """

    target: Target = "split"
    times: TimeDistribution | None = None
    flow: FlowMatching | None = None
    teacher: Teacher | None = None
    guidance: tuple[float, float] = (1.0, 0.0)
    derivative: Derivative | None = None
    averaged: bool = False

    _swap: Callable[[], AbstractContextManager[Any]] | None = field(default=None, init=False, repr=False, compare=False)
    """What puts the average of weights into the network; `averaging` sets it."""

    def __post_init__(self) -> None:
        check_choice("target", self.target, TARGETS)
        mean = self.target in ("jvp", "fd", "imf")
        law = self.times or (TwoTimes(LogitNormal(0.4, 1.0), 0.75) if mean else TwoTimes("uniform", 0.5))
        if not 0 < intervals(law).equal <= 1:
            raise OptionError("The share of rows with s = t must lie in (0, 1]: without them no velocity is learned.")
        object.__setattr__(self, "times", law)
        dropout = 0.0 if self.teacher is not None else 0.1
        flow = self.flow or FlowMatching(premetric=Adaptive() if mean else MSE(), dropout=dropout)
        object.__setattr__(self, "_flow", flow)
        if self.parts.premetric.on != "prediction":
            raise OptionError(f"{type(self.parts.premetric).__name__} looks at data estimates; a flow map compares u.")
        w, k = self.guidance
        if not (0 <= k < 1) or not w >= 0:
            raise OptionError(f"guidance is (w, k) with w >= 0 and 0 <= k < 1, got {self.guidance}.")
        if self.guided and self.teacher is not None:
            raise OptionError("With a teacher the guidance is the teacher's: Teacher(field, guidance=2.0).")
        how = Derivative("fd", 5e-3) if self.target == "fd" else Derivative()
        object.__setattr__(self, "derivative", self.derivative or how)
        if (self.target == "fd") != (self._how.mode == "fd"):
            raise OptionError(f"target={self.target!r} and Derivative({self._how.mode!r}) disagree.")

    @property
    def pairing(self) -> FlowMatching:
        """`flow`, or what stands for it."""
        return cast(FlowMatching, self._flow)  # type: ignore[attr-defined]

    @property
    def parts(self) -> Parts:
        """Coupling, premetric, weight and source."""
        return self.pairing.parts

    @property
    def _how(self) -> Derivative:
        return cast(Derivative, self.derivative)

    @property
    def guided(self) -> bool:
        """Whether the target is guided without a teacher."""
        return self.guidance != (1.0, 0.0)

    @property
    def scale(self) -> float:
        """The guidance that the weights will hold."""
        if self.teacher is not None:
            return self.teacher.scale
        return self.guidance[0] / (1 - self.guidance[1])

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Sources, couples, intervals, split points.

        Raises:
            OptionError: For a field that is no flow map, a state of several variables, a student that is its own
                teacher, or a network wrapped for several processes with a target that needs forward mode.
        """
        self._check(field, x1)
        flow, n = self.pairing, rows(x1)
        plan = flow.prepare(field, x1, cond, draws)
        law = intervals(shifted(cast(TimeDistribution, self.times), field.shift))
        t, far = apart(law, n, draws.fold("intervals"))
        extra: dict[str, Tensor] = {**plan.extra, "apart": far}
        if self.target == "split":
            extra["lam"] = draws.uniform("split")
        if self.guided:  # the same numbers as in the flow's own dropout
            extra["dropped"] = draws.uniform("dropout") < flow.dropout
        if self.teacher is not None and not self.teacher.plain:
            extra["scales"] = self.teacher.scales(n, draws)
        return plan._replace(t=t, extra=extra)

    def _check(self, field: Field, x1: State) -> None:
        if not isinstance(field, FlowMapField):
            raise OptionError(
                f"A flow map has two times, and this is a {type(field).__name__}. Train "
                "core.FlowMapField(nets.TwoTimeAdapter(net)), or call rheos.distill.splitmeanflow(field, data)."
            )
        if isinstance(x1, dict) or field.path.noisy:
            raise OptionError("Flow maps are trained on tensor states, on paths without noise of their own.")
        if self.teacher is not None:
            refuse_shared(field, self.teacher)
        if self.target in ("jvp", "imf") and _wrapped(field.net):
            raise OptionError(
                f"target={self.target!r} differentiates through the network, which is wrapped for several processes: "
                "forward mode fails or skips the exchange there. Take target='split' or 'fd', or parallel='ddp' of fit."
            )

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row."""
        self._check(field, plan.x1)
        field = cast(FlowMapField, field)
        (low, high), pair = field.finite, cast(Tensor, plan.t)
        if (low, high) != (0.0, 1.0):
            pair = pair.clamp(low, high)
        s, t = pair[:, 0].contiguous(), pair[:, 1].contiguous()
        sample = field.path.sample(plan.x0, plan.x1, s)
        x = cast(Tensor, sample.xt)
        with torch.no_grad(), self._swap() if self._swap is not None else nullcontext():
            target, instant = self._target(field, x, cast(Tensor, sample.u), s, t, plan)
        value = cast(Tensor, field.between(x, s, t, plan.cond))
        context = Context(x, s)
        losses = self.parts.premetric(value, target, context)
        if instant is not None:
            head = cast(Any, field.net).velocity(x, field.door(s, x), **plan.cond)
            losses = losses + self.parts.premetric(head, instant, context)
        losses = losses * self.parts.weight.factor(s, field.path, "velocity").to(losses)
        for name, part in plan.extra.items():
            losses = losses if name in _OWN else losses + part.to(losses)
        error = MSE()(value.detach(), target, context).mean()
        return Loss(losses, plan.weight.to(losses), {**plan.logs, "error": error})

    def _target(
        self, field: FlowMapField, x: Tensor, u: Tensor, s: Tensor, t: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor | None]:
        """The target of each row; and that of a velocity head, where the network has one and it is used."""
        far = plan.extra["apart"].nonzero()[:, 0].to(x.device, non_blocking=True)
        near = (~plan.extra["apart"]).nonzero()[:, 0].to(x.device, non_blocking=True)
        every = self.target not in ("split", "half")
        target = self._velocity(field, x, u, s, plan, None if every else near)
        head = self.target == "imf" and hasattr(field.net, "velocity")
        instant = target.clone() if head else None
        if not len(far):
            return target, instant
        cond = {name: v[far] for name, v in plan.cond.items()}
        row = (x[far], s[far], t[far])
        if every:
            return self._differential(field, target, far, row, cond), instant
        lam = plan.extra["lam"][far] if self.target == "split" else torch.full_like(row[1], 0.5)
        return target.index_copy(0, far, split_target(field, *row, lam, cond)), None

    def _differential(
        self, field: FlowMapField, target: Tensor, far: Tensor, row: tuple[Tensor, Tensor, Tensor], cond: Cond
    ) -> Tensor:
        """V + (t - s) du/ds on the rows that are apart."""
        x, s, t = row
        along = target[far]
        if self.target == "imf":
            own = getattr(field.net, "velocity", None)
            along = own(x, field.door(s, x), **cond) if own is not None else cast(Tensor, field.between(x, s, s, cond))
        slope = self._how(lambda a, b: cast(Tensor, field.between(a, b, t, cond)), x, s, along, end=t)
        return target.index_copy(0, far, cast(Tensor, add(target[far], t - s, slope)))

    def _velocity(
        self, field: FlowMapField, x: Tensor, u: Tensor, s: Tensor, plan: Plan, near: Tensor | None
    ) -> Tensor:
        """The boundary's velocity, on some rows or on all; where it is not asked for, anything."""
        if self.teacher is None and not self.guided:
            return u
        if near is not None and not len(near):
            return u
        pick = slice(None) if near is None else near
        cond, extra = {name: v[pick] for name, v in plan.cond.items()}, plan.extra
        if self.teacher is not None:
            scales = extra["scales"][pick] if "scales" in extra else None
            v = self.teacher.velocity(x[pick], s[pick], cond, scales)
        else:
            v = self._mixed(field, x[pick], u[pick], s[pick], cond, extra["dropped"][pick])
        return v if near is None else u.index_copy(0, near, v)

    def _mixed(self, field: FlowMapField, x: Tensor, u: Tensor, s: Tensor, cond: Cond, dropped: Tensor) -> Tensor:
        """MeanFlow's guided velocity; rows without conditions keep their own."""
        w, k = self.guidance
        mixed = w * u + (1 - w - k) * cast(Tensor, field.between(x, s, s, field.null(cond)))
        if k:
            mixed = mixed + k * cast(Tensor, field.between(x, s, s, cond))
        return cast(Tensor, where_rows(dropped, u, mixed))


def split_target(field: FlowMapField, x: Tensor, s: Tensor, t: Tensor, lam: Tensor, cond: Cond | None = None) -> Tensor:
    r"""$\lambda u(x, s, m) + (1 - \lambda) u(x_m, m, t)$, $m = s + \lambda (t - s)$: what the two halves say of u.

    Args:
        field: The flow map.
        x: State at s.
        s: Start, (B,).
        t: End, (B,).
        lam: Where to split, (B,) in [0, 1].
        cond: Conditions.
    """
    m = s + lam * (t - s)
    first = field.between(x, s, m, cond or {})
    second = field.between(add(x, m - s, first), m, t, cond or {})
    return cast(Tensor, lerp(second, first, lam))


def _wrapped(net: torch.nn.Module) -> bool:
    """Whether a network is inside DDP or sharded."""
    names = {type(net).__name__, *(base.__name__ for base in type(net).__mro__)}
    return bool(names & {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"})
