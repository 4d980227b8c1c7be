r"""Encoders of a source modality: a sample of it becomes a Gaussian over a latent of the target's shape.

$q(z_0 \mid c) = N(\mu(c), \mathrm{diag}\,\sigma^2(c))$: words, or whatever the source is, get the shape of the pictures
that they flow to, and a density of their own.

Reference: Flowing from Words to Pixels, Liu et al. (2025), https://arxiv.org/abs/2412.15213, section 3.2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, final

from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice
from rheos.nets.attention import attend, heads_first, heads_last

__all__ = ["LOG_VARIANCE", "Latent", "SourceEncoder", "TokenEncoder", "VectorEncoder"]

LOG_VARIANCE = (-30.0, 20.0)
"""Between which the logarithm of the variance is kept, so that its exponential is a number."""


class Latent(NamedTuple):
    """Mean and logarithm of the variance of z_0, both (B, *shape), before anything is cut."""

    mean: Tensor
    log_variance: Tensor


class SourceEncoder(nn.Module, ABC):
    """A module that maps rows of a source, and their mask where there is one, to a `Latent`.

    Args:
        config: The constructor's arguments as plain values.
        shape: Of one latent: the target's.

    Raises:
        OptionError: For a shape without numbers.
    """

    def __init__(self, config: Mapping[str, Any], shape: Sequence[int]) -> None:
        super().__init__()
        if not shape or min(shape) < 1:
            raise OptionError(f"A latent's shape has positive sizes, got {tuple(shape)}.")
        self.config: dict[str, Any] = dict(config)
        self.shape = tuple(int(k) for k in shape)

    @abstractmethod
    def forward(self, source: Tensor, mask: Tensor | None = None) -> Latent:
        """The law of the latents.

        Args:
            source: Rows of the source.
            mask: True where a token counts, for sources that are sequences.
        """

    def shaped(self, both: Tensor) -> Latent:
        """(B, 2 D) numbers as mean and logarithm of the variance."""
        mean, log_variance = both.reshape(len(both), 2, *self.shape).unbind(1)
        return Latent(mean, log_variance)


@final
class VectorEncoder(SourceEncoder):
    """An MLP from one vector a row: a sentence's embedding, letters one-hot, any small thing that flattens.

    Args:
        dim: Numbers in one source.
        shape: Of the target.
        hidden: Width.
        depth: Layers with weights, at least 1.

    Raises:
        OptionError: For sizes below 1.

    Example:
        >>> import torch
        >>> law = VectorEncoder(135, (1, 8, 8))(torch.zeros(2, 27, 5))
        >>> law.mean.shape, law.log_variance.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, dim: int, shape: Sequence[int], hidden: int = 128, depth: int = 3) -> None:
        super().__init__({"dim": dim, "shape": list(shape), "hidden": hidden, "depth": depth}, shape)
        if min(dim, hidden, depth) < 1:
            raise OptionError(f"dim, hidden and depth must be at least 1, got {dim}, {hidden} and {depth}.")
        self.dim = dim
        widths = [dim, *(hidden,) * (depth - 1)]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 2 * math.prod(self.shape)))

    def forward(self, source: Tensor, mask: Tensor | None = None) -> Latent:
        """See `SourceEncoder.forward`.

        Raises:
            ShapeError: If a row has not `dim` numbers.
            ConditionError: For a mask: a vector has no tokens.
        """
        if mask is not None:
            raise ConditionError(
                "A VectorEncoder reads one vector a row, so a mask of tokens has no meaning. Use a TokenEncoder."
            )
        flat = source.flatten(1)
        if flat.shape[1] != self.dim:
            raise ShapeError(
                f"This encoder was made for sources of {self.dim} numbers, got {tuple(source.shape[1:])}. "
                f"Build it with dim={flat.shape[1]}."
            )
        return self.shaped(self.layers(flat.to(self.layers[0].weight.dtype)))  # type: ignore[arg-type]


@final
class TokenEncoder(SourceEncoder):
    """A transformer from text tokens; the defaults are the published ones.

    [compressor], `depth` post-norm layers with the padding masked out, `reductions` layers that each end in half the
    width, all tokens flattened, and a last layer. Masking keeps padded tokens out of the attention of the others; their
    own rows are flattened with the rest, so what they hold still reaches z_0, as in the published network.

    Args:
        tokens: L, of every prompt, padding included.
        dim: D, numbers a token (CLIP ViT-L/14: 768; T5-XXL: 4096).
        shape: Of the target.
        compress: Width of a first linear layer that shortens wide tokens (1024 for T5); 0 for none.
        depth: Layers of full width.
        reductions: Layers that halve it.
        heads: Of every attention.
        feedforward: Width of the two dense layers.
        dropout: While training; of attention weights, dense layers and what joins the residual.
        head: "linear" (256 pixels); "norm" with a layer norm before it; "conv", dense layers and a convolution
            (512 pixels).

    Raises:
        OptionError: For sizes out of range, or widths that the heads do not divide.
        UnknownOptionError: For an unknown head.

    Example:
        >>> import torch
        >>> net = TokenEncoder(7, 32, (3, 4, 4), depth=2, reductions=1, heads=2, feedforward=16)
        >>> net(torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)).mean.shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self,
        tokens: int,
        dim: int,
        shape: Sequence[int],
        *,
        compress: int = 0,
        depth: int = 11,
        reductions: int = 3,
        heads: int = 8,
        feedforward: int = 1024,
        dropout: float = 0.1,
        head: str = "linear",
    ) -> None:
        super().__init__(
            {
                "tokens": tokens, "dim": dim, "shape": list(shape), "compress": compress, "depth": depth,
                "reductions": reductions, "heads": heads, "feedforward": feedforward, "dropout": dropout, "head": head,
            },
            shape,
        )  # fmt: skip
        check_choice("head", head, ("linear", "norm", "conv"))
        if min(tokens, dim, heads, feedforward) < 1 or min(compress, depth, reductions) < 0 or not 0 <= dropout < 1:
            raise OptionError(f"TokenEncoder needs positive sizes and a dropout in [0, 1), got {self.config}.")
        width = compress or dim
        if width % (heads * 2**reductions):
            raise OptionError(
                f"A width of {width} cannot be halved {reductions} times for {heads} heads. "
                f"Use a multiple of {heads * 2**reductions}: compress=..."
            )
        self.tokens, self.dim = tokens, dim
        self.compressor = nn.Linear(dim, compress) if compress else None
        self.layers = nn.ModuleList(_Layer(width, heads, feedforward, dropout) for _ in range(depth))
        self.halvings = nn.ModuleList()
        for _ in range(reductions):
            self.halvings.append(_Halving(width, heads, feedforward, dropout))
            width //= 2
        flat, out = tokens * width, 2 * math.prod(self.shape)
        self.head: nn.Module
        if head == "conv":
            self.head = _ConvHead(flat, feedforward, self.shape)
        else:
            self.head = nn.Sequential(*([nn.LayerNorm(flat)] if head == "norm" else []), nn.Linear(flat, out))

    def forward(self, source: Tensor, mask: Tensor | None = None) -> Latent:
        """See `SourceEncoder.forward`.

        Raises:
            ShapeError: If a row has not (tokens, dim) numbers.
            ConditionError: For a mask of another shape.
        """
        if tuple(source.shape[1:]) != (self.tokens, self.dim):
            raise ShapeError(
                f"This encoder was made for ({self.tokens}, {self.dim}) tokens a row, got {tuple(source.shape[1:])}. "
                "Embeddings of different text encoders are not interchangeable."
            )
        if mask is not None and mask.shape != source.shape[:2]:
            raise ConditionError(f"The mask of tokens must be {tuple(source.shape[:2])}, got {tuple(mask.shape)}.")
        h = source.to(next(self.parameters()).dtype)
        seen = None if mask is None else mask.bool()[:, None, None]
        if self.compressor is not None:
            h = self.compressor(h)
        for layer in self.layers:
            h = layer(h, seen)
        for layer in self.halvings:
            h = layer(h, seen)
        return self.shaped(self.head(h.flatten(1)))


class _Layer(nn.Module):
    """Attention and two dense layers, each normalised after it joined the residual."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )

    def forward(self, h: Tensor, seen: Tensor | None) -> Tensor:
        q, k, v = heads_first(self.qkv(h), self.heads, 3)
        if self.training and self.dropout:  # some of what is looked at is dropped too, as in nn.TransformerEncoderLayer
            mix = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=self.dropout)
        else:
            mix = attend(q, k, v, mask=seen)
        mixed = self.out(heads_last(mix))
        h = self.first(h + functional.dropout(mixed, self.dropout, self.training))
        inner: Tensor = self.second(h + functional.dropout(self.dense(h), self.dropout, self.training))
        return inner


class _Halving(nn.Module):
    """A layer, then half the width."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layer = _Layer(width, heads, feedforward, dropout)
        self.halve = nn.Linear(width, width // 2)

    def forward(self, h: Tensor, seen: Tensor | None) -> Tensor:
        half: Tensor = self.halve(self.layer(h, seen))
        return half


class _ConvHead(nn.Module):
    """Dense layers to a picture of mean and log-variance, smoothed by convolutions."""

    def __init__(self, flat: int, hidden: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 3:
            raise OptionError(f"head='conv' makes pictures (C, H, W), got the shape {shape}. Use head='linear'.")
        self.shape = (2 * shape[0], *shape[1:])
        self.dense = nn.Sequential(nn.Linear(flat, hidden), nn.GELU(), nn.Linear(hidden, math.prod(self.shape)))
        wide = max(16, 2 * self.shape[0])
        self.conv = nn.Sequential(
            nn.Conv2d(self.shape[0], wide, 3, padding=1), nn.GELU(), nn.Conv2d(wide, self.shape[0], 3, padding=1)
        )

    def forward(self, flat: Tensor) -> Tensor:
        picture = self.dense(flat).unflatten(1, self.shape)
        whole: Tensor = picture + self.conv(picture)
        return whole.flatten(1)
