"""A residual U-Net for pictures."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError
from rheos.nets.attention import Tap
from rheos.nets.base import Net
from rheos.nets.blocks import GroupNorm, PictureAttention, ResidualBlock, zeroed
from rheos.nets.conditioning import Conditioning
from rheos.nets.conditions import Conditions

__all__ = ["UNet"]


@final
class UNet(Net):
    """Residual blocks at several resolutions, down and up again, with added skip connections.

    Each level halves height and width (averaging down, repeating up), has `width * multiplier` channels and
    `blocks` residual blocks on either side; time, label and embedding scale and shift every block. Skips are added,
    not concatenated: on a CPU the wide convolutions after a concatenation cost a third of a training step, and in
    equal time the narrower network came out ahead (`docs/nets.md`). The last convolution starts at zero, and so does
    the output.

    Args:
        channels: Of the pictures.
        width: Channels of the first level.
        multipliers: Channels of each level, as multiples of `width`; L of them halve a picture L - 1 times.
        blocks: Residual blocks a level and side.
        attention: Levels with attention after each block, such as (-1,) for the deepest, which then has it in the
            middle too. On 16 x 16 digits it did not pay within two minutes of training.
        heads: Of every attention.
        classes: Labels 0..classes - 1 and the null label `classes`; 0 for none.
        embedding: Width of the `embedding` condition; 0 for none.
        concat: Channels of the `concat` condition, a picture of the size of x (or of one pixel); 0 for none.
        dropout: Fraction dropped inside residual blocks while training.
        out_channels: Of the output, if other than `channels`.
        channels_last: Whether feature maps keep the channels last in memory: usual on GPUs, and 5 % faster in
            float32 on a CPU. With bf16 on a CPU, False is faster.

    Raises:
        OptionError: If a number is out of range, a level does not exist, or the heads do not divide its channels.

    Example:
        >>> net = UNet(channels=1, classes=10)
        >>> net(torch.zeros(2, 1, 16, 16), torch.rand(2), label=torch.tensor([3, 10])).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        attention: Sequence[int] = (),
        heads: int = 4,
        classes: int = 0,
        embedding: int = 0,
        concat: int = 0,
        dropout: float = 0.0,
        out_channels: int | None = None,
        channels_last: bool = True,
    ) -> None:
        out = channels if out_channels is None else out_channels
        super().__init__(
            {
                "channels": channels,
                "width": width,
                "multipliers": list(multipliers),
                "blocks": blocks,
                "attention": list(attention),
                "heads": heads,
                "classes": classes,
                "embedding": embedding,
                "concat": concat,
                "dropout": dropout,
                "out_channels": out_channels,
                "channels_last": channels_last,
            },
            Conditions(classes=classes, embedding=embedding, concat=concat),
        )
        if min(channels, width, blocks, heads, out, *multipliers, len(multipliers)) < 1 or not 0 <= dropout < 1:
            raise OptionError(f"UNet needs positive sizes and a dropout in [0, 1), got {self.config}.")
        levels = range(len(multipliers))
        if any(level not in range(-len(levels), len(levels)) for level in attention):
            raise OptionError(f"attention names the levels {list(attention)}, but there are {len(levels)}.")
        self.channels, self.concat, self.divisor = channels, concat, 2 ** (len(levels) - 1)
        widths, vector = [width * m for m in multipliers], 4 * width
        looking = {level % len(levels) for level in attention}

        def stage(level: int, name: str) -> _Stage:
            wide, looks = widths[level], level in looking
            return _Stage(ResidualBlock(wide, vector, dropout), PictureAttention(wide, heads, name) if looks else None)

        def side(name: str, level: int) -> _Level:
            return _Level(stage(level, f"{name}.{level}.{i}") for i in range(blocks))

        self.conditioning = Conditioning(vector, classes=classes, embedding=embedding)
        self.enter = nn.Conv2d(channels + concat, widths[0], 3, padding=1)
        self.down = nn.ModuleList(side("down", level) for level in levels)
        self.widen = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.middle = stage(levels[-1], "middle")
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in reversed(list(pairwise(widths))))
        self.up = nn.ModuleList(side("up", level) for level in reversed(levels))  # in the order in which they run
        self.leave = nn.Sequential(GroupNorm(widths[0]), nn.SiLU(), zeroed(nn.Conv2d(widths[0], out, 3, padding=1)))
        if channels_last:  # feature maps follow the weights
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of the attention layers in the order in which they run, as taps see them."""
        return tuple(part.name for part in self.modules() if isinstance(part, PictureAttention))

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at (x, t); see `Net.forward`.

        Raises:
            ShapeError: If x is no batch of pictures, or its sides cannot be halved often enough.
            ConditionError: If a concatenated picture has another size than x.
        """
        self.check(x, t, cond)
        self.check_picture(x, self.channels, self.divisor)
        if self.concat:
            x = torch.cat((x, self.stretched(cond.pop("concat"), x)), 1)
        c = self.conditioning(t, **cond)
        h = self.enter(x)
        skips: list[Tensor] = []
        for level, stages in enumerate(self.down):
            if level:
                h = self.widen[level - 1](functional.avg_pool2d(h, 2))
            h = stages(h, c, taps)
            skips.append(h)
        h = self.middle(skips.pop(), c, taps)
        for climbed, stages in enumerate(self.up):
            if climbed:
                h = functional.interpolate(self.narrow[climbed - 1](h), scale_factor=2.0) + skips.pop()
            h = stages(h, c, taps)
        return self.leave(h)  # type: ignore[no-any-return]


class _Level(nn.Module):
    """The stages of one side of a level, one after another."""

    def __init__(self, stages: Iterable["_Stage"]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, h: Tensor, c: Tensor, taps: tuple[Tap, ...]) -> Tensor:
        for stage in self.stages:
            h = stage(h, c, taps)
        return h


class _Stage(nn.Module):
    """A residual block, and attention if this level has it."""

    def __init__(self, block: ResidualBlock, attention: PictureAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Tensor, c: Tensor, taps: tuple[Tap, ...]) -> Tensor:
        h = self.block(h, c)
        return h if self.attention is None else self.attention(h, taps)
