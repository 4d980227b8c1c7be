r"""Pictures against their references: PSNR and SSIM, one figure a picture, with a declared range of values.

The range is never guessed: pictures in [-1, 1] have `data_range=2.0`, in [0, 1] 1.0, bytes 255.0.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import conv2d

from rheos.core.errors import NonFiniteError, OptionError, ShapeError

__all__ = ["psnr", "ssim"]


def psnr(x: Shaped[Tensor, "_b *_d"], reference: Shaped[Tensor, "_b2 *_d2"], data_range: float) -> Float[Tensor, " _b"]:
    r"""Peak signal-to-noise ratio $10\log_{10}(R^2/\mathrm{MSE})$ in dB, a picture each. Larger is better.

    Args:
        x: Pictures (B, ...); bytes are welcome.
        reference: What they should be, of the same shape.
        data_range: R, the width of the range of values: 2.0 for [-1, 1].

    Returns:
        float64 (B,); infinite where a picture equals its reference.

    Raises:
        OptionError: data_range that is not positive, or narrower than the reference's values.
        ShapeError: Shapes that differ.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> psnr(torch.full((1, 1, 4, 4), 0.1), torch.zeros(1, 1, 4, 4), data_range=1.0)
        tensor([20.0000], dtype=torch.float64)

    Reference: Wang et al. (2004), https://doi.org/10.1109/TIP.2003.819861
    """
    x, reference = _pictures(x, reference, data_range)
    error = (x - reference).square().flatten(1).mean(1)
    return 10.0 * torch.log10(data_range**2 / error)


def ssim(
    x: Shaped[Tensor, "_b _c _h _w"],
    reference: Shaped[Tensor, "_b2 _c2 _h2 _w2"],
    data_range: float,
    window: int = 11,
    sigma: float = 1.5,
) -> Float[Tensor, " _b"]:
    r"""Structural similarity, a picture each, in [-1, 1]. Larger is better; 1 only for equal pictures.

    $$\frac{(2\mu_x\mu_y + c_1)(2\sigma_{xy} + c_2)}{(\mu_x^2+\mu_y^2+c_1)(\sigma_x^2+\sigma_y^2+c_2)},
    \quad c_1 = (0.01R)^2,\ c_2 = (0.03R)^2$$

    with Gaussian-weighted moments, averaged over all places where the window fits and over the channels.

    Args:
        x: Pictures (B, C, H, W).
        reference: What they should be, of the same shape.
        data_range: R, the width of the range of values: 2.0 for [-1, 1].
        window: Odd side of the window; at most H and W.
        sigma: Standard deviation of the window in pixels.

    Returns:
        float64 (B,).

    Raises:
        OptionError: data_range not positive or too narrow, an even window, or sigma not positive.
        ShapeError: Shapes that differ, or pictures smaller than the window.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> flat = torch.ones(1, 1, 16, 16)  # constants 1 and 1/2: (1 + c) / (1.25 + c), c = 0.0001
        >>> ssim(flat, flat / 2, data_range=1.0)
        tensor([0.8000], dtype=torch.float64)

    Reference: Wang et al. (2004), https://doi.org/10.1109/TIP.2003.819861, equation 13
    """
    if window < 1 or window % 2 == 0 or not sigma > 0:
        raise OptionError(f"window must be odd and sigma positive, got {window} and {sigma}.")
    x, y = _pictures(x, reference, data_range)
    if x.ndim != 4 or min(x.shape[-2:]) < window:
        raise ShapeError(
            f"ssim with window {window} needs pictures (B, C, H, W) with H, W ≥ {window}, got {tuple(x.shape)}. "
            "Pass a smaller odd window, and say so beside the figure."
        )
    b, c = x.shape[:2]
    moments = torch.stack((x, y, x * x, y * y, x * y)).flatten(0, 2).unsqueeze(1)
    blurred = _blur(moments, window, sigma)
    mx, my, xx, yy, xy = blurred.reshape(5, b, c, *blurred.shape[2:]).unbind(0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    value = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    value = value / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))
    return value.flatten(1).mean(1)


def _blur(x: Tensor, window: int, sigma: float) -> Tensor:
    """A separable Gaussian over (N, 1, H, W), only where it fits."""
    place = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    kernel = (-0.5 * (place / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    blurred: Tensor = conv2d(conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return blurred


def _pictures(x: Tensor, reference: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    if not 0 < data_range < float("inf"):
        raise OptionError(f"data_range must be a positive number, got {data_range}; pictures in [-1, 1] have 2.0.")
    if x.shape != reference.shape or x.ndim < 2 or x.numel() == 0:
        raise ShapeError(
            f"Pictures and references need one shape (B, ...), got {tuple(x.shape)}, {tuple(reference.shape)}."
        )
    x, reference = x.detach().to(torch.float64), reference.detach().to(x.device, torch.float64)
    if not (x.isfinite().all() and reference.isfinite().all()):
        raise NonFiniteError("A picture holds NaN or infinite numbers.")
    low, high = (float(v) for v in reference.aminmax())
    if high - low > data_range * (1 + 1e-6):
        raise OptionError(
            f"The references span {low:.4g} to {high:.4g}, more than data_range={data_range:g}. "
            "Declare the width of the pictures' range: 2.0 for [-1, 1], 1.0 for [0, 1], 255.0 for bytes.",
            data_range=data_range,
        )
    return x, reference
