r"""A second time for a network that has one.

A flow map's network sees where a jump begins and how long it is, s and t - s. The length is embedded like the time, by
a copy of the module that embeds the time, and added to what that one says. The copy's last layer starts at zero, so the
adapted network begins as the one that was given, whatever the length.
"""

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, cast, final

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rheos.core import config
from rheos.core.errors import OptionError
from rheos.nets.attention import Tap
from rheos.nets.blocks import zeroed
from rheos.nets.conditioning import time_features

__all__ = ["TwoTimeAdapter"]


@final
class TwoTimeAdapter(nn.Module):
    """`net(x, t)` as `net(x, s, t)`.

    A network is evaluated by one thread at a time: the length travels beside the call.

    Args:
        net: The network with one time, or its description (`core.config.dump`).
        at: Where it embeds the time: the name of a submodule that maps features of the time to a vector; it is called
            with anything, and the embedded length is added to its output. A network that embeds it in every block has
            a star for the block's number ("blocks.*.time"). None: what the network declares as `embeds_time`, as those
            of `rheos.adapters` do, or "conditioning.time", where our own networks have it.
        features: Sinusoidal features of the length, even; as many as the copied module takes unless given.

    Raises:
        OptionError: If there is no such submodule, or no linear layer in it.

    Example:
        >>> import torch
        >>> from rheos.nets import MLP
        >>> net = TwoTimeAdapter(MLP(2, time_features=8))
        >>> x, s = torch.randn(3, 2), torch.rand(3)
        >>> torch.equal(net(x, s, torch.ones(3)), net.net(x, s))
        True
    """

    def __init__(self, net: nn.Module | Mapping[str, Any], at: str | None = None, features: int | None = None) -> None:
        super().__init__()
        inner = net if isinstance(net, nn.Module) else config.load(dict(net), expect=nn.Module, name="net")
        self.net: nn.Module = inner
        self.at = at if at is not None else _place(inner)
        embedders = _submodules(inner, self.at)
        embedder = embedders[0]
        layers = [m for m in embedder.modules() if isinstance(m, nn.Linear)]
        if not layers:
            raise OptionError(f"{self.at!r} has no linear layer, so it embeds nothing. Name the module that does.")
        self.features = layers[0].in_features if features is None else features
        if self.features < 2 or self.features % 2:
            raise OptionError(
                f"{self.at!r} takes {self.features} numbers, which is no even count of features. Give features=64."
            )
        if self.features == layers[0].in_features:
            self.length: nn.Module = copy.deepcopy(embedder)
            zeroed([m for m in self.length.modules() if isinstance(m, nn.Linear)][-1])
        else:
            width = layers[-1].out_features
            self.length = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), zeroed(nn.Linear(width, width))).to(
                layers[0].weight
            )
        self.conditions: frozenset[str] = frozenset(getattr(inner, "conditions", ()))
        self.kept: frozenset[str] = frozenset(getattr(inner, "kept", ()))
        self.exact_times = bool(getattr(inner, "exact_times", False))
        self._added: Tensor | None = None
        for module in embedders:
            module.register_forward_hook(self._join)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for `core.config`."""
        return {"net": config.dump(self.net), "at": self.at, "features": self.features}

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the adapted network."""
        return tuple(getattr(self.net, "attentions", ()))

    def null(self, name: str, rows: int) -> Tensor:
        """That of the adapted network.

        Raises:
            OptionError: If it has none.
        """
        make = getattr(self.net, "null", None)
        if make is None:
            raise OptionError(f"The adapted network has no null value for {name!r}. Give it a method null(name, rows).")
        return cast(Tensor, make(name, rows))

    def forward(
        self,
        x: Float[Tensor, "b *_d"],
        s: Shaped[Tensor, "*_s"],
        t: Shaped[Tensor, "*_t"],
        *,
        taps: tuple[Tap, ...] = (),
        **cond: Tensor,
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at (x, s) for the jump to t.

        Args:
            x: Rows of states.
            s: Where the jump begins, one time a row.
            t: Where it ends.
            taps: Attention hooks.
            **cond: The network's conditions.
        """
        first = next(self.length.parameters())
        self._added = self.length(time_features(t - s, self.features).to(first.dtype))
        try:
            return cast(Tensor, self.net(x, s, taps=taps, **cond) if taps else self.net(x, s, **cond))
        finally:
            self._added = None

    def _join(self, module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        """The hook on the module that embeds the time."""
        return out if self._added is None else out + self._added.to(out.dtype)


def _place(net: nn.Module) -> str:
    """Where the network says that it embeds the time, or where our own networks do."""
    declared = getattr(net, "embeds_time", None)
    if declared is not None:
        return str(declared)
    for at in ("conditioning.time", "net.conditioning.time"):
        if _found(net, at):
            return at
    raise OptionError(
        f"{type(net).__name__} has no module that embeds the time at 'conditioning.time'. "
        "Build an MLP with time_features=64, or name the module: TwoTimeAdapter(net, at='...')."
    )


def _submodules(net: nn.Module, at: str) -> list[nn.Module]:
    found = _found(net, at)
    if not found:
        parts = ", ".join(name for name, _ in net.named_children())
        raise OptionError(f"{type(net).__name__} has no submodule {at!r}. Its parts: {parts}.")
    return found


def _found(net: nn.Module, at: str) -> list[nn.Module]:
    named = net.named_modules(remove_duplicate=False)
    return list({id(module): module for name, module in named if name and fnmatchcase(name, at)}.values())
