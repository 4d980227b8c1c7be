r"""Exact transport between two batches of equal masses: the cheapest permutation.

Shortest augmenting paths are short where the prices of the columns are nearly right, and prices that are nearly right
are cheap: a few rounds of entropic transport in single precision. They only decide how long the search takes. The
search itself runs in double precision and ends at the optimum whatever it starts from.
"""

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rheos.core.errors import ShapeError
from rheos.core.transport import balanced, check_cost

if TYPE_CHECKING:
    import numpy as np

__all__ = ["assignment"]

SMALL = 96
"""Rows below which prices cost more than they save; measured, as are the other figures of this file."""


@torch.no_grad()
def assignment(cost: Float[Tensor, "_n _m"]) -> Int64[Tensor, " n"]:
    r"""The permutation $\pi$ that minimises $\sum_j C_{\pi(j) j}$: which row serves each column; $O(n^3)$, on the CPU.

    Args:
        cost: Square.

    Raises:
        ShapeError: If it is not square.
        NonFiniteError: If it holds a NaN or an infinity.

    Example:
        >>> assignment(torch.tensor([[5.0, 1.0], [1.0, 5.0]])).tolist()
        [1, 0]

    Reference: Crouse (2016), On implementing 2D rectangular assignment algorithms, in SciPy; Bonneel et al. (2011),
        Displacement interpolation using Lagrangian mass transport, in POT.
    """
    check_cost(cost)
    if cost.shape[0] != cost.shape[1]:
        raise ShapeError(f"An assignment needs as many rows as columns, got {tuple(cost.shape)}.")
    if len(cost) < 2:
        return torch.arange(len(cost), device=cost.device)
    return torch.from_numpy(_permutation(cost.double().cpu())).to(cost.device)


def _permutation(cost: Float64[Tensor, "n n"]) -> "np.ndarray[Any, Any]":
    gap = cost - cost.amin(0)  # what a row or a column pays in any case decides nothing
    gap.sub_(gap.amin(1, keepdim=True))
    n = len(cost)
    if n >= SMALL:
        prices, crowd = _prices(gap)
        if n >= 256 and crowd > n / 6 and (rows := _by_simplex(cost)) is not None:
            return rows
        gap.sub_(prices)
        gap.sub_(gap.amin(1, keepdim=True))
    return _by_paths(gap)


def _prices(gap: Float64[Tensor, "n n"]) -> tuple[Float64[Tensor, " n"], float]:
    """What each column is worth, nearly, by entropic transport at falling regularisation.

    Args:
        gap: Costs, nonnegative, with a zero in every row.

    Returns:
        The prices, and among how many columns a row still hesitates.
    """
    n, scale = len(gap), float(gap.mean(1).median())  # a few far rows do not move it
    if not 0.0 < scale < math.inf:
        return gap.new_zeros(n), 0.0
    left = (gap / scale).float()  # what the prices have not explained yet
    prices, kernel, crowd = left.new_zeros(n), torch.empty_like(left), float(n)
    large = n >= 512  # a search long enough for a better start to pay
    for k in range(6 if large else 3):
        epsilon = 0.5 * 4.0**-k
        torch.mul(left, -1 / epsilon, out=kernel).exp_().add_(1e-30)  # no column out of reach
        r = s = left.new_ones(n)
        for step in range(8):
            factor = 1.5 if large and 0 < step < 7 else 1.0  # over-relaxed as in `transport`, but not measured
            s = balanced(s, torch.mv(kernel.T, r), factor)
            r = balanced(r, torch.mv(kernel, s), factor)
        worth = epsilon * s.log()
        prices += worth
        left.sub_((epsilon * r.log())[:, None]).sub_(worth)
        if k >= 2:
            some = slice(None, None, max(1, n // 32))
            crowd = float((1 / (r[some, None] * kernel[some] * s).square().sum(1)).mean())
            if not n / 20 < crowd < n / 6:  # decided, or not going to be
                break
    return (prices.double() * scale, crowd) if bool(prices.isfinite().all()) else (gap.new_zeros(n), 0.0)


def _by_paths(cost: Float64[Tensor, "n n"]) -> "np.ndarray[Any, Any]":
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    columns = linear_sum_assignment(cost.numpy())[1]
    rows = np.empty(len(columns), dtype=np.int64)
    rows[columns] = np.arange(len(columns))
    return rows


def _by_simplex(cost: Float64[Tensor, "n n"]) -> "np.ndarray[Any, Any] | None":
    """Network simplex: ten times faster where a row finds many columns alike, as on a line under |x - y|."""
    import ot

    n, plain = len(cost), cost.numpy()
    mass = ot.unif(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of shows below
        plan = ot.emd(mass, mass, plain / abs(plain).max(), numItermax=10**8)
    rows = plan.argmax(0)
    whole = len(set(rows.tolist())) == n and plan.max(0).min() > 0.5 / n  # a vertex of the polytope, as it should be
    return rows if whole else None
