r"""Low-rank adapters (LoRA): a trained network that learns on by matrices of small rank beside its weights.

Every linear and convolutional weight W becomes $W + \frac{\alpha}{r} B A$ with $A$ and $B$ of rank r, and W stands
still; B begins as zero, so the network begins as it was. The layers are those of the package `peft`.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, cast, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rheos.core import config
from rheos.core.errors import OptionError, missing_extra
from rheos.nets.attention import Tap
from rheos.nets.base import Net

__all__ = ["LoRA"]

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
class LoRA(Net):
    r"""A network with adapters; its own weights do not train.

    Args:
        net: The network, which is copied; or its description (`core.config.dump`).
        rank: r, of every adapter.
        alpha: Scale $\alpha$; r, so that the factor is one, unless given.
        targets: Names of the layers that get one, as in `net.named_modules()`; every linear and convolutional layer
            unless given.

    Raises:
        OptionError: If the rank or alpha is not positive, a target is no such layer, or there are none.
        MissingExtraError: If `peft` is not installed.

    Example:
        >>> from rheos.nets import MLP, parameters
        >>> net = LoRA(MLP(2, hidden=64), rank=4)
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad), parameters(MLP(2, hidden=64))
        (1556, 8706)

    Reference: LoRA, Hu et al. (2021), https://arxiv.org/abs/2106.09685
    """

    def __init__(
        self,
        net: nn.Module | Mapping[str, Any],
        rank: int = 4,
        alpha: float | None = None,
        targets: tuple[str, ...] | None = None,
    ) -> None:
        if rank < 1 or (alpha is not None and not alpha > 0):
            raise OptionError(f"rank is at least 1 and alpha positive, got {rank} and {alpha}.")
        inner = (
            copy.deepcopy(net)
            if isinstance(net, nn.Module)
            else cast(nn.Module, config.load(dict(net), expect=nn.Module, name="net"))
        )
        scale = float(rank if alpha is None else alpha)
        names = _layers(inner, targets)
        described = {"net": config.dump(inner), "rank": rank, "alpha": scale, "targets": list(names)}
        super().__init__(described)
        self.rank, self.alpha, self.targets = rank, scale, names
        self.net = _adapted(inner, rank, scale, names)
        self.conditions = frozenset(getattr(inner, "conditions", ()))
        self.kept = frozenset(getattr(inner, "kept", ()))
        self.exact_times = bool(getattr(inner, "exact_times", False))

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the wrapped network."""
        return tuple(getattr(self.net, "attentions", ()))

    def null(self, name: str, rows: int) -> Tensor:
        """That of the wrapped network."""
        return cast(Tensor, self.net.null(name, rows))  # type: ignore[operator]

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The adapted network; see `Net.forward`."""
        given: dict[str, Any] = {**cond, "taps": taps} if taps else dict(cond)
        return cast(Tensor, self.net(x, t, **given))

    def merged(self) -> nn.Module:
        """A copy of the plain network with the adapters added to its weights: it needs no `peft`, and costs no more."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        net = copy.deepcopy(self.net)
        for name, layer in list(net.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent, _, last = name.rpartition(".")
                setattr(net.get_submodule(parent), last, layer.get_base_layer())
        return net


def _layers(net: nn.Module, targets: tuple[str, ...] | None) -> tuple[str, ...]:
    known = tuple(name for name, layer in net.named_modules() if isinstance(layer, ADAPTED) and name)
    if targets is None:
        if not known:
            raise OptionError(f"{type(net).__name__} has no linear or convolutional layer that could be adapted.")
        return known
    wrong = [name for name in targets if name not in known]
    if wrong or not targets:
        what = f"{wrong[0]!r} is none" if wrong else "none was named"
        raise OptionError(f"targets are linear or convolutional layers, {what}; there are: {', '.join(known)}.")
    return tuple(targets)


def _adapted(net: nn.Module, rank: int, alpha: float, names: tuple[str, ...]) -> nn.Module:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("LoRA", "peft", "lora") from error
    with torch.random.fork_rng([]):  # the first matrices are the same in every process and run
        torch.manual_seed(0)
        exactly = "|".join(re.escape(name) for name in names)  # a list would be taken for endings of names
        options = LoraConfig(r=rank, lora_alpha=alpha, target_modules=exactly)  # type: ignore[arg-type]
        return inject_adapter_in_model(options, net)
