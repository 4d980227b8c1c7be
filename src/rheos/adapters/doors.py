"""What foreign networks share: a clock in float64, of which their own is made without rounding on the way."""

import torch
from torch import Tensor, nn

from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import Time
from rheos.core.state import State, device_of, rows

__all__ = ["ExactField", "exact_clock"]


def exact_clock(t: Time, x: State) -> Tensor:
    """Times (B,) in float64.

    Raises:
        OptionError: For a time by variable, or more than one a row.
    """
    if isinstance(t, dict):
        raise OptionError("A network of another library takes one time a row, not one a variable.")
    if not isinstance(t, Tensor):
        return torch.full((), t, dtype=torch.float64, device=device_of(x)).expand(rows(x))
    clock = t.to(device=device_of(x), dtype=torch.float64)
    if clock.ndim > 1:
        raise OptionError(f"A network of another library takes one time a row, got times of {tuple(clock.shape)}.")
    return clock.expand(rows(x))


class ExactField(Field):
    """A field whose network is given times in float64."""

    net: nn.Module

    def door(self, t: Time, x: State) -> Tensor:
        """Times (B,) in float64."""
        return exact_clock(t, x)
