"""A small autoencoder of texts: letters or tokens one-hot to one vector, and back; the target of captioning."""

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError
from rheos.nets.source_encoder import _Layer

__all__ = ["TextAutoencoder"]


@final
class TextAutoencoder(nn.Module):
    """One-hot symbols (B, length, symbols), zero where there is none, to latents (B, latent) of unit mean square.

    Args:
        length: Places.
        symbols: Letters or tokens known.
        latent: Numbers in a latent.
        width: Of a place inside, divisible by `heads`.
        depth: Layers of each half.
        heads: Of every attention.

    Raises:
        OptionError: For sizes out of range.

    Example:
        >>> net = TextAutoencoder(5, 27, latent=16, width=16)
        >>> net.decode(net.encode(torch.zeros(2, 5, 27))).shape
        torch.Size([2, 5, 27])
    """

    def __init__(
        self, length: int, symbols: int, *, latent: int = 64, width: int = 64, depth: int = 1, heads: int = 4
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "length": length, "symbols": symbols, "latent": latent, "width": width, "depth": depth, "heads": heads,
        }  # fmt: skip
        if min(length, symbols, latent, width, heads) < 1 or depth < 0 or width % heads:
            raise OptionError(f"TextAutoencoder needs positive sizes and a width that heads divide, got {self.config}.")
        self.shape, self.latent = (length, symbols), latent
        self.enter, self.leave = nn.Linear(symbols + 1, width), nn.Linear(width, symbols + 1)
        self.place = nn.Parameter(torch.randn(2, length, width) * width**-0.5)
        self.read = nn.ModuleList(_Layer(width, heads, 2 * width, 0.0) for _ in range(depth))
        self.write = nn.ModuleList(_Layer(width, heads, 2 * width, 0.0) for _ in range(depth))
        self.pack, self.unpack = nn.Linear(length * width, latent), nn.Linear(latent, length * width)

    def encode(self, x: Tensor) -> Tensor:
        """Latents of one-hot symbols.

        Raises:
            ShapeError: If a text has another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(f"This autoencoder was made for texts of shape {self.shape}, got {tuple(x.shape[1:])}.")
        h = self.enter(torch.cat((x, 1 - x.sum(2, keepdim=True)), 2)) + self.place[0]
        for layer in self.read:
            h = layer(h, None)
        return functional.layer_norm(self.pack(h.flatten(1)), (self.latent,))

    def logits(self, z: Tensor) -> Tensor:
        """Scores (B, length, symbols + 1); the last symbol is none."""
        h = self.unpack(z).unflatten(1, (self.shape[0], -1)) + self.place[1]
        for layer in self.write:
            h = layer(h, None)
        scores: Tensor = self.leave(h)
        return scores

    def decode(self, z: Tensor) -> Tensor:
        """Probabilities (B, length, symbols) of symbols; what they lack to one is that of none."""
        return self.logits(z).softmax(2)[..., :-1]

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """(B,) cross-entropy of the texts read from latents with noise added, so that neighbours read alike.

        Args:
            x: One-hot symbols.
            noise: Like the latents.
        """
        whole = torch.cat((x, 1 - x.sum(2, keepdim=True)), 2)
        return -(whole * self.logits(self.encode(x) + noise).log_softmax(2)).sum((1, 2))
