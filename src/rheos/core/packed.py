r"""Sets of different sizes in one batch: packed, one after another with offsets, or padded, with a mask.

States have rows first, so a batch of sets is padded: (B, L, C) and a mask (B, L) of the tokens that exist. Sparse
networks want them packed: (sum L_i, C) and offsets. Both ways are here, and the mean that gives each set one weight.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rheos.core.errors import ShapeError

__all__ = ["masked_mean", "pack", "pad"]


def pad(
    tokens: Float[Tensor, "n *c"], offsets: Tensor | Sequence[int]
) -> tuple[Float[Tensor, "b l *c"], Bool[Tensor, "b l"]]:
    """Packed sets, padded with zeros.

    Args:
        tokens: All sets one after another, (sum L_i, ...).
        offsets: Where each begins, and at last the number of tokens: (B + 1,).

    Returns:
        (B, L, ...) with the longest L, and which of its tokens exist.

    Raises:
        ShapeError: For offsets that do not begin at 0, fall, or do not end at the number of tokens.

    Example:
        >>> padded, mask = pad(torch.tensor([[1.0], [2.0], [3.0]]), [0, 1, 3])
        >>> padded[..., 0], mask
        (tensor([[1., 0.],
                [2., 3.]]), tensor([[ True, False],
                [ True,  True]]))
    """
    ends = torch.as_tensor(offsets, dtype=torch.int64, device=tokens.device)
    good = ends.ndim == 1 and len(ends) >= 2 and int(ends[0]) == 0 and int(ends[-1]) == len(tokens)
    if not good or bool((ends.diff() < 0).any()):
        came = ends.tolist() if ends.numel() < 20 else f"{ends.numel()} numbers"
        raise ShapeError(f"offsets rise from 0 to the {len(tokens)} tokens, got {came}.")
    sizes = ends.diff()
    place = torch.arange(int(sizes.max()), device=tokens.device)
    mask = place[None] < sizes[:, None]
    padded = tokens.new_zeros(*mask.shape, *tokens.shape[1:])
    padded[mask] = tokens
    return padded, mask


def pack(padded: Float[Tensor, "b l *c"], mask: Bool[Tensor, "b l"]) -> tuple[Float[Tensor, "n *c"], Tensor]:
    """The inverse of `pad`: the tokens that exist, and offsets (B + 1,).

    Raises:
        ShapeError: If the mask does not fit.

    Example:
        >>> tokens, offsets = pack(*pad(torch.tensor([[1.0], [2.0], [3.0]]), [0, 1, 3]))
        >>> tokens[:, 0], offsets
        (tensor([1., 2., 3.]), tensor([0, 1, 3]))
    """
    _check(padded, mask)
    sizes = mask.sum(1)
    return padded[mask], torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))


def masked_mean(values: Float[Tensor, "b l *c"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b"]:
    """The mean of each row over the tokens that exist and all that is in them; an empty set's is zero.

    Args:
        values: What to average.
        mask: Which tokens exist.

    Raises:
        ShapeError: If the mask does not fit.

    Example:
        >>> masked_mean(torch.tensor([[[2.0], [9.0]]]), torch.tensor([[True, False]]))
        tensor([2.])
    """
    _check(values, mask)
    kept = mask.to(values.dtype)
    each = values.flatten(2).mean(2) if values.ndim > 2 else values
    return (each * kept).sum(1) / kept.sum(1).clamp(min=1.0)


def _check(values: Tensor, mask: Tensor) -> None:
    if mask.shape != values.shape[:2]:
        raise ShapeError(f"A mask of {tuple(mask.shape)} does not mark the tokens of {tuple(values.shape)}.")
