r"""Captions as tokens of a flow from noise: what the network's cross-attention looks at.

Token l of a text becomes $[e_l,\ \phi(l),\ 1]$: its features, where it stands, and that it is there; a place without a
token is zeros, and so is every place of null. So letters keep their order, and padding is told from text.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rheos.core import config as plain
from rheos.core.errors import ConditionError, OptionError
from rheos.data.recipe import EMBEDDING
from rheos.nets import Net
from rheos.nets.attention import Tap
from rheos.nets.conditioning import time_features

__all__ = ["TokenCondition"]

MASK = f"{EMBEDDING}_mask"
PLACES = 16
"""Numbers that say where a token stands."""


@final
class TokenCondition(Net):
    """A network whose `tokens` are made of a column of embedded captions, `embedding` (B, L, D).

    Args:
        net: A network that takes `tokens`, such as a `nets.DiT`, or its description; its `token_dim` has `extra()`
            numbers more than a token of the column.
        masked: Whether there is a column `embedding_mask` (B, L), true where there is a token; else a token of zeros
            is none.

    Raises:
        OptionError: If the network takes no tokens, or too narrow ones.

    Example:
        >>> from rheos.nets import DiT
        >>> inner = DiT(1, 8, dim=16, depth=1, tokens=5, token_dim=27 + TokenCondition.extra())
        >>> net = TokenCondition(inner)
        >>> net(torch.zeros(2, 1, 8, 8), torch.rand(2), embedding=torch.zeros(2, 5, 27)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, net: Net | Mapping[str, Any], *, masked: bool = False) -> None:
        inner: Net = net if isinstance(net, Net) else plain.load(dict(net), expect=Net, name="net")
        super().__init__({"net": plain.dump(inner), "masked": masked})
        self.tokens = int(inner.config.get("tokens") or 0)
        self.width = int(inner.config.get("token_dim") or 0) - self.extra()
        if self.tokens < 1 or self.width < 1:
            raise OptionError(
                f"TokenCondition needs a network that takes tokens of more than {self.extra()} numbers, got tokens="
                f"{self.tokens}, token_dim={self.width + self.extra()}. Build it with tokens=L, token_dim=D + "
                f"{self.extra()} for L tokens of D numbers."
            )
        if EMBEDDING in inner.conditions:
            raise OptionError(f"The network takes {EMBEDDING!r} as a vector already. Build it with embedding=0.")
        self.net, self.masked = inner, masked
        places = time_features(torch.linspace(0, 1, self.tokens), PLACES, fastest=float(max(2, self.tokens)))
        self.register_buffer("places", places, persistent=False)
        self.conditions = (inner.conditions - {"tokens"}) | {EMBEDDING} | ({MASK} if masked else set())

    @staticmethod
    def extra() -> int:
        """Numbers that are put beside those of a token: its place, and that it is there."""
        return PLACES + 1

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the wrapped network."""
        return self.net.attentions

    def null(self, name: str, rows: int) -> Tensor:
        """No token at all; else the wrapped network's."""
        first = next(self.parameters())
        if name == EMBEDDING:
            return torch.zeros(rows, self.tokens, self.width, dtype=first.dtype, device=first.device)
        if name == MASK and self.masked:
            return torch.zeros(rows, self.tokens, dtype=torch.bool, device=first.device)
        if name == "tokens":
            raise ConditionError(f"Unknown condition 'tokens'. {self._known()}")
        return self.net.null(name, rows)

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at (x, t); see `Net.forward`.

        Raises:
            ConditionError: For unknown, missing or misshapen conditions.
        """
        if unknown := sorted(cond.keys() - self.conditions):
            raise ConditionError(f"Unknown condition {', '.join(map(repr, unknown))}. {self._known()}")
        if missing := sorted(self.conditions - cond.keys()):
            raise ConditionError(
                f"Condition {', '.join(missing)} is missing; null({missing[0]!r}, rows) gives one. {self._known()}"
            )
        tokens = self._made(x, cond.pop(EMBEDDING), cond.pop(MASK, None))
        return self.net(x, t, taps=taps, tokens=tokens, **cond)  # type: ignore[no-any-return]

    def _made(self, x: Tensor, embedding: Tensor, mask: Tensor | None) -> Tensor:
        wanted = (len(x), self.tokens, self.width)
        if tuple(embedding.shape) != wanted or not embedding.is_floating_point():
            raise ConditionError(
                f"{EMBEDDING} must be float of shape {wanted}, got {embedding.dtype} {tuple(embedding.shape)}."
            )
        if mask is not None and (tuple(mask.shape) != wanted[:2] or mask.dtype != torch.bool):
            raise ConditionError(f"{MASK} must be bool of shape {wanted[:2]}, got {mask.dtype} {tuple(mask.shape)}.")
        there = ((embedding != 0).any(2) if mask is None else mask)[..., None].to(x.dtype)
        places = self.get_buffer("places").to(x.dtype).expand(len(x), -1, -1)
        told = torch.cat((embedding.to(x.dtype), places, torch.ones_like(there)), 2)
        return torch.where(there > 0, told, torch.zeros_like(told))  # what stands where no token is may be anything

    def _known(self) -> str:
        return f"This network takes: {', '.join(sorted(self.conditions))}."
