"""Towers: what a target looks like, as a vector that a source's latent is compared with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.core.errors import OptionError, ShapeError
from rheos.nets.attention import attend, heads_first, heads_last
from rheos.nets.dit import positions

__all__ = ["PictureTower", "Tower", "VectorTower"]


class Tower(nn.Module, ABC):
    """A module from targets to as many numbers as a latent has; trained from scratch with the rest.

    Args:
        config: The constructor's arguments as plain values.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(config)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, D) features of targets."""


@final
class VectorTower(Tower):
    """Dense layers, for targets that are small or flat.

    Args:
        dim: Numbers in one target.
        out: D, numbers in one latent; as `dim` unless given.
        hidden: Width.
        depth: Layers with weights, at least 1.

    Raises:
        OptionError: For sizes below 1.

    Example:
        >>> VectorTower(64)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 64])
    """

    def __init__(self, dim: int, out: int | None = None, hidden: int = 128, depth: int = 3) -> None:
        super().__init__({"dim": dim, "out": out, "hidden": hidden, "depth": depth})
        if min(dim, hidden, depth, dim if out is None else out) < 1:
            raise OptionError(f"VectorTower needs positive sizes, got {self.config}.")
        self.dim = dim
        widths = [dim, *(hidden,) * (depth - 1)]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], dim if out is None else out))

    def forward(self, x: Tensor) -> Tensor:
        """See `Tower.forward`.

        Raises:
            ShapeError: If a target has not `dim` numbers.
        """
        flat = x.flatten(1)
        if flat.shape[1] != self.dim:
            raise ShapeError(f"This tower was made for targets of {self.dim} numbers, got {tuple(x.shape[1:])}.")
        return cast(Tensor, self.layers(flat))


@final
class PictureTower(Tower):
    """A vision transformer with pre-norm blocks and one learned query that pools them: SigLIP's architecture.

    The published tower is a ViT-L/16 (patch 16, dim 1024, depth 24, heads 16) on pictures of 256 pixels.

    Args:
        channels: Of the pictures.
        size: Side in pixels, or (height, width); the patch divides both.
        out: D, numbers in one latent; as one picture has unless given.
        patch: Side of a patch.
        dim: Width of a token, divisible by 4 and by `heads`.
        depth: Blocks.
        heads: Of every attention.

    Raises:
        OptionError: For sizes out of range or that do not divide.

    Example:
        >>> PictureTower(3, 8, out=12, patch=4, dim=16, depth=1, heads=2)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 12])

    Reference: Sigmoid Loss for Language Image Pre-Training, Zhai et al. (2023), https://arxiv.org/abs/2303.15343
    """

    def __init__(
        self,
        channels: int,
        size: int | Sequence[int],
        out: int | None = None,
        *,
        patch: int = 4,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        super().__init__(
            {
                "channels": channels, "size": size if isinstance(size, int) else list(size), "out": out, "patch": patch,
                "dim": dim, "depth": depth, "heads": heads,
            }
        )  # fmt: skip
        if min(channels, patch, dim, heads, *sides) < 1 or depth < 0 or len(sides) != 2:
            raise OptionError(f"PictureTower needs positive sizes, got {self.config}.")
        if dim % 4 or dim % heads or sides[0] % patch or sides[1] % patch:
            raise OptionError(
                f"dim must be divisible by 4 and by heads={heads}, and the patch must divide the picture; "
                f"got dim={dim}, patch={patch}, {sides[0]} x {sides[1]}."
            )
        self.shape = (channels, *sides)
        self.enter = nn.Conv2d(channels, dim, patch, stride=patch)
        self.register_buffer("position", positions(sides[0] // patch, sides[1] // patch, dim), persistent=False)
        self.blocks = nn.ModuleList(_Block(dim, heads) for _ in range(depth))
        self.pool = _Pool(dim, heads)
        self.leave = nn.Linear(dim, math.prod(self.shape) if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        """See `Tower.forward`.

        Raises:
            ShapeError: If a picture has another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(f"This tower was made for pictures of {self.shape}, got {tuple(x.shape[1:])}.")
        h = self.enter(x).flatten(2).mT + cast(Tensor, self.position)
        for block in self.blocks:
            h = block(h)
        return cast(Tensor, self.leave(self.pool(h)))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.dense = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = heads_first(self.qkv(self.first(h)), self.heads, 3)
        h = h + self.out(heads_last(attend(q, k, v)))
        return h + self.dense(self.second(h))  # type: ignore[no-any-return]


class _Pool(nn.Module):
    """One learned query over all tokens, then a dense residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm, self.last = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dense = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, h: Tensor) -> Tensor:
        h = self.norm(h)
        (q,) = heads_first(self.q(self.probe.expand(len(h), -1, -1)), self.heads, 1)
        k, v = heads_first(self.kv(h), self.heads, 2)
        pooled = self.out(heads_last(attend(q, k, v)))
        return (pooled + self.dense(self.last(pooled)))[:, 0]  # type: ignore[no-any-return]
