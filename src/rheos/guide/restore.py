"""`restore`: solve y = A(x) with a flow as the prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.steer import Steer
from rheos.data.ranges import check_range
from rheos.guide.completion import Completion
from rheos.sample.draw import draw

__all__ = ["METHODS", "Inpaint", "restore"]


@final
@dataclass(frozen=True, eq=False)
class Inpaint:
    """The operator that hides a part: y = mask x.

    Args:
        mask: True (or 1) where the data are visible; broadcasts against one sample or a batch.
    """

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """What is visible of x; zero elsewhere."""
        return x * self.mask.to(x)


METHODS: dict[str, Callable[[Tensor, Inpaint], Completion]] = {
    "complete": lambda y, op: Completion(y, op.mask),
    "repaint": lambda y, op: Completion(y, op.mask, mode="replace", repeats=5),
}
"""Makers of steers by method."""


def restore(
    field: Field,
    y: Tensor,
    operator: Inpaint,
    *,
    method: str = "complete",
    steps: int = 20,
    solver: str = "euler",
    **options: object,
) -> Tensor:
    """Samples of the field that agree with an observation.

    Args:
        field: The prior.
        y: (B, ...) observations, in the field's value range.
        operator: How they came from the data.
        method: "complete" (project the data estimate) or "repaint" (replace and repeat).
        steps: Steps of the grid.
        solver: Name of the solver.
        **options: As `sample.draw`: seed, guidance, conditions.

    Returns:
        (B, ...) samples whose visible part is y's.

    Raises:
        UnknownOptionError: For an unknown method.
        ShapeError: If y has not the field's shape.
        DataError: If y lies far outside the field's value range.
    """
    check_choice("method", method, METHODS)
    if not isinstance(operator, Inpaint):
        raise OptionError(f"operator says how y came from the data, got {type(operator).__name__}. Use Inpaint(mask).")
    if "n" in options or "source" in options:
        raise OptionError("restore draws one sample for each row of y: repeat rows of y for several.")
    if field.shape is not None and tuple(y.shape[1:]) != field.shape:
        raise ShapeError(f"y has rows of shape {tuple(y.shape[1:])}, the field's data {field.shape}.")
    steer = METHODS[method](y, operator)
    check_range(torch.where(steer.mask, y, 0.0), field.value_range, "the visible part of y")
    shape = tuple(y.shape[1:])
    more: tuple[Steer, ...] = tuple(options.pop("steers", ()))  # type: ignore[arg-type]
    return draw(field, len(y), steps=steps, solver=solver, steers=(*more, steer), shape=shape, **options)  # type: ignore[arg-type]
