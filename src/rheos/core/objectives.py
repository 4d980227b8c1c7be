r"""Objectives: coupling, times, path, premetric and weight put together.

`prepare` sees the whole (global) batch, once, because a coupling may need all of it; `loss` is evaluated on slices
of the plan. Losses come a row with weights normalised over the whole batch, so that 1 x 8, 2 x 4 and two
accumulated halves have one gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheos.core.base import Cond, Context, Coupling, Loss, Premetric, Source, TimeDistribution
from rheos.core.couplings import Independent, check_pairs, coupling
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import KINDS, Kind
from rheos.core.premetrics import premetric
from rheos.core.query import Query
from rheos.core.sources import Gaussian, source
from rheos.core.state import State, rows, select, where_rows
from rheos.core.times import TwoTimes, shifted, times
from rheos.core.weights import Weight, weight

__all__ = ["FlowMatching", "Objective", "Plan"]


class Plan(NamedTuple):
    """A batch ready for the network; every entry has rows first, so that it can be cut.

    Args:
        x0: Source.
        x1: Data.
        t: (B,) float64, or a dict of these.
        cond: Conditions, some already replaced by null.
        weight: (B,) float64, summing to one over the global batch.
        extra: Further losses by name, (B,) each.
        logs: Figures of the whole batch.
        noise: Of the path, where it has its own.
    """

    x0: State
    x1: State
    t: Tensor | dict[str, Tensor]
    cond: Cond
    weight: Tensor
    extra: Mapping[str, Tensor] = {}
    logs: Mapping[str, Tensor | float] = {}
    noise: State | None = None

    def slice(self, start: int, stop: int) -> "Plan":
        """Rows start..stop."""
        cut = slice(start, stop)
        return Plan(
            select(self.x0, cut),
            select(self.x1, cut),
            select(self.t, cut),
            {n: v[cut] for n, v in self.cond.items()},
            self.weight[cut],
            {n: v[cut] for n, v in self.extra.items()},
            self.logs,
            None if self.noise is None else select(self.noise, cut),
        )


@runtime_checkable
class Objective(Protocol):
    """What `train.fit` minimises."""

    @property
    def gaussian(self) -> bool:
        """Whether x0 is N(0, I) independent of x1 under this objective."""

    @property
    def consumes(self) -> tuple[str, ...]:
        """Columns of the batch that are used up and never reach the network."""

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "Objective":
        """The objective with everything fixed that depends on the data (a bandwidth); called once, before step 0."""

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """A plan for the whole batch."""

    def loss(self, field: Field, plan: Plan) -> Loss:
        """Losses of the rows of a plan, or of a slice of it."""


class Parts(NamedTuple):
    """The parts of a `FlowMatching`, resolved."""

    coupling: Coupling
    times: TimeDistribution
    premetric: Premetric
    weight: Weight
    source: Source


@dataclass(frozen=True)
class FlowMatching:
    r"""$E\, w(t)\, d(\hat y_\theta(x_t, t), y)$ over pairs, times and paths.

    Args:
        coupling: Which source goes with which data; a `Coupling` or its name.
        times: A `TimeDistribution` or its name; the field's shift is applied on top.
        premetric: A `Premetric` or its name.
        weight: A `Weight` or its name.
        source: The law at t = 0; a `Source` or its name.
        loss_on: The kind compared; the field's own unless given.
        dropout: Probability that a row's conditions are replaced by null, so that guidance has a null branch.

    Raises:
        OptionError: For a dropout outside [0, 1].

    Example:
        >>> FlowMatching(times="logit-normal").times
        LogitNormal(mean=0.0, std=1.0)

    Reference: Flow Matching, Lipman et al. (2023), eq. 9; rectified flow, Liu et al. (2023), eq. 1.
    """

    coupling: Coupling | str = field(default_factory=Independent)
    times: TimeDistribution | str = "uniform"
    premetric: Premetric | str = "mse"
    weight: Weight | str = "one"
    source: Source | str = field(default_factory=Gaussian)
    loss_on: Kind | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise OptionError(f"dropout must lie in [0, 1], got {self.dropout}.")
        if self.loss_on is not None:
            check_choice("loss_on", self.loss_on, KINDS)
        object.__setattr__(self, "coupling", coupling(self.coupling))
        object.__setattr__(self, "source", source(self.source))
        object.__setattr__(self, "times", times(self.times))
        if isinstance(self.times, TwoTimes):
            raise OptionError("Flow matching draws one time a row; TwoTimes is for flow maps.")
        object.__setattr__(self, "premetric", premetric(self.premetric))
        object.__setattr__(self, "weight", weight(self.weight))

    @property
    def parts(self) -> "Parts":
        """The parts as objects, never names."""
        return Parts(self.coupling, self.times, self.premetric, self.weight, self.source)  # type: ignore[arg-type]

    @property
    def gaussian(self) -> bool:
        """Whether x0 is N(0, I) independent of x1 under this objective."""
        return self.parts.source.gaussian and self.parts.coupling.gaussian

    @property
    def consumes(self) -> tuple[str, ...]:
        """Columns of the batch that the source uses up; the network never sees them."""
        return self.parts.source.consumes

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "FlowMatching":
        """Fix what the coupling measures on a pilot batch."""
        x0, cond = self._sources(x1, cond, draws)
        return replace(self, coupling=self.parts.coupling.prepare(x0, x1, cond, draws.fold("coupling")))

    def _sources(self, x1: State, cond: Cond, draws: Draws) -> tuple[State, Cond]:
        """Source rows, and the conditions that are left for the network."""
        if self.consumes:
            check_pairs(self.parts.coupling)
        x0 = self.parts.source(x1, cond, draws.fold("source"))
        return x0, {name: v for name, v in cond.items() if name not in self.consumes}

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Draw sources, couple, draw times, drop conditions.

        Raises:
            ShapeError: If the field's network and the data disagree is only seen in `loss`; here rows must agree.
        """
        n = rows(x1)
        if len(draws) != n:
            raise ShapeError(f"draws have {len(draws)} rows for a batch of {n}.")
        x0, cond = self._sources(x1, cond, draws)
        pairs = self.parts.coupling(x0, x1, cond, draws.fold("coupling"))
        t = shifted(self.parts.times, field.shift).sample(n, draws.fold("times"))
        w = torch.ones(n, dtype=torch.float64, device=draws.seed.device) if pairs.weight is None else pairs.weight
        noise = draws.normal(pairs.x1, "path") if field.path.noisy else None
        cond = self._drop(field, pairs.cond, draws)
        return Plan(pairs.x0, pairs.x1, t, cond, w / n, dict(pairs.losses), dict(pairs.logs), noise)

    def _drop(self, field: Field, cond: Cond, draws: Draws) -> Cond:
        if not self.dropout or not cond:
            return cond
        gone = draws.uniform("dropout") < self.dropout
        null = field.null(cond)
        return {name: where_rows(gone, null[name].to(v), v) for name, v in cond.items()}  # type: ignore[misc]

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row."""
        own = self.loss_on or field.predicts
        low, high = field.finite
        if own == "score":  # a score grows without bound at both ends
            low, high = max(low, 1e-3), min(high, 1 - 1e-3)
        t = plan.t if isinstance(plan.t, dict) or (low, high) == (0.0, 1.0) else plan.t.clamp(low, high)
        sample = field.path.sample(plan.x0, plan.x1, t, **({"noise": plan.noise} if field.path.noisy else {}))
        told = field.answer(Query(sample.xt, t, (t, t), plan.cond, own, grad=torch.is_grad_enabled()))
        metric = self.parts.premetric
        context = Context(sample.xt, t)  # type: ignore[arg-type]
        if metric.on != "prediction":
            estimate = field.path.convert(told.value, sample.xt, t, own, "data")
            context = context._replace(data=estimate, target=plan.x1)
        if metric.on == "data":
            losses = metric(estimate, plan.x1, context)
        else:
            losses = metric(told.value, field.path.target(sample, own), context)
        kind: Kind = "data" if metric.on == "data" else own
        scale = self.parts.weight.factor(t, field.path, kind)
        losses = losses * scale.to(losses)
        for part in plan.extra.values():
            losses = losses + part.to(losses)
        return Loss(losses, plan.weight.to(losses), plan.logs)
