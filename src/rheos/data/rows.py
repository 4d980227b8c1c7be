r"""Which rows, in which order: pure functions of small integers.

An epoch's order is a permutation keyed by (seed, epoch). Training step k of batch size b takes the positions
$kb, \dots, kb + b - 1$ of the endless walk through epoch 0, 1, 2, ..., so a sampler has no state to save:
resuming at step k is calling `step_rows` with k.
"""

from functools import lru_cache

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError

__all__ = ["choose", "epoch_order", "step_rows"]


@lru_cache(maxsize=4)  # a training walks through one epoch; two when a batch straddles
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return Draws(row_seeds(seed, 1)).words(n, "order", epoch)[0].argsort(stable=True)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation of n rows in one epoch.

    Args:
        n: Rows, at least 1.
        seed: Any integer.
        epoch: Counted from 0.

    Returns:
        int64 (n,).

    Example:
        >>> epoch_order(5, seed=0, epoch=0).sort().values
        tensor([0, 1, 2, 3, 4])
    """
    return _order(n, seed, epoch).clone()


def step_rows(n: int, seed: int, step: int, batch: int) -> Tensor:
    """The rows of one training step.

    Args:
        n: Rows of the set.
        seed: Any integer.
        step: Counted from 0.
        batch: Rows of a step; may exceed n.

    Returns:
        int64 (batch,).

    Raises:
        OptionError: If step is negative or batch is not positive.

    Example:
        >>> three = torch.cat([step_rows(6, seed=0, step=k, batch=4) for k in range(3)])
        >>> torch.equal(three, torch.cat([epoch_order(6, 0, 0), epoch_order(6, 0, 1)]))
        True
    """
    if step < 0 or batch < 1:
        raise OptionError(f"step must be at least 0 and batch at least 1, got step={step} and batch={batch}.")
    epoch, start = divmod(step * batch, n)
    if start + batch <= n:
        return _order(n, seed, epoch)[start : start + batch].clone()
    parts, missing = [], batch
    while missing:
        part = _order(n, seed, epoch)[start : start + missing]
        parts.append(part)
        missing -= len(part)
        epoch, start = epoch + 1, 0
    return torch.cat(parts)


def choose(n: int, count: int, labels: Tensor | None, seed: int, key: str) -> Tensor:
    """`count` of n rows at random, each class in proportion (largest remainders), in ascending order.

    Args:
        n: Rows to choose from.
        count: Rows to choose, from 0 to n.
        labels: int64 (n,) for a stratified choice, or None.
        seed: Any integer.
        key: Names the choice, so that different choices with one seed are independent.

    Returns:
        int64 (count,).

    Example:
        >>> labels = torch.tensor([0] * 6 + [1] * 3)
        >>> labels[choose(9, 3, labels, seed=0, key="split")]
        tensor([0, 0, 1])
    """
    order = Draws(row_seeds(seed, n)).words(1, key)[:, 0].argsort(stable=True)
    if labels is None:
        return order[:count].sort().values
    sizes = labels.bincount()
    share, rest = sizes * count // n, sizes * count % n  # integers: the same on every machine
    extra = rest.argsort(stable=True, descending=True)[: count - int(share.sum())]
    share[extra] += 1
    by_class, rank = labels[order].sort(stable=True)
    place = torch.arange(n) - (sizes.cumsum(0) - sizes)[by_class]
    return order[rank[place < share[by_class]]].sort().values
