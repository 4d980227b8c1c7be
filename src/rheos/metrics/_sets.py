"""Sets of rows: the checks and the block-wise distances that every two-sample metric shares."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rheos.core.errors import NonFiniteError, ShapeError

__all__ = ["blocks", "distances", "flat", "pair"]

_BLOCK = 1 << 20  # numbers in one block of a distance matrix: 8 MiB of float64


def flat(x: Tensor, name: str, least: int = 1) -> Tensor:
    """float64 (N, D): the rows of `x` flattened, checked to be finite and enough.

    Args:
        x: (N, ...); (N,) is taken as N rows of one number.
        name: What the caller calls it, for the messages.
        least: The fewest rows that the metric is defined for.

    Raises:
        ShapeError: If there are fewer than `least` rows, or rows without numbers.
        NonFiniteError: If a number is NaN or infinite.
    """
    if x.ndim == 0 or len(x) < least or x.numel() == 0:
        raise ShapeError(
            f"{name} needs at least {least} non-empty row{'s' * (least > 1)} of shape (N, ...), got {tuple(x.shape)}.",
            shape=tuple(x.shape),
        )
    rows = x.detach().reshape(len(x), -1).to(torch.float64)
    bad = ~rows.isfinite().all(1)
    if bad.any():
        raise NonFiniteError(
            f"{name} has NaN or infinite numbers in {int(bad.sum())} of {len(rows)} rows, first in row "
            f"{int(bad.int().argmax())}. Drop these rows, and report how many, or find out where they come from.",
            rows=bad.nonzero().flatten(),
        )
    return rows


def pair(a: Tensor, b: Tensor, least: int = 1, names: tuple[str, str] = ("a", "b")) -> tuple[Tensor, Tensor]:
    """Two checked sets of rows of one length.

    Raises:
        ShapeError: If the rows differ in length, besides the checks of `flat`.
    """
    x, y = flat(a, names[0], least), flat(b, names[1], least)
    if x.shape[1] != y.shape[1]:
        raise ShapeError(
            f"{names[0]} and {names[1]} need rows of one length, got {tuple(a.shape)} and {tuple(b.shape)}: "
            f"{x.shape[1]} and {y.shape[1]} numbers a row. Compare features of one net, or samples of one size.",
            shapes=(tuple(a.shape), tuple(b.shape)),
        )
    return x, y.to(x.device)


def blocks(x: Tensor, columns: int) -> Iterator[Tensor]:
    """Consecutive rows of `x`, few enough that a block against `columns` rows stays near 8 MiB."""
    size = max(1, _BLOCK // max(1, columns))
    for start in range(0, len(x), size):
        yield x[start : start + size]


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m), by differences: equal rows are exactly 0 apart."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
