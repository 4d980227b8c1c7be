r"""Wasserstein distances of two sets: exact, and sliced.

$$W_p(a, b) = \Bigl(\min_\pi \sum_{ij} \pi_{ij} \lVert a_i - b_j \rVert^p\Bigr)^{1/p}$$

over plans whose marginals are the weights of the rows. On a line the best plan couples quantiles, which only
asks for sorting; the sliced distance averages that over directions.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.assignment import assignment
from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.metrics._sets import distances, pair

__all__ = ["sliced_wasserstein", "wasserstein"]

_PROJECTED = 1 << 22  # numbers of projected rows held at once: 32 MiB of float64


def wasserstein(
    a: Float[Tensor, "_n *_d"],
    b: Float[Tensor, "_m *_d2"],
    p: float = 2.0,
    weight_a: Float[Tensor, " _n2"] | None = None,
    weight_b: Float[Tensor, " _m2"] | None = None,
) -> float:
    r"""Exact $W_p$ of two sets, the root taken, in the units of the rows. Smaller is better.

    Rows of one number are sorted. Else equal counts without weights are an assignment (scipy, $O(n^3)$: 2,000
    rows take half a second), and the rest is a linear program (POT). Works on the CPU with an (N, M) matrix.

    Args:
        a: Samples (N, ...).
        b: Samples (M, ...).
        p: The exponent, p ≥ 1.
        weight_a: Masses (N,) ≥ 0 with a positive sum, which is scaled to one; equal masses when absent.
        weight_b: Masses (M,).

    Raises:
        OptionError: p below 1, or masses that are negative, NaN or all zero.
        ShapeError: Rows of different lengths, or masses that do not match the rows.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> a = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> wasserstein(a, a.flip(0) + torch.tensor([0.0, 2.0]))
        2.0

    Reference: Peyré and Cuturi (2019), https://arxiv.org/abs/1803.00567, equations 2.9 and 2.18
    """
    _check_power(p)
    x, y = (z.cpu() for z in pair(a, b))
    wa, wb = _masses(weight_a, len(x), "weight_a"), _masses(weight_b, len(y), "weight_b")
    if x.shape[1] == 1:
        return _on_a_line(x, y, p, wa, wb)
    cost = distances(x, y).pow_(p)
    if wa is None and wb is None and len(x) == len(y):
        return math.pow(float(cost[assignment(cost), torch.arange(len(cost))].mean()), 1.0 / p)
    return math.pow(max(_program(cost.numpy(), wa, wb), 0.0), 1.0 / p)


def sliced_wasserstein(
    a: Float[Tensor, "_n *_d"], b: Float[Tensor, "_m *_d2"], p: float = 2.0, projections: int = 256, seed: int = 0
) -> float:
    r"""$\bigl(E_\theta\, W_p^p(\theta^\top a, \theta^\top b)\bigr)^{1/p}$ over random directions of the unit sphere.

    Smaller is better; $O(L\,n\log n)$ for any counts, on any device. At most $W_p$; a shift by v gives
    $\lVert v\rVert/\sqrt D$ for p = 2. Directions are drawn in orthogonal frames, which lowers the variance and
    makes p = 2 exact for shifts when D divides the number of projections.

    Args:
        a: Samples (N, ...).
        b: Samples (M, ...); M may differ from N.
        p: The exponent, p ≥ 1.
        projections: Number L ≥ 1 of directions.
        seed: Of the directions; equal seeds give equal directions for equal row lengths.

    Raises:
        OptionError: p or projections below 1.
        ShapeError: Rows of different lengths.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> a = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
        >>> round(sliced_wasserstein(a, a + torch.tensor([3.0, 4.0])) ** 2, 9)  # 25 / 2
        12.5

    Reference: Bonneel et al. (2015), https://doi.org/10.1007/s10851-014-0506-3; orthogonal frames: Rowland et al.
    (2019), https://proceedings.mlr.press/v89/rowland19a.html
    """
    _check_power(p)
    if projections < 1:
        raise OptionError(f"projections must be at least 1, got {projections}.")
    x, y = pair(a, b)
    directions = _directions(x.shape[1], projections, seed).to(x.device)
    total = x.new_zeros(())
    i, j, width = (z.to(x.device) for z in _equal_quantiles(len(x), len(y)))
    size = max(1, _PROJECTED // (len(x) + len(y)))
    for start in range(0, projections, size):
        part = directions[:, start : start + size]
        u, v = (x @ part).sort(dim=0).values, (y @ part).sort(dim=0).values
        total += width @ (u[i] - v[j]).abs_().pow_(p).sum(1)
    return math.pow(float(total) / projections, 1.0 / p)


def _check_power(p: float) -> None:
    if not 1 <= p < float("inf"):
        raise OptionError(f"p must be a number of at least 1, got {p}.")


def _directions(d: int, count: int, seed: int) -> Tensor:
    """(d, count): unit columns, orthogonal within each run of d."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(d, count, dtype=torch.float64, generator=generator)
    return torch.cat([torch.linalg.qr(normal[:, i : i + d]).Q for i in range(0, count, d)], dim=1)


def _equal_quantiles(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The quantile coupling of n and m equal masses: pairs (i, j) of sorted rows, and their mass; exact integers."""
    cuts = torch.cat((torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n)).sort().values  # ties get mass 0
    width = torch.diff(cuts, prepend=cuts.new_zeros(1)).double() / (n * m)
    return (cuts - 1) // m, (cuts - 1) // n, width


def _on_a_line(x: Tensor, y: Tensor, p: float, wa: Tensor | None, wb: Tensor | None) -> float:
    (u, order_u), (v, order_v) = x[:, 0].sort(), y[:, 0].sort()
    if wa is None and wb is None:
        i, j, width = _equal_quantiles(len(u), len(v))
    else:
        upto_u, upto_v = (
            (w[order] if w is not None else torch.full((len(order),), 1.0 / len(order), dtype=torch.float64)).cumsum(0)
            for w, order in ((wa, order_u), (wb, order_v))
        )
        cuts = torch.cat((upto_u, upto_v)).sort().values.clamp(max=1.0)
        width = torch.diff(cuts, prepend=cuts.new_zeros(1))
        middle = cuts - width / 2  # inside the interval, so rounding at the cuts picks no wrong row
        i = torch.searchsorted(upto_u, middle).clamp(max=len(u) - 1)
        j = torch.searchsorted(upto_v, middle).clamp(max=len(v) - 1)
    return math.pow(float(width @ (u[i] - v[j]).abs_().pow_(p)), 1.0 / p)


def _masses(weight: Tensor | None, rows: int, name: str) -> Tensor | None:
    if weight is None:
        return None
    if weight.shape != (rows,):
        raise ShapeError(f"{name} needs one mass a row, shape ({rows},), got {tuple(weight.shape)}.")
    mass = weight.detach().to("cpu", torch.float64)
    if not mass.isfinite().all() or bool((mass < 0).any()) or float(mass.sum()) <= 0:
        raise OptionError(f"{name} must hold finite masses of at least 0 with a positive sum.")
    return mass / mass.sum()


def _program(cost: "np.ndarray[Any, np.dtype[np.float64]]", wa: Tensor | None, wb: Tensor | None) -> float:
    import ot

    wa, wb = (
        w if w is not None else torch.full((n,), 1.0 / n, dtype=torch.float64)
        for w, n in zip((wa, wb), cost.shape, strict=True)
    )
    value, log = ot.emd2(wa.numpy(), wb.numpy(), cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise NonFiniteError(f"The transport program found no optimum: {log['warning']} Use fewer rows.")
    return float(value)
