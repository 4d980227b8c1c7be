r"""Precision, recall, density and coverage: fidelity and diversity apart, from balls around nearest neighbours.

A set's manifold is the union of balls around its rows, each as wide as the distance to the row's k-th nearest
neighbour in its own set. Precision, density and coverage use the balls of the *real* set, recall those of the
*fake* set; so recall is fooled by fake outliers, and density and coverage are not.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.errors import OptionError
from rheos.metrics._sets import blocks, distances, pair

__all__ = ["Prdc", "prdc"]


class Prdc(NamedTuple):
    """Four figures; larger is better. All lie in [0, 1] but density, which is at most fakes / k.

    Args:
        precision: Fraction of fake rows inside some real ball.
        recall: Fraction of real rows inside some fake ball.
        density: Real balls that a fake row lies in, on average, over k; 1 is expected for equal laws.
        coverage: Fraction of real balls that hold a fake row.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Float[Tensor, "_n *_d"], fake: Float[Tensor, "_m *_d2"], k: int = 5) -> Prdc:
    r"""Precision and recall of Kynkäänniemi et al., density and coverage of Naeem et al.; balls are closed.

    Compare only figures with the same counts, k and feature net. For equal laws coverage is expected to be
    $1 - \prod_{i=1}^{k} \frac{n-i}{n+m-i}$, about $1 - 2^{-k}$ for n = m.

    Args:
        real: Features (N, ...), N > k.
        fake: Features (M, ...), M > k.
        k: The neighbour that sets a ball's radius, the row itself not counted; k ≥ 1.

    Raises:
        OptionError: k below 1.
        ShapeError: A set of at most k rows, or rows of different lengths.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> real = torch.tensor([0.0, 1.0, 10.0, 11.0])  # with k = 1 each ball has radius 1
        >>> prdc(real, torch.tensor([0.5, 0.6, 0.7, 50.0]), k=1)  # the outlier's wide ball recalls 1, 10 and 11
        Prdc(precision=0.75, recall=0.75, density=1.5, coverage=0.5)

    Reference: https://arxiv.org/abs/1904.06991, equation 1; https://arxiv.org/abs/2002.09797, equations 4 and 5
    """
    if k < 1:
        raise OptionError(f"k must be at least 1, got {k}.")
    x, y = pair(real, fake, least=k + 1, names=("real", "fake"))
    radius_real, radius_fake = _radii(x, k), _radii(y, k)
    in_real = torch.zeros(len(y), dtype=torch.int64, device=x.device)  # real balls around each fake row
    recalled = covered = 0
    for part, radius in zip(blocks(x, len(y)), blocks(radius_real, len(y)), strict=True):
        d = distances(part, y)
        inside = d <= radius[:, None]
        in_real += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((d <= radius_fake).any(1).sum())
    return Prdc(
        precision=float((in_real > 0).double().mean()),
        recall=recalled / len(x),
        density=float(in_real.sum()) / (k * len(y)),
        coverage=covered / len(x),
    )


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,): the distance of each row to its k-th nearest other row; the row itself is the smallest, at 0."""
    return torch.cat([distances(part, x).kthvalue(k + 1, dim=1).values for part in blocks(x, len(x))])
