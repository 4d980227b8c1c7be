"""A network for a set and the conditions that it carries: where to begin, not where to end."""

from typing import Any

from torch import Tensor

from rheos.core.errors import ConditionError
from rheos.data.dataset import Data
from rheos.data.recipe import EMBEDDING
from rheos.nets import Net, UNet, suggest
from rheos.train.concat import ConcatCondition

__all__ = ["network_for"]

CODES = 4
"""Channels that a semantic map becomes."""


def network_for(data: Data) -> Net:
    """A network that takes what batches carry: labels, an embedding, a map, a hole, or a picture to join.

    Args:
        data: Pictures or vectors.

    Raises:
        ConditionError: For columns that no network is suggested for, such as letters and tokens, or a hole alone.
        ShapeError: For samples that are neither pictures nor vectors.

    Example:
        >>> from rheos.data import load
        >>> sorted(network_for(load("digits", limit=20)).conditions)
        ['label']
    """
    carried = {name: c for name in _carried(data) if isinstance(c := data.columns[name], Tensor)}
    embedding = carried.get(EMBEDDING)
    if embedding is not None and embedding.ndim != 2:
        count, width = (*embedding.shape[1:], 1)[:2]
        raise ConditionError(
            f"The column {EMBEDDING!r} has {tuple(embedding.shape[1:])} numbers a text, and a flow from noise is "
            "suggested for one vector a text: embed=minilm, or emoji. objective=CrossFlow takes letters and tokens as "
            "they are. In Python, call the column 'tokens': embedded(data, embed, name='tokens'), "
            f"conditions=('tokens',), for nets.DiT(..., tokens={count}, token_dim={width})."
        )
    net = suggest(
        data.shape, classes=data.classes if "label" in carried else 0,
        embedding=0 if embedding is None else embedding.shape[1],
    )  # fmt: skip
    if "mask" in carried or "hole" in carried:
        return _beside(net, data, carried)
    if "concat" in carried:
        return _joined(net, carried["concat"].shape[1])
    return net


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
