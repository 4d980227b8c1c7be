r"""Pictures as conditions of a flow: what surrounds a hole, and semantic maps, joined to the network's channels.

A hole: the network sees $[x_t,\ E(x \odot (1 - m)),\ 2 m - 1]$ with the mask m (1 in the hole) brought to the size of
$x_t$ by the nearest pixel. A map of K classes: one-hot, halved by averaging until it has the size of $x_t$, and mixed
to a few channels by a 1 x 1 convolution without bias that learns with the flow.

Reference: Flow Matching in Latent Space, Dao et al. (2023), https://arxiv.org/abs/2307.08698, sec. 3.4 and 5.
"""

import copy
from collections.abc import Mapping
from typing import Any, cast, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from rheos.core import config as plain
from rheos.core.errors import ConditionError, OptionError
from rheos.data.palette import NONE
from rheos.nets import Net, UNet
from rheos.nets.attention import Tap

__all__ = ["ConcatCondition", "expand_in_conv"]


@final
class ConcatCondition(Net):
    """A network whose `concat` channels are made of a hole with what surrounds it, of a semantic map, or of both.

    Conditions of a hole are `known` (B, known, h, w), the (latent) picture with the hole filled in black, and `hole`
    (B, 1, H, W), 1 where the picture is hidden. The condition of a map is `mask`, int64 (B, H, W) in 0..maps - 1, and
    255 where there is no class (the number `maps` where there are more classes than 255).

    Args:
        net: The network, or its description; its `concat` has the channels that are made here.
        known: Channels of `known`; 0 for no holes.
        maps: K, classes of the map; 0 for no maps.
        codes: Channels that a map becomes.
        factor: By how much a map is larger than x; a power of two.
        train_rescaler: Whether the 1 x 1 convolution learns; the official code leaves it at random.

    Raises:
        OptionError: If there is neither, or the network's `concat` has another number of channels.

    Example:
        >>> net = ConcatCondition(UNet(4, width=8, multipliers=(1, 2), concat=5), known=4)
        >>> x, hole = torch.zeros(2, 4, 4, 4), torch.ones(2, 1, 32, 32)
        >>> net(x, torch.rand(2), known=x, hole=hole).shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(
        self,
        net: Net | Mapping[str, Any],
        *,
        known: int = 0,
        maps: int = 0,
        codes: int = 4,
        factor: int = 8,
        train_rescaler: bool = True,
    ) -> None:
        inner: Net = net if isinstance(net, Net) else plain.load(dict(net), expect=Net, name="net")
        super().__init__(
            {
                "net": plain.dump(inner),
                "known": known,
                "maps": maps,
                "codes": codes,
                "factor": factor,
                "train_rescaler": train_rescaler,
            }
        )
        made = (known + 1 if known else 0) + (codes if maps else 0)
        if min(known, maps) < 0 or not made or codes < 1 or factor < 1 or factor & (factor - 1):
            raise OptionError(
                f"ConcatCondition needs a hole (known=channels), a map (maps=classes) or both, and a factor that is a "
                f"power of two; got known={known}, maps={maps}, codes={codes}, factor={factor}."
            )
        if inner.config.get("concat") != made:
            raise OptionError(
                f"The network joins {inner.config.get('concat', 0)} channels, but {made} are made here. "
                f"Build it with concat={made}."
            )
        self.net, self.known, self.maps, self.factor = inner, known, maps, factor
        self.none = max(NONE, maps)
        self.rescaler = nn.Conv2d(maps, codes, 1, bias=False) if maps else None
        if self.rescaler is not None:
            self.rescaler.requires_grad_(train_rescaler)
        own = {"known", "hole"} if known else set()
        self.conditions = (inner.conditions - {"concat"}) | own | ({"mask"} if maps else set())

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the wrapped network."""
        return self.net.attentions

    def null(self, name: str, rows: int) -> Tensor:
        """Nothing known and everything hidden, a map without classes; else the wrapped network's."""
        first = next(self.parameters())
        if name == "known" and self.known:
            return torch.zeros(rows, self.known, 1, 1, dtype=first.dtype, device=first.device)
        if name == "hole" and self.known:
            return torch.ones(rows, 1, 1, 1, dtype=first.dtype, device=first.device)
        if name == "mask" and self.maps:
            return torch.full((rows, 1, 1), self.none, dtype=torch.int64, device=first.device)
        if name == "concat":
            raise ConditionError(
                f"Unknown condition 'concat'; this network takes: {', '.join(sorted(self.conditions))}."
            )
        return self.net.null(name, rows)

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at (x, t); see `Net.forward`.

        Raises:
            ConditionError: For unknown, missing or misshapen conditions, or class numbers out of range (looked at
                on a CPU only).
        """
        if cond.keys() != self.conditions:
            self._refuse(cond)
        parts = []
        if self.known:
            parts += self._hole(x, cond.pop("known"), cond.pop("hole"))
        if self.maps:
            parts.append(self._map(x, cond.pop("mask")))
        return self.net(x, t, taps=taps, concat=torch.cat(parts, 1), **cond)  # type: ignore[no-any-return]

    def _refuse(self, cond: Mapping[str, Tensor]) -> None:
        known = f"This network takes: {', '.join(sorted(self.conditions))}."
        if unknown := sorted(cond.keys() - self.conditions):
            raise ConditionError(f"Unknown condition {', '.join(map(repr, unknown))}. {known}")
        missing = sorted(self.conditions - cond.keys())
        raise ConditionError(
            f"Condition {', '.join(missing)} is missing; null({missing[0]!r}, rows) gives one. {known}"
        )

    def _hole(self, x: Tensor, known: Tensor, hole: Tensor) -> list[Tensor]:
        if known.ndim != 4 or known.shape[:2] != (len(x), self.known):
            raise ConditionError(
                f"known must have shape ({len(x)}, {self.known}, height, width), got {tuple(known.shape)}."
            )
        if hole.ndim != 4 or hole.shape[:2] != (len(x), 1):
            raise ConditionError(f"hole must have shape ({len(x)}, 1, height, width), got {tuple(hole.shape)}.")
        small = functional.interpolate(hole.to(x.dtype), x.shape[2:], mode="nearest")
        return [self.stretched(known, x), 2 * small - 1]

    def _map(self, x: Tensor, mask: Tensor) -> Tensor:
        size = (x.shape[2] * self.factor, x.shape[3] * self.factor)
        if mask.ndim != 3 or mask.is_floating_point() or len(mask) != len(x):
            raise ConditionError(
                f"mask must be whole numbers of shape ({len(x)}, {size[0]}, {size[1]}), got {mask.dtype} "
                f"{tuple(mask.shape)}."
            )
        if mask.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = ((mask < 0) | (mask >= self.maps)) & (mask != self.none)
            if bool(wrong.any()):
                raise ConditionError(
                    f"mask must lie in 0 .. {self.maps - 1} ({self.none} for none), got {int(mask[wrong][0])}."
                )
        if tuple(mask.shape[1:]) == (1, 1):
            mask = mask.expand(-1, *size)
        if tuple(mask.shape[1:]) != size:
            raise ConditionError(
                f"mask must be {self.factor} times as large as x, {size[0]} x {size[1]}, got {mask.shape[1]} x "
                f"{mask.shape[2]}."
            )
        rescaler = cast(nn.Conv2d, self.rescaler)
        kinds = torch.arange(self.maps, device=mask.device).reshape(-1, 1, 1)
        hot = (mask[:, None] == kinds).to(x.dtype)  # the number `none` is in no class
        return rescaler(functional.avg_pool2d(hot, self.factor))  # type: ignore[no-any-return]


def expand_in_conv(net: nn.Module, extra: int) -> nn.Module:
    """A copy of a network that joins further channels to its input, with zero weights: at first it ignores them.

    Args:
        net: A `nets.UNet`, or any module whose first convolution is called `conv_in`, as in diffusers. Left alone.
        extra: Channels that are added.

    Raises:
        OptionError: If there is no such convolution, or `extra` is not positive.

    Example:
        >>> grown = expand_in_conv(UNet(4, width=8, multipliers=(1, 2)), 5)
        >>> sorted(grown.conditions), grown.enter.weight[:, 4:].abs().max().item()
        (['concat'], 0.0)
    """
    if extra < 1:
        raise OptionError(f"extra must be at least 1, got {extra}.")
    if isinstance(net, UNet):
        first = next(net.parameters())
        new = UNet(**{**net.config, "concat": net.config["concat"] + extra}).to(first.device, first.dtype)
        new.load_state_dict({**net.state_dict(), "enter.weight": _widened(net.enter, extra).weight.detach()})
        return new.train(net.training)
    first_conv = getattr(net, "conv_in", None)
    if not isinstance(first_conv, nn.Conv2d):
        raise OptionError(
            f"expand_in_conv needs a nets.UNet or a convolution conv_in; {type(net).__name__} has neither."
        )
    other = copy.deepcopy(net)
    cast(Any, other).conv_in = _widened(first_conv, extra)
    register = getattr(other, "register_to_config", None)
    if register is not None:
        register(in_channels=first_conv.in_channels + extra)
    return other


def _widened(conv: nn.Conv2d, extra: int) -> nn.Conv2d:
    new = copy.deepcopy(conv)
    w = conv.weight.detach()
    new.in_channels = conv.in_channels + extra
    new.weight = nn.Parameter(torch.cat((w, w.new_zeros(len(w), extra, *w.shape[2:])), 1))
    return new
