"""How well masks agree with the truth, class by class."""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from rheos.core.errors import ConditionError, ShapeError

__all__ = ["class_iou", "mean_iou"]


def class_iou(
    found: Int[Tensor, "*n"], truth: Int[Tensor, "*n"], classes: int, ignore: int | None = None
) -> Float64[Tensor, " k"]:
    """Intersection over union of each class, over all pixels of all masks; NaN where neither mask has the class.

    Args:
        found: Masks to judge, in 0..classes - 1.
        truth: True masks of the same shape.
        classes: K.
        ignore: Pixels whose truth is this are left out, such as a background or an unlabelled class. Another way to
            ignore a class is to set both masks equal there first, which then counts its pixels as hits.

    Raises:
        ShapeError: If the shapes differ.
        ConditionError: If a number lies outside 0..classes - 1.

    Example:
        >>> class_iou(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 2)
        tensor([0.5000, 0.6667], dtype=torch.float64)
    """
    if found.shape != truth.shape:
        raise ShapeError(f"Masks must have one shape, got {tuple(found.shape)} and {tuple(truth.shape)}.")
    a, b = found.flatten().long(), truth.flatten().long()
    if ignore is not None:
        kept = b != ignore
        a, b = a[kept], b[kept]
    if a.numel() and (int(torch.min(a, b).min()) < 0 or int(torch.max(a, b).max()) >= classes):
        raise ConditionError(f"Masks hold classes 0 .. {classes - 1}. Leave others out with ignore=.")
    table = torch.bincount(b * classes + a, minlength=classes**2).reshape(classes, classes).double()
    hits = table.diagonal()
    return hits / (table.sum(0) + table.sum(1) - hits)


def mean_iou(found: Int[Tensor, "*n"], truth: Int[Tensor, "*n"], classes: int, ignore: int | None = None) -> float:
    """The mean of `class_iou` over the classes that occur, in [0, 1]. Larger is better."""
    each = class_iou(found, truth, classes, ignore)
    return float(each[~each.isnan()].mean())
