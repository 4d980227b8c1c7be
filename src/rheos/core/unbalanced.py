r"""Unbalanced transport: rows that fit badly carry less mass.

The entropic plan whose marginals may differ from the given ones at a price,

$$ \min_\pi \langle \pi, C \rangle + \varepsilon\,\mathrm{KL}(\pi \,|\, a b^\top)
    + \rho\,\mathrm{KL}(\pi 1 \,|\, a) + \rho\,\mathrm{KL}(\pi^\top 1 \,|\, b) . $$

Outliers of the data then hardly pull at the field. The law that is learned is the plan's own data marginal, not that of
the data set: that is the point, and the price.

Reference: Chizat et al. (2018), Scaling algorithms for unbalanced transport problems, algorithm 1; unbalanced OT-CFM:
Eyring et al. (2024), https://arxiv.org/abs/2311.15100.
"""

import math
import warnings
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.base import Cond, Coupling, Pairs
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.pair_costs import check_price, pair_costs
from rheos.core.state import State, select
from rheos.core.transport import Plan, check_entropic, log_mean_exp

__all__ = ["Unbalanced", "unbalanced_sinkhorn"]


def unbalanced_sinkhorn(
    cost: Float[Tensor, "n m"], epsilon: float, mass: float, iterations: int = 1000, tolerance: float = 1e-6
) -> Plan:
    r"""The plan above for equal masses 1/n and 1/m, in the log domain.

    Args:
        cost: Costs, in any unit.
        epsilon: Regularisation, in the cost's unit, positive.
        mass: $\rho$, the price of mass that is made or lost, in the cost's unit, positive; infinite: balanced.
        iterations: At most so many.
        tolerance: Stop once no potential moves by more than this share of epsilon.

    Returns:
        `error` is the last move of a potential over epsilon; the masses of `log` do not sum to one.

    Raises:
        OptionError: If a number is not positive.

    Example:
        >>> plan = unbalanced_sinkhorn(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), epsilon=0.1, mass=1.0)
        >>> round(float(plan.log.exp().sum()), 3)
        0.968
    """
    check_entropic(epsilon, iterations, tolerance)
    if not mass > 0:
        raise OptionError(f"mass must be positive, got {mass}. It is in the unit of the cost.")
    k = cost.double() / -epsilon
    share = 1.0 if mass == math.inf else mass / (mass + epsilon)
    u, v = (torch.zeros(n, dtype=torch.float64, device=k.device) for n in k.shape)
    error = math.inf
    for i in range(iterations):
        before = u
        u = -share * log_mean_exp(k + v, 1)
        v = -share * log_mean_exp(k + u[:, None], 0)
        if i % 10 == 9 or i == iterations - 1:
            error = float((u - before).abs().max())
            if error <= tolerance:
                break
    log = k + u[:, None] + v - math.log(k.numel())
    return Plan(log, u * epsilon, v * epsilon, error, error <= tolerance)


@final
@dataclass(frozen=True)
class Unbalanced(Coupling):
    r"""Pairs of an unbalanced entropic plan: the loss of a data row is weighted by the mass that it keeps.

    Every data row is used once, with a source row drawn from $\pi(i \mid j)$.

    Args:
        epsilon: Regularisation, in units of squared distance, positive.
        mass: Price of mass that is made or lost, in units of squared distance, positive.
        iterations: Limit on iterations.
        tolerance: See `unbalanced_sinkhorn`.
        condition: Whose difference costs as well, or None.
        beta: The price of unequal conditions.
    """

    epsilon: float
    mass: float
    iterations: int = 1000
    tolerance: float = 1e-6
    condition: str | None = None
    beta: float = 0.0
    gaussian = False

    def __post_init__(self) -> None:
        check_entropic(self.epsilon, self.iterations, self.tolerance)
        check_price(self.condition, self.beta)
        if not self.mass > 0:
            raise OptionError(f"mass must be positive, got {self.mass}. It is in the unit of squared distance.")

    @torch.no_grad()
    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Choose a source row for each data row, and weigh the data row.

        Warns:
            RuntimeWarning: If the plan has not converged.
        """
        cost = pair_costs(x0, x1, cond, 2.0, self.condition, self.beta)
        plan = unbalanced_sinkhorn(cost, self.epsilon, self.mass, self.iterations, self.tolerance)
        if not plan.converged:
            warnings.warn(
                f"The unbalanced plan still moves by {plan.error:.2g} epsilon after {self.iterations} iterations. "
                f"Raise iterations, or epsilon={self.epsilon:g} (the mean cost is {float(cost.mean()):.3g}).",
                RuntimeWarning,
                stacklevel=2,
            )
        log = plan.log.T.contiguous()  # a data row's choices side by side
        kept = log.logsumexp(1)
        weight = kept.softmax(0) * len(kept)
        u = draws.uniform("plan", shape=(1,)).to(log.device)
        index = torch.searchsorted(log.softmax(1).cumsum(1), u).squeeze(1).clamp_(max=len(log) - 1)
        logs = {"pair_cost": cost.gather(0, index[None]).mean(), "mass": kept.exp().sum()}
        return Pairs(select(x0, index), x1, cond, weight=weight, index0=index, logs=logs)
