"""What can be known to be wrong with a cross-modal training before its first step."""

import warnings

import torch
from torch import Tensor

from rheos.core.errors import OptionError
from rheos.train.crosslosses import SourceLosses
from rheos.train.crossnet import CrossNet

__all__ = ["check_parts", "look"]

FAINT = 0.15
"""Root mean square of features below which a warning says that a factor is missing: T5 has about 0.1, scaled by 10."""


def check_parts(net: CrossNet, losses: SourceLosses, unconditional: float) -> None:
    """Refuse losses without their networks, networks without their losses, and an indicator that is not trained.

    Raises:
        OptionError: Naming both; and where weights are shared out over processes, whose parts only meet in one call.
    """
    if hasattr(net, "set_reshard_after_forward"):
        raise OptionError(
            "parallel='fsdp' gathers weights for one call of a network; a cross-modal step calls encoder, tower and "
            "flow. Use parallel='ddp'."
        )
    for loss, part, weight, there in (
        ("contrastive", "tower", losses.contrastive, net.tower is not None),
        ("reconstruction", "decoder", losses.reconstruction, net.decoder is not None),
    ):
        if bool(weight) != there:
            has = f"a {part}" if there else f"no {part}"
            raise OptionError(
                f"The {loss} loss has the weight {weight}, and the network has {has}. They go together: "
                f"set the weight, or build the network with{'out' if there else ''} a {part}."
            )
    if net.guided != bool(unconditional):
        has = "an indicator" if net.guided else "no indicator"
        raise OptionError(
            f"unconditional={unconditional:g}, and the network has {has}. Guidance needs both: a network with "
            "classes=1, trained with a share of unconditional rows. Without guidance leave out both."
        )


def look(source: Tensor, mask: Tensor | None = None) -> None:
    """Look at some sources.

    Args:
        source: Rows.
        mask: True where a token counts.

    Raises:
        OptionError: If more than one row is given and all are the same.

    Warns:
        RuntimeWarning: If their numbers are much smaller than one.
    """
    if len(source) > 1 and bool((source == source[:1]).all()):
        raise OptionError(
            "All sources are the same, so there is nothing that a flow could depend on. "
            "Check the column, and that captions were not lost."
        )
    if not source.is_floating_point():
        return
    square = source.double().square()
    if mask is not None and source.ndim == 3:
        square = square[mask.bool()]
    size = float(square.mean().sqrt())
    if square.numel() and size < FAINT and not torch.equal(square, square.round()):
        warnings.warn(
            f"The sources' numbers have a root mean square of {size:.2g}, much less than one. Text features usually "
            "need a factor: T5's are multiplied by 10, normalised sentence embeddings by the root of their length "
            "(rheos.data.text does both).",
            RuntimeWarning,
            stacklevel=3,
        )
