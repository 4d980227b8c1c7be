r"""Couplings: which source sample goes with which data sample.

A coupling draws $(x_0, x_1) \sim \pi$ with both marginals kept, so the flow learned on it reaches the same
data, along straighter paths. These reorder the *source*: data rows stay where they are, and a label or a
caption cannot come apart from its picture. Where x0 is no longer independent of x1, the posterior mean of x0
at $x_t$ is no longer a multiple of the score, and the coupling says `gaussian = False`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from rheos.core.assignment import assignment
from rheos.core.base import Cond, Coupling, Pairs
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, check_choice
from rheos.core.gibbs import Gibbs
from rheos.core.pair_costs import check_price, pair_costs
from rheos.core.state import State, concat, select
from rheos.core.transport import check_entropic, check_rows, sinkhorn
from rheos.core.unbalanced import Unbalanced

__all__ = [
    "ExactOT", "Gibbs", "GivenPairs", "Independent", "PerCondition", "Sinkhorn", "Unbalanced", "check_pairs",
    "coupling",
]  # fmt: skip

Logs = Mapping[str, Tensor | float]


@final
@dataclass(frozen=True)
class Independent(Coupling):
    """Source and data as they come: conditional flow matching, the first rectified flow."""

    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """The rows as they are."""
        return Pairs(x0, x1, cond)


@final
@dataclass(frozen=True)
class GivenPairs(Coupling):
    """The data set delivers x0 with each x1 (reflow, translation, restoration); the pairs are left alone."""

    gaussian = False
    accepts_pairs = True

    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """The pairs as they are."""
        check_rows(x0, x1)
        return Pairs(x0, x1, cond)


@final
@dataclass(frozen=True)
class ExactOT(Coupling):
    r"""Cheapest pairing of a batch, $\min_\pi \sum_i \lVert x_0^{\pi(i)} - x_1^i \rVert^p$; $O(b^3)$, on the CPU.

    The distance runs over all elements of a row; squared distances of a dict's parts are summed.

    Args:
        power: The exponent p, at least 1.
        condition: A condition whose difference costs as well (see `core.pair_costs`), or None.
        beta: The price of unequal conditions, in the unit of the cost.

    Example:
        >>> pairs = ExactOT()(torch.tensor([[0.0], [9.0]]), torch.tensor([[8.0], [1.0]]), {}, Draws(torch.arange(2)))
        >>> pairs.x0.flatten(), pairs.index0
        (tensor([9., 0.]), tensor([1, 0]))

    Reference: minibatch OT-CFM, Tong et al. (2023), https://arxiv.org/abs/2302.00482
    """

    power: float = 2.0
    condition: str | None = None
    beta: float = 0.0
    gaussian = False

    def __post_init__(self) -> None:
        check_price(self.condition, self.beta)
        if not 1 <= self.power < float("inf"):
            raise OptionError(f"power must be at least 1, got {self.power}.")

    @torch.no_grad()
    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Reorder the source.

        Raises:
            ShapeError: If source and data differ in shape.
            NonFiniteError: If a row is not finite.
        """
        cost = pair_costs(x0, x1, cond, self.power, self.condition, self.beta)
        index = assignment(cost)
        mean = cost.gather(0, index[None]).mean()
        return Pairs(select(x0, index), x1, cond, index0=index, logs={"pair_cost": mean})


@final
@dataclass(frozen=True)
class Sinkhorn(Coupling):
    r"""Pairs of an entropic plan, $\pi_{ij} \propto e^{(f_i + g_j - c_{ij})/\varepsilon}$, c the squared distance.

    Every data row is used exactly once: for data row j a source row is drawn from $\pi(i \mid j)$, never a pair
    from the whole plan, which would repeat some data rows and drop others of each batch. What that leaves open
    is the source side. "conditional" draws follow the plan exactly, so a source row may serve twice in a batch
    and the source law holds on average over batches. "permutation" uses each source row once as well: the
    assignment that maximises $\ln \pi$ plus Gumbel noise, which is the exact one as epsilon goes to 0, a
    uniformly random one as it goes to infinity, and in between close to the plan but not exactly it.

    Args:
        epsilon: Regularisation, in units of squared distance, positive.
        iterations: Limit on Sinkhorn iterations.
        tolerance: Share of mass that may sit on the wrong source row.
        sampled: "conditional" or "permutation".
        condition: A condition whose difference costs as well, or None.
        beta: The price of unequal conditions, in units of squared distance.

    Reference: Tong et al. (2023), https://arxiv.org/abs/2302.00482; Papandreou & Yuille (2011) for perturb-and-MAP.
    """

    epsilon: float
    iterations: int = 1000
    tolerance: float = 1e-3
    sampled: Literal["conditional", "permutation"] = "conditional"
    condition: str | None = None
    beta: float = 0.0
    gaussian = False

    def __post_init__(self) -> None:
        check_price(self.condition, self.beta)
        check_entropic(self.epsilon, self.iterations, self.tolerance)
        check_choice("sampled", self.sampled, ("conditional", "permutation"))

    @torch.no_grad()
    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Choose a source row for each data row.

        Warns:
            RuntimeWarning: If the plan has not converged.
        """
        cost = pair_costs(x0, x1, cond, 2.0, self.condition, self.beta)
        plan = sinkhorn(cost, self.epsilon, self.iterations, self.tolerance)
        if not plan.converged:
            warnings.warn(
                f"Sinkhorn left {plan.error:.2g} of the mass on wrong rows after {self.iterations} iterations. "
                f"Raise iterations, or epsilon={self.epsilon:g} (the mean cost is {float(cost.mean()):.3g}).",
                RuntimeWarning,
                stacklevel=2,
            )
        log = plan.log.T.contiguous()  # a data row's choices side by side
        if self.sampled == "permutation":
            gumbel = -(-draws.uniform("plan", shape=(len(log),)).to(log.device).log()).log()
            index = assignment(-(log + gumbel).T)
        else:
            u = draws.uniform("plan", shape=(1,)).to(log.device)
            below = log.exp_().cumsum(1)
            index = torch.searchsorted(below, u * below[:, -1:]).squeeze(1).clamp_(max=len(log) - 1)
        logs: Logs = {"pair_cost": cost.gather(0, index[None]).mean(), "plan_error": plan.error}
        return Pairs(select(x0, index), x1, cond, index0=index, logs=logs)


@final
@dataclass(frozen=True)
class PerCondition(Coupling):
    """Another coupling inside each group of rows with equal condition.

    Transport over a whole conditional batch gives each class its own part of the source, though sampling starts
    every class anywhere; within groups the source stays independent of the condition. Weights are then
    normalised within groups too. A group of one row is left as it is, so conditions should repeat in a batch.

    Args:
        inner: The coupling, or its name.
        name: The condition that makes the groups.

    Example:
        >>> couple = PerCondition("exact-ot")
        >>> x0, x1 = torch.tensor([[0.0], [9.0], [5.0]]), torch.tensor([[8.0], [1.0], [7.0]])
        >>> couple(x0, x1, {"label": torch.tensor([0, 0, 1])}, Draws(torch.arange(3))).index0
        tensor([1, 0, 2])
    """

    inner: Coupling | str
    name: str = "label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", coupling(self.inner))
        object.__setattr__(self, "gaussian", self.law.gaussian)
        object.__setattr__(self, "accepts_pairs", self.law.accepts_pairs)

    @property
    def law(self) -> Coupling:
        """The inner coupling, never a name."""
        return self.inner  # type: ignore[return-value]

    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Couple group by group.

        Raises:
            ConditionError: If the batch has no such condition.
        """
        check_rows(x0, x1)
        if self.name not in cond:
            known = ", ".join(sorted(cond)) or "none"
            raise ConditionError(f"PerCondition groups by {self.name!r}, which the batch lacks; it has: {known}.")
        _, group, sizes = torch.unique(cond[self.name], dim=0, return_inverse=True, return_counts=True)
        members = group.argsort(stable=True).split(sizes.tolist())
        parts = [
            self.law(
                select(x0, m), select(x1, m), {k: v[m] for k, v in cond.items()}, draws.select(m.to(draws.seed.device))
            )
            for m in members
        ]
        return _assemble(parts, list(members))

    def prepare(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Coupling:
        """Prepare the inner coupling on the whole pilot."""
        inner = self.law.prepare(x0, x1, cond, draws)
        return self if inner is self.inner else replace(self, inner=inner)


def _assemble(parts: list[Pairs], members: list[Tensor]) -> Pairs:
    """Groups put back in the order of the batch."""
    back = torch.cat(members).argsort()
    n = len(back)

    def ordered(columns: list[Tensor]) -> Tensor:
        return torch.cat(columns)[back]

    def indices(of: list[Tensor | None]) -> Tensor | None:
        if all(i is None for i in of):
            return None
        return ordered([m if i is None else m[i] for i, m in zip(of, members, strict=True)])

    weight = None
    if any(p.weight is not None for p in parts):
        ones = (torch.ones(len(m), dtype=torch.float64, device=m.device) for m in members)
        weight = ordered([one if p.weight is None else p.weight for p, one in zip(parts, ones, strict=True)])
    shares = [len(m) / n for m in members]
    logs: list[Logs] = [{k: v * share for k, v in p.logs.items()} for p, share in zip(parts, shares, strict=True)]
    return Pairs(
        select(concat([p.x0 for p in parts]), back),
        select(concat([p.x1 for p in parts]), back),
        {k: ordered([p.cond[k] for p in parts]) for k in parts[0].cond},
        weight,
        indices([p.index0 for p in parts]),
        indices([p.index1 for p in parts]),
        {k: ordered([p.losses[k] for p in parts]) for k in parts[0].losses},
        _sums(logs),
    )


def _sums(logs: list[Logs]) -> Logs:
    return {k: sum((one[k] for one in logs[1:]), start=logs[0][k]) for k in logs[0]}


def check_pairs(law: Coupling) -> None:
    """Raise `OptionError` unless the coupling may meet data that come in pairs.

    Example:
        >>> check_pairs(ExactOT())
        Traceback (most recent call last):
        ...
        rheos.core.errors.OptionError: ExactOT would re-couple data that come in pairs. Use GivenPairs().
    """
    while isinstance(law, PerCondition):
        law = law.law
    if law.accepts_pairs:
        return
    hint = ", or Gibbs(on_pairs=True) to weigh them on purpose" if isinstance(law, Gibbs) else ""
    raise OptionError(f"{type(law).__name__} would re-couple data that come in pairs. Use GivenPairs(){hint}.")


def coupling(name: str | Coupling) -> Coupling:
    """A coupling by name with its usual constants; a `Coupling` passes through.

    Raises:
        UnknownOptionError: With near names.
        OptionError: For "sinkhorn", whose epsilon has no scale-free default.

    Example:
        >>> coupling("exact-ot").power
        2.0
    """
    if isinstance(name, Coupling):
        return name
    leaves: dict[str, type[Coupling]] = {
        "independent": Independent,
        "exact-ot": ExactOT,
        "gibbs": Gibbs,
        "given-pairs": GivenPairs,
    }
    if name == "sinkhorn":
        raise OptionError("Sinkhorn needs its regularisation, in units of squared distance: Sinkhorn(epsilon=0.05).")
    if name == "unbalanced":
        raise OptionError("Unbalanced needs two numbers of the unit of squared distance: Unbalanced(0.05, mass=1.0).")
    check_choice("coupling", name, leaves)
    return leaves[name]()
