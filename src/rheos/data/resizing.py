"""Pictures of another size or colour, whole batches at a time."""

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import interpolate

from rheos.core.errors import DataError

__all__ = ["fit", "recolour", "resize"]

_CHUNK = 1 << 20  # float32 numbers resized at once: 4 MiB, which stays in cache


def fit(height: int, width: int, to: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How a picture covers another shape: the scaled (height, width), then the (top, left) of the centre crop.

    Example:
        >>> fit(40, 80, (10, 10))
        ((10, 20), (0, 5))
    """
    scale = max(to[0] / height, to[1] / width)
    scaled = max(to[0], round(height * scale)), max(to[1], round(width * scale))
    return scaled, ((scaled[0] - to[0]) // 2, (scaled[1] - to[1]) // 2)


def resize(x: Shaped[Tensor, "n c _h _w"], size: int, clamp: tuple[float, float] | None) -> Shaped[Tensor, "n c s s"]:
    """Scale the shorter side to `size` and crop the centre: antialiased bicubic, as Pillow's.

    Computed in float32. uint8 pictures are rounded to the nearest value and clamped to 0..255; floating
    ones are clamped to `clamp`, because a bicubic filter overshoots at edges.

    Args:
        x: uint8 or floating pictures.
        size: New side in pixels.
        clamp: (low, high) of floating pictures.

    Example:
        >>> resize(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8), 4, None).unique()
        tensor([7], dtype=torch.uint8)
    """
    n, c, height, width = x.shape
    if (height, width) == (size, size):
        return x
    scaled, (top, left) = fit(height, width, (size, size))
    out = torch.empty(n, c, size, size, dtype=x.dtype, device=x.device)
    rows = max(1, _CHUNK // (c * max(height * width, scaled[0] * scaled[1])))
    low, high = (0.0, 255.0) if x.dtype == torch.uint8 else clamp or (-torch.inf, torch.inf)
    for start in range(0, n, rows):
        y = interpolate(x[start : start + rows].float(), scaled, mode="bicubic", antialias=True)
        y = y[:, :, top : top + size, left : left + size].clamp(low, high)
        out[start : start + rows] = y.round_() if x.dtype == torch.uint8 else y
    return out


def recolour(x: Shaped[Tensor, "n _c h w"], colour: str) -> Shaped[Tensor, "n _d h w"]:
    """Pictures in "rgb" (grey is repeated) or "grey" (ITU-R 601 luma, rounded).

    Args:
        x: Pictures of 1 or 3 channels.
        colour: "rgb" or "grey".

    Raises:
        DataError: If x has neither 1 nor 3 channels.

    Example:
        >>> recolour(torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1), "grey").item()
        76
    """
    if x.shape[1] not in (1, 3):
        raise DataError(
            f"Only pictures of 1 or 3 channels can change colour, these have {x.shape[1]}; leave colour out."
        )
    if x.shape[1] == (3 if colour == "rgb" else 1):
        return x
    if colour == "rgb":
        return x.repeat(1, 3, 1, 1)
    if x.dtype != torch.uint8:
        return (x * torch.tensor([0.299, 0.587, 0.114], device=x.device).reshape(3, 1, 1)).sum(1, keepdim=True)
    red, green, blue = (x[:, i : i + 1].to(torch.int32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)
