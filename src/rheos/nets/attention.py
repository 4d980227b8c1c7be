r"""The one function through which every attention of every network goes.

$\mathrm{attend}(q, k, v) = \mathrm{softmax}(q k^\top / \sqrt{d} + m)\, v$. Editing methods read or rewrite q, k
and v of a layer, parallel engines append keys that live on another device: both are *taps*, functions given with
the call. No global is set, so two requests in one process never leak into each other.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from rheos.core.errors import ShapeError
from rheos.nets.transforms import transformed

__all__ = ["Inner", "Tap", "attend", "heads_first", "heads_last", "written_out"]

Inner = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The attention inside a tap: q, k, v of shape (B, H, L, D) to (B, H, L, D)."""

Tap = Callable[[str, Tensor, Tensor, Tensor, Inner], Tensor]
"""`tap(name, q, k, v, inner) -> out`: it may call `inner`, with other q, k, v if it likes, or replace it."""


def attend(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m d"],
    *,
    taps: tuple[Tap, ...] = (),
    name: str = "",
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "b h l d"]:
    r"""Attention, wrapped by taps like an onion: the first tap is the outermost.

    Inside `torch.func` transforms and forward-mode differentiation the fused kernels have no derivative, so there
    the written-out formula runs instead (the arithmetic of `SDPBackend.MATH`, without its process-wide switch).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        taps: Functions `tap(name, q, k, v, inner) -> out`.
        name: The layer's name, which taps select by.
        mask: Broadcastable to (b, h, l, m): True where a query may look, or numbers added to the scores.

    Raises:
        ShapeError: If a tap changes the shape of the output, or the number of keys under a mask.

    Example:
        >>> def first_key_only(name, q, k, v, inner):
        ...     return inner(q, k[:, :, :1], v[:, :, :1])
        >>> v = torch.arange(3.0).reshape(1, 1, 3, 1)
        >>> attend(v, v, v, taps=(first_key_only,), name="blocks.0.self").flatten()
        tensor([0., 0., 0.])
    """
    if not taps:
        return _softmax(q, k, v, mask)
    inner: Inner = partial(_softmax, mask=mask)
    for tap in reversed(taps):
        inner = partial(_tapped, tap, name, inner)
    return inner(q, k, v)


def _tapped(tap: Tap, name: str, inner: Inner, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = tap(name, q, k, v, inner)
    if out.shape[:3] != q.shape[:3] or out.shape[3] != v.shape[3]:
        raise ShapeError(
            f"A tap on attention {name!r} returned {tuple(out.shape)} for queries {tuple(q.shape)}. "
            "Return one value a query: (B, heads, queries, width).",
            name=name,
        )
    return out


def _softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and mask.shape[-1] not in (1, k.shape[2]):
        raise ShapeError(
            f"The mask {tuple(mask.shape)} is made for {mask.shape[-1]} keys, but there are {k.shape[2]}. "
            "A tap that adds or drops keys must replace a masked attention as a whole."
        )
    if transformed():
        return written_out(q, k, v, mask)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The formula in three operations, differentiable any number of times and in any mode.

    `taps=(lambda name, q, k, v, inner: written_out(q, k, v),)` makes a network fit for second derivatives by
    `torch.autograd.grad(..., create_graph=True)`, which the fused kernels refuse.

    Args:
        q: (B, H, L, D).
        k: (B, H, M, D).
        v: (B, H, M, D).
        mask: As in `attend`.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights: Tensor = scores.softmax(-1)
    return weights @ v


def heads_first(x: Float[Tensor, "b l w"], heads: int, parts: int) -> tuple[Tensor, ...]:
    """Cut (B, L, parts * H * D) into `parts` tensors of shape (B, H, L, D); views, no copies."""
    rows, length, width = x.shape
    return x.reshape(rows, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def heads_last(x: Float[Tensor, "b h l d"]) -> Float[Tensor, "b l w"]:
    """(B, H, L, D) to (B, L, H * D)."""
    return x.transpose(1, 2).flatten(2)
