r"""Value ranges: declared once, converted by one formula, never guessed.

Numbers stored in $[a, b]$ are delivered in $[c, d]$ by the affine map that sends a to c and b to d.
"""

import torch
from torch import Tensor

from rheos.core.errors import DataError, NonFiniteError
from rheos.data.recipe import Range

__all__ = ["check_finite", "check_range", "check_within", "deliver", "to_pictures"]


def deliver(x: Tensor, stored: Range | None, delivers: Range | None) -> Tensor:
    """float32 numbers in the range `delivers`; x itself when nothing changes.

    Example:
        >>> deliver(torch.tensor([0, 255], dtype=torch.uint8), (0.0, 255.0), (-1.0, 1.0))
        tensor([-1.,  1.])
    """
    if stored is None or delivers is None or stored == delivers:
        return x.to(torch.float32)
    scale = (delivers[1] - delivers[0]) / (stored[1] - stored[0])
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device).copy_(x)
    out.sub_((stored[0] + stored[1]) / 2).mul_(scale)  # about the middle: both ends come out exact
    middle = (delivers[0] + delivers[1]) / 2
    return out.add_(middle) if middle else out


def to_pictures(x: Tensor, delivers: Range = (-1.0, 1.0)) -> Tensor:
    """uint8 pictures from numbers in the range `delivers`: clamped, rounded to the nearest.

    Args:
        x: Floating numbers of any shape.
        delivers: The values that become 0 and 255.

    Raises:
        NonFiniteError: If x holds a NaN (an infinity is clamped).

    Example:
        >>> to_pictures(torch.tensor([-1.0, 0.0, 1.0, 7.0]))
        tensor([  0, 128, 255, 255], dtype=torch.uint8)
    """
    x = x.detach().to(torch.float32)
    if bool(x.isnan().any()):
        raise NonFiniteError(
            f"Pictures cannot show NaN: {int(x.isnan().sum())} of {x.numel()} numbers are NaN. "
            "The flow diverged; look at its loss, or sample with more steps."
        )
    low, high = delivers
    return x.clamp(low, high).sub_(low).mul_(255.0 / (high - low)).round_().to(torch.uint8)


def check_finite(x: Tensor, name: str) -> None:
    """Raise `NonFiniteError`, naming the first bad row, unless every number is finite.

    Example:
        >>> check_finite(torch.tensor([[0.0], [float("nan")]]), "x")
        Traceback (most recent call last):
        ...
        rheos.core.errors.NonFiniteError: x holds 1 NaN or infinite number, first in row 1; drop or repair these rows.
    """
    if not x.is_floating_point():
        return
    finite = x.isfinite()
    if bool(finite.all()):
        return
    bad = ~finite
    count = int(bad.sum())
    row = int(bad.reshape(len(x), -1).any(1).nonzero()[0]) if x.ndim else 0
    raise NonFiniteError(
        f"{name} holds {count} NaN or infinite number{'s' * (count > 1)}, first in row {row}; "
        "drop or repair these rows.",
        name=name,
        row=row,
    )


def check_within(x: Tensor, declared: Range, name: str) -> None:
    """Raise `DataError` unless all numbers lie in the declared range (1e-3 of its width may hang over).

    Args:
        x: Numbers of any shape.
        declared: (low, high).
        name: What the message calls x.
    """
    low, high = (float(v) for v in x.aminmax())
    slack = 1e-3 * (declared[1] - declared[0])
    if low < declared[0] - slack or high > declared[1] + slack:
        raise DataError(
            f"{name} holds values from {low:.4g} to {high:.4g}, outside its declared range "
            f"({declared[0]:g}, {declared[1]:g}). Declare the true range with range=(low, high).",
            low=low,
            high=high,
        )


def check_range(x: Tensor, delivers: Range | None, name: str = "x") -> None:
    """Raise unless x can be meant for a field that lives in the range `delivers`.

    Integers, and values further from the middle than three half-widths, are surely in other units: a 0..255
    picture handed to a field of [-1, 1]. Data may overshoot a little, so smaller excess passes. Noise
    is not data: do not check it.

    Args:
        x: Data, of any shape.
        delivers: The field's range; None checks for NaN and infinity only.
        name: What the message calls x.

    Raises:
        DataError: If x is in other units.
        NonFiniteError: If x holds a NaN or an infinity.

    Example:
        >>> check_range(torch.tensor([0.0, 255.0]), (-1.0, 1.0), "the picture")
        Traceback (most recent call last):
        ...
        rheos.core.errors.DataError: the picture holds values from 0 to 255, but (-1, 1) is expected. Rescale it, for example with x / 127.5 - 1.
    """  # noqa: E501
    if x.numel() == 0:
        return
    check_finite(x, name)
    if delivers is None:
        return
    low, high = (float(v) for v in x.aminmax())
    middle, half = (delivers[0] + delivers[1]) / 2, (delivers[1] - delivers[0]) / 2
    if x.is_floating_point() and max(high - middle, middle - low) <= 3 * half:
        return
    hint = "x / 127.5 - 1" if delivers == (-1.0, 1.0) else f"a map onto {delivers}"
    kind = "" if x.is_floating_point() else f" of type {str(x.dtype).removeprefix('torch.')}"
    raise DataError(
        f"{name} holds values{kind} from {low:g} to {high:g}, but ({delivers[0]:g}, {delivers[1]:g}) is expected. "
        f"Rescale it, for example with {hint}.",
        low=low,
        high=high,
    )
