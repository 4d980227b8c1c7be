"""What a network owes the library: velocities, noises or data estimates from (x, t) and named conditions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rheos.core.errors import ConditionError, ShapeError, TimeError
from rheos.nets.attention import Tap
from rheos.nets.conditions import Conditions

__all__ = ["Net"]

_CLOCKS = (torch.float32, torch.float64)


class Net(nn.Module, ABC):
    """A network of a flow: `net(x, t, **cond)`.

    A subclass calls `super().__init__(config, conditions)` and writes `forward`. Rows are independent (so no batch
    normalisation): permuting, splitting or joining them changes nothing else.

    Args:
        config: The constructor's arguments as plain JSON values: `type(net)(**net.config)` builds an equal network.
        conditions: Which conditions it takes.

    Example:
        >>> class Pull(Net):
        ...     def __init__(self, strength=1.0):
        ...         super().__init__({"strength": strength})
        ...         self.strength = nn.Parameter(torch.tensor(strength))
        ...     def forward(self, x, t, *, taps=(), **cond):
        ...         self.check(x, t, cond)
        ...         return -self.strength * x
        >>> Pull(**Pull(2.0).config)(torch.ones(1, 2), torch.zeros(1))
        tensor([[-2., -2.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, config: Mapping[str, Any], conditions: Conditions | None = None) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(config)
        self._conditions = conditions or Conditions()
        self.conditions: frozenset[str] = self._conditions.names

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at (x, t).

        Args:
            x: Rows of states, in the network's dtype.
            t: One time a row, float32 or float64 whatever the network's dtype: times are never bf16.
            taps: Attention hooks (`rheos.nets.attention`); networks without attention ignore them.
            **cond: Exactly the conditions named in `conditions`, rows first.
        """

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of the attention layers in the order in which they run, as taps see them."""
        return ()

    def null(self, name: str, rows: int) -> Tensor:
        """The value that stands for the absence of a condition, on the network's device and in its dtype.

        Args:
            name: One of `conditions`.
            rows: B.

        Raises:
            ConditionError: If the name is unknown.
        """
        first = next(self.parameters(), None)
        if first is None:
            return self._conditions.null(name, rows)
        return self._conditions.null(name, rows, first.dtype, first.device)

    def check(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> None:
        """Refuse times and conditions that do not fit; costs a microsecond and never reads a value.

        Raises:
            TimeError: If t is not float32 or float64 of shape (B,).
            ConditionError: For unknown, missing or misshapen conditions.
        """
        if t.ndim != 1 or t.shape[0] != x.shape[0] or t.dtype not in _CLOCKS:
            raise TimeError(
                f"A network takes one float32 or float64 time a row, shape ({x.shape[0]},), got {t.dtype} "
                f"{tuple(t.shape)}. A Field expands a single number by itself."
            )
        if cond or self.conditions:
            self._conditions.check(cond, x.shape[0])

    def check_picture(self, x: Tensor, channels: int, divisor: int = 1) -> None:
        """Refuse what is no (B, channels, H, W) with sides that `divisor` divides.

        Raises:
            ShapeError: With the shape and the divisor.
        """
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(f"x must be pictures of shape (B, {channels}, height, width), got {tuple(x.shape)}.")
        if x.shape[2] % divisor or x.shape[3] % divisor:
            raise ShapeError(
                f"Height and width must be divisible by {divisor}, got {x.shape[2]} x {x.shape[3]}. "
                "Resize or pad the pictures, or use fewer levels.",
                divisor=divisor,
            )

    def stretched(self, picture: Tensor, x: Tensor) -> Tensor:
        """A `concat` condition in the dtype and of the size of x; a null one, of one pixel, is repeated.

        Raises:
            ConditionError: If it has another size.
        """
        if picture.shape[2:] != x.shape[2:]:
            if tuple(picture.shape[2:]) != (1, 1):
                raise ConditionError(
                    f"concat must have the size of x, {x.shape[2]} x {x.shape[3]}, or one pixel, "
                    f"got {picture.shape[2]} x {picture.shape[3]}."
                )
            picture = picture.expand(-1, -1, x.shape[2], x.shape[3])
        return picture.to(x.dtype)
