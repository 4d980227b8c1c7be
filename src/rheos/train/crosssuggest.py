"""A field from an encoded source to the targets of a set: where to begin, not where to end."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from rheos.core.errors import ConditionError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.schedules import Linear
from rheos.data.dataset import Data
from rheos.nets import suggest
from rheos.nets.source_encoder import SourceEncoder, TokenEncoder, VectorEncoder
from rheos.nets.source_picture import PictureEncoder, Upsampled
from rheos.nets.tower import PictureTower, Tower, VectorTower
from rheos.train.crossnet import SIGMA_MIN, CrossNet

if TYPE_CHECKING:
    from rheos.train.crossflow import CrossFlow

__all__ = ["cross_for"]

HIDDEN = 256
FLAT = 4096
"""Numbers in a target up to which a tower of dense layers looks at all of them."""


def cross_for(data: Data, objective: "CrossFlow") -> Field:
    """A network with an indicator (where it is trained), an encoder for the source, and what the losses need.

    Vectors and a few letters get dense layers, tokens a small transformer. A picture of the target's channels is
    resized and has noise added if nothing of the encoder is learned (no KL, no contrastive loss); any other picture
    gets convolutions.

    Args:
        data: With the column of the source.
        objective: Says which column, which losses, and whether there is guidance.

    Raises:
        ConditionError: If there is no such column.
    """
    source = data.columns.get(objective.source)
    if not isinstance(source, Tensor):
        raise ConditionError(
            f"CrossFlow flows from the column {objective.source!r}, which these data lack. Captions become one by "
            "data.embed=minilm, emoji or letters:LENGTH; any other column by objective.source=NAME."
        )
    losses = objective.losses
    learned = bool(losses.kl or losses.contrastive)
    net = CrossNet(
        suggest(data.shape, classes=1 if objective.unconditional else 0),
        _encoder(tuple(source.shape[1:]), data.shape, learned, objective.mask_among(data.conditions or ()) is not None),
        tower=_tower(data.shape) if losses.contrastive else None,
        decoder=VectorTower(math.prod(data.shape), source[0].numel(), HIDDEN) if losses.reconstruction else None,
    )
    return Field(net, AffinePath(Linear(SIGMA_MIN)), gaussian=False)


def _encoder(source: tuple[int, ...], shape: tuple[int, ...], learned: bool, masked: bool) -> SourceEncoder:
    if len(source) == 3:
        same = len(shape) == 3 and source[0] == shape[0]
        return Upsampled(shape) if same and not learned else PictureEncoder(source[0], source[1:], shape)
    if len(source) == 2 and (masked or source[0] * source[1] > FLAT):  # tokens; a few letters are a vector
        heads = next(h for h in (8, 4, 2, 1) if source[1] % (2 * h) == 0 or h == 1)
        halvings = 1 - source[1] % 2
        return TokenEncoder(
            source[0], source[1], shape, depth=2, reductions=halvings, heads=heads, feedforward=2 * HIDDEN
        )
    return VectorEncoder(math.prod(source), shape, hidden=HIDDEN)


def _tower(shape: tuple[int, ...]) -> Tower:
    numbers = math.prod(shape)
    if len(shape) == 3 and numbers > FLAT:
        side = next(p for p in (8, 4, 2, 1) if shape[1] % p == 0 and shape[2] % p == 0)
        return PictureTower(shape[0], shape[1:], patch=side)
    return VectorTower(numbers, hidden=HIDDEN)
