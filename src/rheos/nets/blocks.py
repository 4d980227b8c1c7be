"""The parts of the U-Net: residual blocks modulated by a conditioning vector, and attention over a picture."""

import math
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError
from rheos.nets.attention import Tap, attend, heads_first, heads_last
from rheos.nets.transforms import transformed

__all__ = ["GroupNorm", "PictureAttention", "ResidualBlock", "zeroed"]

_PER_GROUP = 8

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


def zeroed(layer: _Layer) -> _Layer:
    """The layer with weights and bias zero, so that a branch ending in it starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class GroupNorm(nn.GroupNorm):
    """Group normalisation with about eight channels a group.

    torch's forward-mode derivative of it refuses feature maps with channels last in memory, so these are copied
    while a transform runs.

    Args:
        channels: In and out.
        affine: Whether it has a scale and a shift of its own.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(math.gcd(channels, max(1, channels // _PER_GROUP)), channels, affine=affine)

    def forward(self, h: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Zero mean and unit variance over each group of channels."""
        return super().forward(h.contiguous() if transformed() else h)


class ResidualBlock(nn.Module):
    """h + conv(silu(modulate(norm(conv(silu(norm(h))))))), nothing but h at the start.

    Args:
        channels: In and out.
        condition: Width of the conditioning vector, which gives a scale and a shift a channel.
        dropout: Fraction dropped before the second convolution while training.
    """

    def __init__(self, channels: int, condition: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_in = GroupNorm(channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = GroupNorm(channels, affine=False)  # the modulation is its affine map
        self.modulation = zeroed(nn.Linear(condition, 2 * channels))
        self.conv_out = zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.dropout = dropout

    def forward(self, h: Float[Tensor, "b c y x"], c: Float[Tensor, "b _d"]) -> Float[Tensor, "b c y x"]:
        """One step of the residual stream."""
        scale, shift = self.modulation(c)[:, :, None, None].chunk(2, 1)
        inner = self.norm_out(self.conv_in(functional.silu(self.norm_in(h))))
        inner = functional.silu(torch.addcmul(shift, inner, scale + 1))
        if self.dropout:
            inner = functional.dropout(inner, self.dropout, self.training)
        return h + self.conv_out(inner)  # type: ignore[no-any-return]


class PictureAttention(nn.Module):
    """Every pixel of a feature map looks at every other; nothing but h at the start.

    Args:
        channels: In and out.
        heads: Number of heads, which divides the channels.
        name: What taps know this layer by.

    Raises:
        OptionError: If the heads do not divide the channels.
    """

    def __init__(self, channels: int, heads: int, name: str) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise OptionError(f"{heads} heads do not divide the {channels} channels of attention {name!r}.")
        self.heads, self.name = heads, name
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Float[Tensor, "b c y x"], taps: tuple[Tap, ...] = ()) -> Float[Tensor, "b c y x"]:
        """One step of the residual stream."""
        tokens = self.qkv(self.norm(h)).flatten(2).mT  # a view where channels come last in memory
        q, k, v = heads_first(tokens, self.heads, 3)
        mixed = heads_last(attend(q, k, v, taps=taps, name=self.name)).mT.reshape(h.shape)
        return h + self.out(mixed.contiguous() if h.is_contiguous() else mixed)  # type: ignore[no-any-return]
