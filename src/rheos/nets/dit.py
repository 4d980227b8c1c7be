"""A transformer for pictures, modulated by time and conditions (DiT)."""

import math
from collections.abc import Sequence
from typing import cast, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError
from rheos.nets.attention import Tap, attend, heads_first, heads_last
from rheos.nets.base import Net
from rheos.nets.blocks import zeroed
from rheos.nets.conditioning import Conditioning
from rheos.nets.conditions import Conditions

__all__ = ["DiT", "positions"]


@final
class DiT(Net):
    """Patches as tokens, with adaptive layer norm whose gates start at zero (adaLN-zero).

    Time, label and embedding scale, shift and gate every block. Text tokens are looked at by a cross-attention of
    their own ("blocks.3.cross"), so the self-attention ("blocks.3.self") sees the picture's tokens in raster order
    and nothing else, which is what halos and key-value editing want. The output starts at zero.

    Args:
        channels: Of the pictures.
        size: Height and width in pixels, or one number for both; the patch divides them.
        patch: Side of a patch.
        dim: Width of a token, divisible by 4 and by `heads`.
        depth: Number of blocks.
        heads: Of every attention.
        classes: Labels 0..classes - 1 and the null label `classes`; 0 for none.
        embedding: Width of the `embedding` condition; 0 for none.
        tokens: Exact number of text tokens; 0 for none.
        token_dim: Width of a text token.

    Raises:
        OptionError: If a number is out of range, or dim or size are not divisible as they must be.

    Example:
        >>> net = DiT(channels=3, size=(8, 16), dim=32, depth=2, tokens=5, token_dim=7)
        >>> net(torch.zeros(2, 3, 8, 16), torch.rand(2), tokens=torch.randn(2, 5, 7)).shape
        torch.Size([2, 3, 8, 16])

    Reference: Scalable Diffusion Models with Transformers, Peebles and Xie (2022), https://arxiv.org/abs/2212.09748
    """

    def __init__(
        self,
        channels: int,
        size: int | Sequence[int],
        *,
        patch: int = 2,
        dim: int = 128,
        depth: int = 6,
        heads: int = 4,
        classes: int = 0,
        embedding: int = 0,
        tokens: int = 0,
        token_dim: int = 0,
    ) -> None:
        super().__init__(
            {
                "channels": channels,
                "size": size if isinstance(size, int) else list(size),
                "patch": patch,
                "dim": dim,
                "depth": depth,
                "heads": heads,
                "classes": classes,
                "embedding": embedding,
                "tokens": tokens,
                "token_dim": token_dim,
            },
            Conditions(classes=classes, embedding=embedding, tokens=tokens, token_dim=token_dim),
        )
        height, width = (size, size) if isinstance(size, int) else size
        if min(channels, height, width, patch, dim, depth, heads) < 1:
            raise OptionError(f"DiT needs positive sizes, got {self.config}.")
        if dim % 4 or dim % heads:
            raise OptionError(f"dim must be divisible by 4 (positions) and by heads={heads}, got {dim}.")
        if height % patch or width % patch:
            raise OptionError(f"A patch of {patch} must divide the picture, got {height} x {width}.")
        self.channels, self.patch, self.size = channels, patch, (height, width)
        self.conditioning = Conditioning(dim, classes=classes, embedding=embedding)
        self.enter = nn.Linear(channels * patch**2, dim)
        self.register_buffer("position", positions(height // patch, width // patch, dim), persistent=False)
        self.text = nn.Sequential(nn.Linear(token_dim, dim), nn.GELU(), nn.Linear(dim, dim)) if tokens else None
        self.blocks = nn.ModuleList(_Block(dim, heads, f"blocks.{i}", cross=tokens > 0) for i in range(depth))
        self.last_modulation = zeroed(nn.Linear(dim, 2 * dim))
        self.leave = zeroed(nn.Linear(dim, channels * patch**2))

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of the attention layers in the order in which they run, as taps see them."""
        kinds = ("self",) if self.text is None else ("self", "cross")
        return tuple(f"blocks.{i}.{kind}" for i in range(len(self.blocks)) for kind in kinds)

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at (x, t); see `Net.forward`.

        Raises:
            ShapeError: If x is no batch of pictures of the size that the network was made for.
        """
        self.check(x, t, cond)
        self.check_picture(x, self.channels)
        if x.shape[2:] != self.size:
            raise ShapeError(
                f"This DiT was made for {self.size[0]} x {self.size[1]} pixels, got {x.shape[2]} x {x.shape[3]}. "
                "Its positions are fixed; resize the pictures or build another."
            )
        words = cond.pop("tokens", None)
        if words is not None and self.text is not None:
            words = self.text(words.to(x.dtype))
        c = self.conditioning(t, **cond)
        h = self.enter(functional.pixel_unshuffle(x, self.patch).flatten(2).mT) + cast(Tensor, self.position)
        for block in self.blocks:
            h = block(h, c, words, taps)
        scale, shift = self.last_modulation(c)[:, None].chunk(2, 2)
        h = self.leave(_modulated(h, scale, shift))
        grid = (self.size[0] // self.patch, self.size[1] // self.patch)
        return functional.pixel_shuffle(h.mT.unflatten(2, grid), self.patch)


class _Block(nn.Module):
    """Self-attention, cross-attention to the text if there is one, and two dense layers, each on the residual."""

    def __init__(self, dim: int, heads: int, name: str, cross: bool) -> None:
        super().__init__()
        self.heads, self.name = heads, name
        self.modulation = zeroed(nn.Linear(dim, 6 * dim))
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.cross = _Cross(dim, heads, f"{name}.cross") if cross else None
        self.dense = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, h: Tensor, c: Tensor, words: Tensor | None, taps: tuple[Tap, ...]) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.modulation(c)[:, None].chunk(6, 2)
        q, k, v = heads_first(self.qkv(_modulated(h, scale, shift)), self.heads, 3)
        mixed = heads_last(attend(q, k, v, taps=taps, name=f"{self.name}.self"))
        h = torch.addcmul(h, gate, self.out(mixed))
        if self.cross is not None and words is not None:
            h = self.cross(h, words, taps)
        return torch.addcmul(h, gate2, self.dense(_modulated(h, scale2, shift2)))


class _Cross(nn.Module):
    """The picture's tokens look at the text's; nothing but h at the start."""

    def __init__(self, dim: int, heads: int, name: str) -> None:
        super().__init__()
        self.heads, self.name = heads, name
        self.norm = nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), zeroed(nn.Linear(dim, dim))

    def forward(self, h: Tensor, words: Tensor, taps: tuple[Tap, ...]) -> Tensor:
        (q,) = heads_first(self.q(self.norm(h)), self.heads, 1)
        k, v = heads_first(self.kv(words), self.heads, 2)
        return h + self.out(heads_last(attend(q, k, v, taps=taps, name=self.name)))  # type: ignore[no-any-return]


def _modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, functional.layer_norm(h, h.shape[-1:]), scale + 1)


def positions(height: int, width: int, dim: int) -> Float[Tensor, "{height*width} {dim}"]:
    r"""Sinusoidal positions of a grid in raster order: half of the numbers tell the row, half the column.

    Args:
        height: Rows.
        width: Columns.
        dim: Numbers a place, divisible by 4.

    Example:
        >>> positions(1, 2, 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.0000, 1.0000, 0.8415, 0.5403]])
    """
    omega = torch.exp(torch.arange(dim // 4, dtype=torch.float64) * (-math.log(10000.0) / max(dim // 4, 1)))

    def waves(n: int) -> Tensor:
        angle = torch.arange(n, dtype=torch.float64)[:, None] * omega
        return torch.cat((angle.sin(), angle.cos()), 1)

    rows = waves(height)[:, None].expand(-1, width, -1)
    columns = waves(width)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), 2).flatten(0, 1).to(torch.get_default_dtype())
