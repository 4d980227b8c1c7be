r"""Whether samples follow what they were asked for: each looks for its own true picture among all.

Row k of the samples was drawn for the condition (a caption, a mask, a small picture) of row k of the truth. Where the
nearest true row has that condition, it was found. Chance is k / n for n different conditions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rheos.core.errors import ConditionError, ShapeError
from rheos.metrics._sets import blocks, distances, pair

__all__ = ["Retrieval", "retrieval"]

AMONG = 5


class Retrieval(NamedTuple):
    """Shares in [0, 1]; larger is better.

    Args:
        top1: Samples whose nearest true row has their condition.
        top5: Samples with such a row among their five nearest.
        chance1: What `top1` is expected to be where samples say nothing of their condition.
        chance5: The same of `top5`.
        rows: How many rows were looked among; compare only figures with the same number.
    """

    top1: float
    top5: float
    chance1: float
    chance5: float
    rows: int


def retrieval(
    samples: Float[Tensor, "_n *_d"], truth: Float[Tensor, "_n2 *_d2"], same: Int[Tensor, " _n3"] | None = None
) -> Retrieval:
    r"""R-precision and recall at 5 of samples that were drawn for the conditions of true rows, by Euclidean distance.

    Rows at an equal distance come in random order, and the expected share is given: samples that are all alike get
    the level of chance, not more.

    Args:
        samples: Features (N, ...), N ≥ 2.
        truth: Features (N, ...); row k has the condition that sample k was drawn for.
        same: Integers (N,), equal for rows of equal conditions; all are different unless given.

    Raises:
        ShapeError: For sets of different sizes, of one row, or of rows of different lengths.
        ConditionError: If `same` is not one integer a row.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> truth = torch.arange(8.0)
        >>> retrieval(truth + 0.2, truth)
        Retrieval(top1=1.0, top5=1.0, chance1=0.125, chance5=0.625, rows=8)
        >>> retrieval(truth + 0.7, truth)[:2]  # the next one is nearer, but for the last
        (0.125, 1.0)
    """
    if len(samples) != len(truth):
        raise ShapeError(
            f"Each sample has a true row of its own, but there are {len(samples)} samples and {len(truth)} true rows. "
            "Give the rows for whose conditions the samples were drawn, in the same order."
        )
    x, y = pair(samples, truth, least=2, names=("samples", "truth"))
    kind = torch.arange(len(x)) if same is None else same
    if kind.shape != (len(x),) or kind.is_floating_point():
        raise ConditionError(f"same must be {len(x)} integers, one a row, got {kind.dtype} {tuple(kind.shape)}.")
    kind = kind.to(x.device)
    counted = [
        _counts(distances(part, y), own[:, None] == kind)
        for part, own in zip(blocks(x, len(y)), blocks(kind, len(y)), strict=True)
    ]
    closer, own, tied = (torch.cat(parts) for parts in zip(*counted, strict=True))
    alike = torch.unique(kind, return_inverse=True, return_counts=True)
    everything = (torch.zeros_like(closer), alike[2][alike[1]], torch.full_like(closer, len(y)))
    found = [float(_hits(closer, own, tied, k).mean()) for k in (1, AMONG)]
    chance = [float(_hits(*everything, k).mean()) for k in (1, AMONG)]
    return Retrieval(found[0], found[1], chance[0], chance[1], len(x))


def _counts(d: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows nearer than the nearest own one; own ones at its distance; all at its distance."""
    best = d.masked_fill(~own, torch.inf).amin(1, keepdim=True)
    level = d == best
    return (d < best).sum(1), (level & own).sum(1), level.sum(1)


def _hits(closer: Tensor, own: Tensor, tied: Tensor, k: int) -> Tensor:
    """The probability that one of `own` among `tied` rows in random order takes one of the places left of k."""
    hit = torch.zeros(len(closer), dtype=torch.float64, device=closer.device)
    missed = torch.ones_like(hit)
    for j in range(k):
        there = (j < k - closer) & (j < tied)
        share = torch.where(there, own / (tied.double() - j).clamp(min=1), 0.0).clamp(max=1)
        hit, missed = hit + missed * share, missed * (1 - share)
    return hit
