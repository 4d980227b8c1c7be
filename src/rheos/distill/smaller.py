"""How a smaller network is made of a large one: the sizes of SlimFlow's students.

Reference: SlimFlow, Zhu, Liu and Liu (2024), https://arxiv.org/abs/2407.12718, section 4 (channels, blocks).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import nn

from rheos.core.errors import OptionError, check_choice
from rheos.nets.count import parameters

__all__ = ["Smaller"]

SIZES: dict[str, tuple[str, str]] = {"UNet": ("width", "blocks"), "MLP": ("hidden", "depth"), "DiT": ("dim", "depth")}
"""Of our own networks, by class: what the width and the depth are called."""


@final
@dataclass(frozen=True)
class Smaller:
    """A smaller network of the same kind, by the large one's own configuration.

    It knows `UNet`, `MLP` and `DiT`, and any network with a method `smaller(how)`, as those of `rheos.adapters` have.

    Args:
        width: Of the layers, as a share of the large network's: channels, hidden units, or heads of a transformer.
        depth: Number of blocks, likewise.
        begin: With random weights, "fresh", or with some of the large network's "blocks", where only the depth shrinks.
        seed: Of the random weights.

    Raises:
        OptionError: For shares outside (0, 1], two shares of 1, or blocks of another width.
        UnknownOptionError: For another beginning.

    Example:
        >>> from rheos.nets import MLP
        >>> Smaller(width=0.25)(MLP(2, hidden=64, depth=3)).config["hidden"]
        16
    """

    width: float = 0.5
    depth: float = 1.0
    begin: Literal["fresh", "blocks"] = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.width <= 1 and 0 < self.depth <= 1) or self.width == self.depth == 1:
            raise OptionError(
                f"width and depth are shares in (0, 1] and not both 1, got {self.width:g} and {self.depth:g}."
            )
        check_choice("begin", self.begin, ("fresh", "blocks"))
        if self.begin == "blocks" and self.width != 1:
            raise OptionError(f"Blocks are taken over at the same width alone, got width {self.width:g}. Give width=1.")

    def __call__(self, net: nn.Module) -> nn.Module:
        """The smaller network; the random numbers of the process stay as they are.

        Args:
            net: The large one.

        Raises:
            OptionError: For a network whose sizes are not known, blocks of one of ours, or nothing that shrinks.
        """
        make = getattr(net, "smaller", None)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            made = self._own(net) if make is None else make(self)
        if parameters(made) >= parameters(net):
            raise OptionError(
                f"width {self.width:g} and depth {self.depth:g} leave {type(net).__name__} as large as it was. Give "
                "smaller shares, or the network itself."
            )
        return made

    def _own(self, net: nn.Module) -> nn.Module:
        config: dict[str, Any] = dict(getattr(net, "config", None) or {})
        width, depth = SIZES.get(type(net).__name__, ("", ""))
        if width not in config or depth not in config:
            raise OptionError(
                f"The sizes of a {type(net).__name__} are not known, so no smaller one can be made of it. Give the "
                "smaller network itself, or the class a method smaller(how)."
            )
        if self.begin == "blocks":
            raise OptionError(f"A {type(net).__name__} hands no blocks on. Take begin='fresh'.")
        step = math.lcm(4, int(config.get("heads", 1)))  # what positions and heads divide
        size = min(config[width], max(step, step * round(config[width] * self.width / step)))
        made: nn.Module = type(net)(**{**config, width: size, depth: max(1, round(config[depth] * self.depth))})
        first = next(net.parameters())
        return made.to(first.device, first.dtype)
