"""What numbers and colours of masks mean: which class a value stands for, and how many classes there are."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from rheos.core.errors import DataError, OptionError

__all__ = ["NONE", "Palette", "check_classes", "count_classes", "palette_size", "read_palette"]

NONE = 255
"""The number of pixels without a class, where there are at most 255 classes."""
Palette = int | tuple[int | str, ...]
"""K where masks hold the class numbers 0 .. K - 1; else the value of each class, grey numbers or "#rrggbb"."""
_COLOUR = re.compile("#[0-9a-f]{6}")
_ROWS = 64  # masks looked at in one go, to bound memory


def read_palette(value: object) -> Palette | None:
    """A palette from a number or a list, as a user or JSON gives it.

    Raises:
        OptionError: If it is neither a number of classes nor a list of different values of one kind, at most 255.

    Example:
        >>> read_palette(["#000000", "#C80000"])
        ('#000000', '#c80000')
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        values = tuple(v.lower() if isinstance(v, str) else v for v in value)
        colours = all(isinstance(v, str) and _COLOUR.fullmatch(v) for v in values)
        numbers = all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
        if values and (colours or numbers) and len(set(values)) == len(values) <= NONE:
            return values
    raise OptionError(
        f"palette must be the number of classes, or a list of at most {NONE} different values, either colours "
        f"'#rrggbb' or grey numbers, got {value!r}."
    )


def palette_size(palette: Palette) -> int:
    """How many classes a palette has."""
    return palette if isinstance(palette, int) else len(palette)


def count_classes(masks: Tensor) -> int:
    """One more than the largest class number; 255 stands for no class, unless there are larger numbers.

    Args:
        masks: Whole numbers of any shape; of other numbers there are 0 classes.

    Example:
        >>> count_classes(torch.tensor([[[0, 2, 255]]]))
        3
    """
    if masks.is_floating_point() or not masks.numel():
        return 0
    top = int(masks.max())
    if top == NONE:
        top = max(int(torch.where(part == NONE, -1, part.long()).max()) for part in torch.split(masks, _ROWS))
    return max(0, top + 1)


def check_classes(masks: Tensor, classes: int, name: str) -> None:
    """Raise `DataError` unless masks hold 0 .. classes - 1, and 255 for none.

    Args:
        masks: Whole numbers (N, H, W).
        classes: K.
        name: What the error calls them.
    """
    for part in torch.split(masks, _ROWS):
        wrong = (part < 0) | (part >= classes)
        if classes <= NONE:
            wrong &= part != NONE
        if bool(wrong.any()):
            none = f" (and {NONE} for none)" if classes <= NONE else ""
            raise DataError(
                f"{name} hold the number {int(part[wrong][0])}, but the classes are 0 .. {classes - 1}{none}."
            )
