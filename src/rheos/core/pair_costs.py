r"""What a pair of a source row and a data row costs.

A transport over a conditional batch gives each condition its own part of the source, although sampling starts every
condition anywhere. So a cost may look at conditions too: source row i lends the condition of its own batch row, which
is independent of it, and a pair whose conditions differ pays for that. With a large price transport happens inside
conditions only, with none it ignores them.

Reference: The Curse of Conditions (C2OT), Cheng & Schwing (2025), https://arxiv.org/abs/2503.10636
"""

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError
from rheos.core.state import State
from rheos.core.transport import check_finite, check_rows, squared_distances

__all__ = ["check_price", "condition_distances", "pair_costs"]


def check_price(condition: str | None, beta: float) -> None:
    """Raise `OptionError` for a price that is negative or not finite, or that belongs to no condition."""
    if not 0 <= beta < float("inf"):
        raise OptionError(f"beta must be at least 0 and finite, got {beta}. PerCondition forbids other conditions.")
    if beta and condition is None:
        raise OptionError(f"beta={beta:g} is the price of unequal conditions: name one, such as condition='label'.")


def pair_costs(x0: State, x1: State, cond: Cond, power: float, condition: str | None, beta: float) -> Tensor:
    r"""$\lVert x_0^i - x_1^j \rVert^p + \beta\, d(c_i, c_j)$, float64 (b, b).

    Args:
        x0: Source rows.
        x1: Data rows.
        cond: Conditions of the batch's rows.
        power: p.
        condition: Whose difference costs, or None.
        beta: The price, in the unit of the cost.

    Raises:
        ShapeError: If source and data differ in shape.
        NonFiniteError: If a row is not finite.
        ConditionError: If the batch lacks the condition.
    """
    check_rows(x0, x1)
    check_finite(x0, x1)
    cost = squared_distances(x0, x1)
    if power != 2.0:
        cost = cost.pow_(power / 2)
    if condition is None or beta == 0:
        return cost
    if condition not in cond:
        known = ", ".join(sorted(cond)) or "none"
        raise ConditionError(f"The cost looks at the condition {condition!r}, which the batch lacks; it has: {known}.")
    return cost + beta * condition_distances(cond[condition]).to(cost)


def condition_distances(c: Tensor) -> Tensor:
    """d(c_i, c_j), float64 (b, b): 0 or 1 for whole numbers, 1 - cosine for vectors of real ones.

    Example:
        >>> condition_distances(torch.tensor([3, 3, 5]))[0].tolist()
        [0.0, 0.0, 1.0]
    """
    flat = c.reshape(len(c), -1)
    if not c.is_floating_point():
        return (flat[:, None] != flat[None]).any(2).double()
    unit = torch.nn.functional.normalize(flat.double(), dim=1)
    return (1 - unit @ unit.T).clamp_(min=0.0)
