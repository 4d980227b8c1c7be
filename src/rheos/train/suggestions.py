"""A network for a set and the conditions that it carries: where to begin, not where to end."""

import math
from typing import Any

from torch import Tensor

from rheos.core.errors import ConditionError
from rheos.data.dataset import Data
from rheos.data.recipe import EMBEDDING
from rheos.nets import DiT, Net, UNet, suggest
from rheos.train.concat import ConcatCondition
from rheos.train.tokens import TokenCondition

__all__ = ["network_for"]

CODES = 4
"""Channels that a semantic map becomes."""
PATCH = 16
"""Largest side of a transformer's patches."""
PATCHES = 64
"""How many of them a picture should have."""
MOST = 1024
"""How many it may have."""


def network_for(data: Data) -> Net:
    """A network that takes what batches carry: labels, an embedding, tokens, a map, a hole, or a picture to join.

    Args:
        data: Pictures or vectors.

    Raises:
        ConditionError: For columns that no network is suggested for, such as a hole alone, or tokens beside a map.
        ShapeError: For samples that are neither pictures nor vectors.

    Example:
        >>> from rheos.data import load
        >>> sorted(network_for(load("digits", limit=20)).conditions)
        ['label']
    """
    carried = {name: c for name in _carried(data) if isinstance(c := data.columns[name], Tensor)}
    embedding = carried.get(EMBEDDING)
    if embedding is not None and embedding.ndim != 2:
        return _looking(data, carried, embedding)
    net = suggest(
        data.shape, classes=data.classes if "label" in carried else 0,
        embedding=0 if embedding is None else embedding.shape[1],
    )  # fmt: skip
    if "mask" in carried or "hole" in carried:
        return _beside(net, data, carried)
    if "concat" in carried:
        return _joined(net, carried["concat"].shape[1])
    return net


def _looking(data: Data, carried: dict[str, Tensor], tokens: Tensor) -> TokenCondition:
    """A transformer of patches that looks at letters or tokens."""
    if tokens.ndim != 3:
        raise ConditionError(
            f"The column {EMBEDDING!r} has {tuple(tokens.shape[1:])} numbers a text; a network is suggested for a "
            "vector or for tokens (L, D)."
        )
    if len(data.shape) != 3:
        raise ConditionError(
            f"Letters and tokens are looked at by a transformer for pictures; these samples have shape {data.shape}. "
            "Embed each text as one vector: data.embed=minilm."
        )
    if others := carried.keys() - {"label", EMBEDDING, f"{EMBEDDING}_mask"}:
        raise ConditionError(
            f"No network is suggested for tokens of captions beside {', '.join(sorted(others))}. Embed each text as "
            "one vector (data.embed=minilm), or say by data.conditions= what batches carry."
        )
    length, width = tokens.shape[1:]
    net = DiT(
        data.shape[0], data.shape[1:], patch=_patch(data.shape[1], data.shape[2]), tokens=length,
        classes=data.classes if "label" in carried else 0, token_dim=width + TokenCondition.extra(),
    )  # fmt: skip
    return TokenCondition(net, masked=f"{EMBEDDING}_mask" in carried)


def _patch(height: int, width: int) -> int:
    """The side of patches of which there are as nearly as can be `PATCHES`."""
    counts = {p: height * width // p**2 for p in range(1, PATCH + 1) if height % p == 0 and width % p == 0}
    few = {p: count for p, count in counts.items() if count <= MOST}
    if not few:
        raise ConditionError(
            f"Pictures of {height} x {width} cannot be cut into at most {MOST} square patches of up to {PATCH} pixels. "
            "Load them in another size, such as --size 64, or learn latents of them (data.codec)."
        )
    return min(few, key=lambda p: abs(math.log(few[p] / PATCHES)))


def _carried(data: Data) -> tuple[str, ...]:
    return data.conditions if data.conditions is not None else ("label",) * (data.classes > 0)


def _beside(net: Net, data: Data, carried: dict[str, Tensor]) -> Net:
    """The network with a map, a hole and what surrounds it, or both, joined to its input."""
    options: dict[str, Any] = {}
    extra = 0
    if "mask" in carried:
        masks = carried["mask"]
        options["maps"], options["codes"] = max(1, data.mask_classes), CODES
        options["factor"] = max(1, masks.shape[-1] // data.shape[-1])
        extra += CODES
    if "hole" in carried:
        if "known" not in carried:
            raise ConditionError(
                "Batches carry 'hole', but not 'known', the picture around it. Load the data with both in "
                "conditions=, or make both: train.inpainting(data)."
            )
        options["known"] = carried["known"].shape[1]
        extra += options["known"] + 1
    return ConcatCondition(_joined(net, extra), **options)


def _joined(net: Net, channels: int) -> UNet:
    if not isinstance(net, UNet):
        raise ConditionError("A map, a hole or a picture is joined to pictures; these samples are vectors.")
    return UNet(**{**net.config, "concat": channels})
