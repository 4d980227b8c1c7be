"""A reasonable network for a shape of data: where to begin, not where to end."""

from rheos.core.errors import ShapeError
from rheos.nets.base import Net
from rheos.nets.mlp import MLP
from rheos.nets.unet import UNet

__all__ = ["suggest"]


def suggest(shape: tuple[int, ...], classes: int = 0, embedding: int = 0) -> Net:
    """A U-Net for pictures (C, H, W), an MLP for vectors (D,).

    The U-Net has as many levels as the sides can be halved, down to 4 pixels and at most four; the MLP grows with D.

    Args:
        shape: Of one sample.
        classes: Labels, 0 for none.
        embedding: Width of an embedding condition, 0 for none.

    Raises:
        ShapeError: For samples that are neither pictures nor vectors.

    Example:
        >>> suggest((1, 16, 16), classes=10).config["multipliers"]
        [1, 2, 4]
        >>> type(suggest((2,))).__name__
        'MLP'
    """
    if len(shape) == 1:
        hidden = 64 if shape[0] <= 4 else min(512, 128 * -(-shape[0] // 64))
        return MLP(shape[0], hidden=hidden, depth=3, classes=classes, embedding=embedding)
    if len(shape) != 3:
        raise ShapeError(
            f"A network is suggested for pictures (C, H, W) and vectors (D,), got {shape}. Bring your own."
        )
    side, levels = min(shape[1:]), 1
    while levels < 4 and side % 2**levels == 0 and shape[1] % 2**levels == 0 and shape[2] % 2**levels == 0:
        if side // 2**levels < 4:
            break
        levels += 1
    multipliers = (1, 2, 4, 4)[:levels]
    return UNet(shape[0], multipliers=multipliers, classes=classes, embedding=embedding)
