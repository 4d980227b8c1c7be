r"""Kernel distances: the squared maximum mean discrepancy of two sets.

$$\mathrm{MMD}^2 = E\,k(a,a') + E\,k(b,b') - 2E\,k(a,b)$$

The unbiased estimate leaves a row's kernel with itself out, so it may fall below zero for equal laws, and its
mean does not depend on the counts: what Fréchet distances lack. Sums run over blocks; memory stays bounded.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.errors import OptionError
from rheos.metrics._sets import blocks, distances, flat, pair

__all__ = ["kernel_distance", "median_bandwidth", "mmd"]

Kernel = Callable[[Tensor, Tensor], Tensor]


def kernel_distance(a: Float[Tensor, "_n *_d"], b: Float[Tensor, "_m *_d2"]) -> float:
    r"""Unbiased MMD² with the cubic kernel $k(x,y) = (x^\top y / D + 1)^3$: the KID of features.

    Smaller is better, 0 is expected for equal laws. KID usually averages over random subsets of 1,000 rows;
    this takes all pairs at once, which estimates the same number with less noise and without a seed.

    Args:
        a: Features (N, ...), N ≥ 2.
        b: Features (M, ...), M ≥ 2.

    Raises:
        ShapeError: Fewer than two rows, or rows of different lengths.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> kernel_distance(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]))  # 1 + 8 - 2
        7.0

    Reference: Bińkowski et al. (2018), https://arxiv.org/abs/1801.01401, section 4
    """
    x, y = pair(a, b, least=2)
    return _mmd(x, y, lambda p, q: (p @ q.T).div_(x.shape[1]).add_(1.0).pow_(3), unbiased=True)


def mmd(a: Float[Tensor, "_n *_d"], b: Float[Tensor, "_m *_d2"], bandwidth: float, unbiased: bool = True) -> float:
    r"""MMD² with the Gaussian kernel $k(x,y) = \exp(-\lVert x-y\rVert^2 / 2\sigma^2)$.

    Smaller is better; at most 2. CMMD is `1000 * mmd(a, b, bandwidth=10.0, unbiased=False)` on normalised CLIP
    embeddings. For other features `median_bandwidth(real)` is a common choice; state σ beside the figure.

    Args:
        a: Samples or features (N, ...).
        b: The other set (M, ...).
        bandwidth: σ > 0, in the units of the rows.
        unbiased: Leave each row's kernel with itself out (N, M ≥ 2); else the V-statistic, which is never negative.

    Raises:
        OptionError: A bandwidth that is not a positive number.
        ShapeError: Too few rows, or rows of different lengths.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> a, b = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0])
        >>> round(mmd(a, b, bandwidth=1.0), 6)  # 2 - 2 exp(-2)
        1.729329

    Reference: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html, lemma 6; CMMD: Jayasumana et
    al. (2024), https://arxiv.org/abs/2401.09603
    """
    if not 0 < bandwidth < float("inf"):
        raise OptionError(f"bandwidth must be a positive number, got {bandwidth}; try median_bandwidth(b).")
    x, y = pair(a, b, least=2 if unbiased else 1)
    return _mmd(x, y, lambda p, q: distances(p, q).square_().mul_(-0.5 / bandwidth**2).exp_(), unbiased)


def median_bandwidth(real: Float[Tensor, "_n *_d"]) -> float:
    """The median distance between different rows: a bandwidth that depends on the reference set alone.

    Args:
        real: The reference set (N, ...), N ≥ 2; the fakes do not enter, so figures of several models compare.
            Of more than 2,000 rows, evenly spaced ones are used.

    Raises:
        OptionError: If the median is 0 because most rows are equal.
        ShapeError: Fewer than two rows.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> median_bandwidth(torch.tensor([0.0, 1.0, 3.0]))
        2.0
    """
    x = flat(real, "real", least=2)
    value = float(torch.nn.functional.pdist(x[:: -(-len(x) // 2000)]).median())
    if value == 0:
        raise OptionError("The median distance between rows is 0; most rows are equal, so choose a bandwidth by hand.")
    return value


def _mmd(x: Tensor, y: Tensor, kernel: Kernel, unbiased: bool) -> float:
    within = [_mean(z, z, kernel, without_diagonal=unbiased) for z in (x, y)]
    return float(within[0] + within[1] - 2.0 * _mean(x, y, kernel))


def _mean(x: Tensor, y: Tensor, kernel: Kernel, without_diagonal: bool = False) -> Tensor:
    total, start = x.new_zeros(()), 0
    for part in blocks(x, len(y)):
        values = kernel(part, y)
        if without_diagonal:
            values.diagonal(start).zero_()
        total += values.sum()
        start += len(part)
    return total / (len(x) * (len(y) - without_diagonal))
